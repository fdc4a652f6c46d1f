//! Whatever a caller writes into a config: no panic, and nothing that leads out of where it should be.

use std::path::{Component, Path};

use clone8s::cri;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{container, staging};

/// Words that look like what belongs there, and words that do not.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("/".to_owned()),
        Just("/data".to_owned()),
        Just("..".to_owned()),
        Just("/data/../../etc/passwd".to_owned()),
        Just("a/./b//c".to_owned()),
        Just("/proc/self/root".to_owned()),
        Just("localhost/../../etc/passwd".to_owned()),
        Just("ALL".to_owned()),
        Just("CAP_KILL".to_owned()),
        Just("0-3,5".to_owned()),
        Just("2MB".to_owned()),
        Just("memory.high".to_owned()),
        Just("ro".to_owned()),
        "[/.a-z\\x00=\u{e4}]{0,12}",
        any::<String>(),
    ]
}

fn mappings() -> impl Strategy<Value = Vec<cri::IdMapping>> {
    let mapping = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(host_id, container_id, length)| {
        cri::IdMapping {
            host_id,
            container_id,
            length,
        }
    });
    vec(mapping, 0..3)
}

prop_compose! {
    fn mount()(
        container_path in text(),
        host_path in text(),
        readonly in any::<bool>(),
        recursive_read_only in any::<bool>(),
        propagation in -1..5i32,
        uid_mappings in mappings(),
        gid_mappings in mappings(),
        image in proptest::option::of(text()),
        image_sub_path in text(),
        mount_options in vec(text(), 0..3),
    ) -> cri::Mount {
        cri::Mount {
            container_path,
            host_path,
            readonly,
            recursive_read_only,
            propagation,
            uid_mappings,
            gid_mappings,
            image: image.map(|image| cri::ImageSpec { image, ..Default::default() }),
            image_sub_path,
            mount_options,
            ..Default::default()
        }
    }
}

prop_compose! {
    fn limits()(
        numbers in [any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>()],
        cpuset_cpus in text(),
        cpuset_mems in text(),
        page_size in text(),
        limit in any::<u64>(),
        key in text(),
        value in text(),
    ) -> cri::LinuxContainerResources {
        let [cpu_period, cpu_quota, cpu_shares, memory, swap, oom_score_adj] = numbers;
        cri::LinuxContainerResources {
            cpu_period,
            cpu_quota,
            cpu_shares,
            memory_limit_in_bytes: memory,
            memory_swap_limit_in_bytes: swap,
            oom_score_adj,
            cpuset_cpus,
            cpuset_mems,
            hugepage_limits: vec![cri::HugepageLimit { page_size, limit }],
            unified: [(key, value)].into(),
        }
    }
}

prop_compose! {
    fn security()(
        names in [vec(text(), 0..3), vec(text(), 0..3), vec(text(), 0..3)],
        privileged in any::<bool>(),
        pid in -1..6i32,
        masked_paths in vec(text(), 0..3),
        readonly_paths in vec(text(), 0..3),
        seccomp in proptest::option::of((-1..5i32, text())),
        apparmor in proptest::option::of((-1..5i32, text())),
    ) -> cri::LinuxContainerSecurityContext {
        let [add_capabilities, drop_capabilities, add_ambient_capabilities] = names;
        let profile = |(profile_type, localhost_ref)| cri::SecurityProfile { profile_type, localhost_ref };
        cri::LinuxContainerSecurityContext {
            capabilities: Some(cri::Capability {
                add_capabilities,
                drop_capabilities,
                add_ambient_capabilities,
            }),
            privileged,
            namespace_options: Some(cri::NamespaceOption { pid, ..Default::default() }),
            masked_paths,
            readonly_paths,
            seccomp: seccomp.map(profile),
            apparmor: apparmor.map(profile),
            ..Default::default()
        }
    }
}

prop_compose! {
    fn config()(
        words in [text(), text(), text(), text()],
        command in vec(text(), 0..3),
        args in vec(text(), 0..3),
        envs in vec((text(), vec(any::<u8>(), 0..6)), 0..3),
        mounts in vec(mount(), 0..4),
        resources in limits(),
        security_context in security(),
        has_linux in any::<bool>(),
    ) -> cri::ContainerConfig {
        let [name, image, working_dir, log_path] = words;
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name, attempt: 0 }),
            image: Some(cri::ImageSpec { image, ..Default::default() }),
            command,
            args,
            envs: envs
                .into_iter()
                .map(|(key, value)| cri::KeyValue { key, value: value.into() })
                .collect(),
            working_dir,
            mounts,
            log_path,
            linux: has_linux.then_some(cri::LinuxContainerConfig {
                resources: Some(resources),
                security_context: Some(security_context),
            }),
            ..Default::default()
        }
    }
}

/// Makes a good config of a bad one by mending what is refused, so that what lies behind it is tried as well.
fn mended(mut config: cri::ContainerConfig, choice: u8) -> cri::ContainerConfig {
    if choice & 1 != 0 {
        config.metadata = Some(cri::ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        });
        config.image.get_or_insert_default().image = "i".into();
        config.working_dir = "/".into();
        config.log_path = "c.log".into();
        config.command = vec!["/c".into()];
        config.envs.clear();
    }
    if choice & 2 != 0
        && let Some(linux) = &mut config.linux
    {
        linux.resources = None;
        linux.security_context = None;
    }
    config
}

fn stays_inside(path: &str) -> bool {
    path.starts_with('/')
        && !Path::new(path)
            .components()
            .any(|part| part == Component::ParentDir)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_config_becomes_a_spec_that_stays_inside_or_an_error_that_names_a_field(
        config in config(),
        choice in 0..4u8,
    ) {
        let config = mended(config, choice);
        let sandbox = cri::PodSandboxConfig::default();
        let made = container::check(&config, &sandbox)
            .and_then(|()| check_mounts(&config))
            .and_then(|()| staging::plan(&config))
            .and_then(|staged| {
                for staged in staged {
                    if let staging::Staged::Image { sub_path, .. } = staged {
                        assert!(!sub_path.is_absolute());
                        assert!(!sub_path.components().any(|part| part == Component::ParentDir));
                    }
                }
                super::tests::spec_of(&config)
            });
        match made {
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.starts_with("config."), "{text}");
                prop_assert!(
                    matches!(error, Error::Invalid { .. } | Error::Unmet { .. }),
                    "{error:?}"
                );
            }
            Ok(spec) => {
                for mount in &spec.mounts {
                    prop_assert!(stays_inside(&mount.destination), "{mount:?}");
                    prop_assert!(mount.destination != "/", "{mount:?}");
                }
                for path in spec.linux.masked_paths.iter().chain(&spec.linux.readonly_paths) {
                    prop_assert!(stays_inside(path), "{path}");
                }
                prop_assert!(stays_inside(&spec.process.cwd), "{}", spec.process.cwd);
                let words = spec.process.args.iter().chain(&spec.process.env);
                prop_assert!(words.clone().all(|word| !word.contains('\0')), "{words:?}");
                prop_assert!(!spec.process.args.is_empty());
                for file in spec.linux.resources.unified.keys() {
                    prop_assert!(!file.contains('/'), "{file}");
                }
                serde_json::to_vec(&spec).expect("it is JSON");
            }
        }
    }
}
