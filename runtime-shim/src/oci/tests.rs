//! What of a config becomes what of a spec.

use std::collections::BTreeMap;

use clone8s::cri::{MountPropagation, SecurityProfile, security_profile::ProfileType};
use rstest::rstest;
use serde_json::json;

use super::*;

struct Case {
    sandbox: cri::PodSandboxConfig,
    container: cri::ContainerConfig,
    image: RunConfig,
    user: ResolvedUser,
    wanted: Wanted,
    host: Host,
    devices: Vec<GrantedDevice>,
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A container that asks for nothing, on a host that allows everything.
fn plain() -> Case {
    Case {
        sandbox: cri::PodSandboxConfig::default(),
        container: cri::ContainerConfig::default(),
        image: RunConfig {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["arg"]),
            ..Default::default()
        },
        user: ResolvedUser {
            home: "/root".into(),
            ..Default::default()
        },
        wanted: Wanted {
            net: true,
            ipc: true,
            user: false,
        },
        host: Host {
            cgroup_v2: false,
            capabilities: known_capabilities(u64::MAX),
            oom_score_adj_floor: -1000,
            hugetlb: true,
            swap: true,
            apparmor: false,
            selinux: false,
        },
        devices: Vec::new(),
    }
}

fn fuse(path: &str, access: &str) -> GrantedDevice {
    GrantedDevice {
        device: HostDevice {
            path: "/dev/fuse".into(),
            kind: 'c',
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
        },
        path: path.into(),
        access: access.into(),
    }
}

impl Case {
    fn spec(&self) -> Result<Spec> {
        check_mounts(&self.container)?;
        let file = |name: &str| PathBuf::from("/s").join(name);
        spec(&Inputs {
            sandbox_id: "sandbox-1",
            sandbox: &self.sandbox,
            container: &self.container,
            image: &self.image,
            user: self.user.clone(),
            wanted: self.wanted,
            hostname: "web".into(),
            mappings: None,
            target: Some("/target/pid".into()),
            sources: self
                .container
                .mounts
                .iter()
                .map(|mount| mount.host_path.clone())
                .collect(),
            files: SandboxFiles {
                net: file("net"),
                ipc: file("ipc"),
                uts: file("uts"),
                pid: file("pid"),
                user: file("user"),
                shm: file("shm"),
                hosts: file("hosts"),
                hostname: file("hostname"),
                resolv_conf: file("resolv.conf"),
            },
            devices: self.devices.clone(),
            edits: Edits::default(),
            apparmor_profiles: None,
            cgroup: "/pods/c1".into(),
            host: &self.host,
        })
    }

    fn security(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        self.container
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default()
    }

    fn limits(&mut self) -> &mut cri::LinuxContainerResources {
        self.container
            .linux
            .get_or_insert_default()
            .resources
            .get_or_insert_default()
    }

    fn mount(&self, destination: &str) -> types::Mount {
        let spec = self.spec().unwrap();
        spec.mounts
            .into_iter()
            .find(|mount| mount.destination == destination)
            .unwrap()
    }
}

/// The spec of a config on a host that allows everything.
pub(super) fn spec_of(config: &cri::ContainerConfig) -> Result<Spec> {
    let mut case = plain();
    case.host.cgroup_v2 = true;
    case.container = config.clone();
    case.spec()
}

#[rstest]
#[case::of_the_image(&[], &[], &["/entry", "arg"])]
#[case::with_other_arguments(&[], &["x"], &["/entry", "x"])]
#[case::with_another_command(&["/sh"], &[], &["/sh"])]
#[case::with_both(&["/sh"], &["x"], &["/sh", "x"])]
fn the_command_line_is(#[case] command: &[&str], #[case] args: &[&str], #[case] expected: &[&str]) {
    let mut case = plain();
    case.container.command = strings(command);
    case.container.args = strings(args);
    assert_eq!(case.spec().unwrap().process.args, strings(expected));
}

#[test]
fn without_any_command_the_container_is_refused() {
    let mut case = plain();
    case.image = RunConfig::default();
    assert!(case.spec().unwrap_err().to_string().contains("config.command"));
}

#[test]
fn variables_of_the_container_come_in_place_of_the_images() {
    let mut case = plain();
    case.image.env = strings(&["PATH=/bin", "A=image", "B=image"]);
    let variable = |key: &str, value: &'static [u8]| cri::KeyValue {
        key: key.into(),
        value: value.into(),
    };
    case.container.envs = vec![
        variable("A", b"container"),
        variable("EMPTY", b""),
        variable("EQ", b"x=y"),
    ];
    let expected = [
        "PATH=/bin",
        "HOSTNAME=web",
        "A=container",
        "B=image",
        "EMPTY=",
        "EQ=x=y",
        "HOME=/root",
    ];
    assert_eq!(case.spec().unwrap().process.env, expected);
    for bad in ["", "A=B"] {
        case.container.envs = vec![variable(bad, b"")];
        assert!(case.spec().is_err(), "{bad:?}");
    }
}

#[rstest]
#[case("", "", "/")]
#[case("", "/app", "/app")]
#[case("/work", "/app", "/work")]
fn the_working_folder_is(#[case] container: &str, #[case] image: &str, #[case] expected: &str) {
    let mut case = plain();
    case.container.working_dir = container.into();
    case.image.working_dir = image.into();
    assert_eq!(case.spec().unwrap().process.cwd, expected);
}

#[test]
fn a_container_that_says_nothing_joins_all_namespaces_of_its_sandbox() {
    let spec = plain().spec().unwrap();
    let namespaces = serde_json::to_value(&spec.linux.namespaces).unwrap();
    let expected = json!([
        {"type": "mount"},
        {"type": "pid", "path": "/s/pid"},
        {"type": "network", "path": "/s/net"},
        {"type": "uts", "path": "/s/uts"},
        {"type": "ipc", "path": "/s/ipc"},
    ]);
    assert_eq!(namespaces, expected);
    assert_eq!(spec.annotations[SANDBOX_ID], "sandbox-1");
}

#[test]
fn on_the_host_network_there_is_no_network_namespace() {
    let mut case = plain();
    case.wanted = Wanted {
        net: false,
        ipc: false,
        user: false,
    };
    let spec = case.spec().unwrap();
    let kinds: Vec<_> = spec
        .linux
        .namespaces
        .iter()
        .map(|namespace| namespace.kind.as_str())
        .collect();
    assert_eq!(kinds, ["mount", "pid"]);
    assert_eq!(case.mount("/sys").kind, "sysfs");
    assert_eq!(case.mount("/dev/shm").source, "/dev/shm");
    assert!(spec.process.env.contains(&"HOSTNAME=web".into()));
}

#[rstest]
#[case::nothing(false, false, "sysfs")]
#[case::a_network(true, false, "sysfs")]
#[case::a_network_and_users(true, true, "sysfs")]
#[case::users_who_may_not_mount_it_for_the_nodes_network(false, true, "bind")]
fn sys_is_mounted_anew_with_an_own(#[case] net: bool, #[case] user: bool, #[case] expected: &str) {
    let mut case = plain();
    case.wanted = Wanted {
        net,
        ipc: false,
        user,
    };
    assert_eq!(case.mount("/sys").kind, expected);
}

#[rstest]
#[case::own(NamespaceMode::Container, json!([{"type": "pid"}]))]
#[case::the_hosts(NamespaceMode::Node, json!([]))]
#[case::the_pods(NamespaceMode::Pod, json!([{"type": "pid", "path": "/s/pid"}]))]
#[case::anothers(NamespaceMode::Target, json!([{"type": "pid", "path": "/target/pid"}]))]
fn the_process_namespace_is(#[case] mode: NamespaceMode, #[case] expected: serde_json::Value) {
    let mut case = plain();
    case.security().namespace_options = Some(cri::NamespaceOption {
        pid: mode.into(),
        ..Default::default()
    });
    let mut namespaces = case.spec().unwrap().linux.namespaces;
    namespaces.retain(|namespace| namespace.kind == "pid");
    assert_eq!(serde_json::to_value(namespaces).unwrap(), expected);
}

#[test]
fn capabilities_are_the_usual_ones_plus_and_minus_those_named() {
    let mut case = plain();
    let bounding = |case: &Case| case.spec().unwrap().process.capabilities.bounding;
    assert_eq!(bounding(&case).len(), 14);
    case.security().capabilities = Some(cri::Capability {
        add_capabilities: strings(&["net_admin", "CAP_SYS_TIME"]),
        drop_capabilities: strings(&["KILL"]),
        ..Default::default()
    });
    let set = bounding(&case);
    assert!(set.contains(&"CAP_NET_ADMIN".into()) && set.contains(&"CAP_SYS_TIME".into()));
    assert!(!set.contains(&"CAP_KILL".into()));
    case.security().capabilities = Some(cri::Capability {
        add_capabilities: strings(&["NET_BIND_SERVICE"]),
        drop_capabilities: strings(&["ALL"]),
        ..Default::default()
    });
    assert_eq!(bounding(&case), ["CAP_NET_BIND_SERVICE"]);
    let process = case.spec().unwrap().process;
    assert!(process.capabilities.inheritable.is_empty() && process.capabilities.ambient.is_empty());
}

#[test]
fn a_capability_that_the_runtime_has_not_is_refused_by_name_but_left_out_of_all() {
    let mut case = plain();
    case.host.capabilities.remove("CAP_SYS_RESOURCE");
    case.security().capabilities = Some(cri::Capability {
        add_capabilities: strings(&["SYS_RESOURCE"]),
        ..Default::default()
    });
    assert!(
        case.spec()
            .unwrap_err()
            .to_string()
            .contains("CAP_SYS_RESOURCE cannot be given")
    );
    case.security().capabilities = Some(cri::Capability {
        add_capabilities: strings(&["ALL"]),
        ..Default::default()
    });
    assert_eq!(case.spec().unwrap().process.capabilities.bounding.len(), 40);
    case.security().capabilities = Some(cri::Capability {
        add_capabilities: strings(&["FLY"]),
        ..Default::default()
    });
    assert!(
        case.spec()
            .unwrap_err()
            .to_string()
            .contains("\"FLY\" is no capability")
    );
}

#[test]
fn a_privileged_container_has_every_capability_and_device_and_hides_nothing() {
    let mut case = plain();
    case.security().privileged = true;
    case.security().seccomp = Some(SecurityProfile::default());
    case.devices = vec![fuse("/dev/fuse", "rwm")];
    let spec = case.spec().unwrap();
    assert_eq!(spec.process.capabilities.bounding.len(), 41);
    assert_eq!(spec.linux.devices.len(), 1);
    assert_eq!(spec.linux.resources.devices, [DeviceRule::all(true)]);
    assert!(spec.linux.masked_paths.is_empty() && spec.linux.readonly_paths.is_empty());
    assert_eq!(spec.linux.seccomp, None);
    assert!(case.mount("/sys").options.contains(&"rw".into()));
}

#[test]
fn a_device_is_made_and_allowed_as_asked() {
    let mut case = plain();
    case.devices = vec![fuse("/dev/inside", "rw")];
    let linux = case.spec().unwrap().linux;
    assert_eq!(linux.devices[0].path, Path::new("/dev/inside"));
    let rules = serde_json::to_value(&linux.resources.devices).unwrap();
    let allowed = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
    assert_eq!(rules, json!([{"allow": false, "access": "rwm"}, allowed]));
}

#[test]
fn mounts_are_bound_with_access_and_propagation_parents_first() {
    let mut case = plain();
    let mount = |container_path: &str, readonly: bool, propagation: MountPropagation| cri::Mount {
        container_path: container_path.into(),
        host_path: "/srv".into(),
        readonly,
        propagation: propagation.into(),
        ..Default::default()
    };
    case.container.mounts = vec![
        mount("/data/inner", false, MountPropagation::PropagationBidirectional),
        mount("/data/", true, MountPropagation::PropagationPrivate),
    ];
    assert_eq!(case.mount("/data").options, ["rbind", "rprivate", "ro"]);
    assert_eq!(case.mount("/data/inner").options, ["rbind", "rshared", "rw"]);
    let spec = case.spec().unwrap();
    let last: Vec<_> = spec
        .mounts
        .iter()
        .rev()
        .take(2)
        .map(|mount| mount.destination.as_str())
        .collect();
    assert_eq!(last, ["/data/inner", "/data"]);
    assert_eq!(spec.linux.rootfs_propagation, "rshared");
}

#[test]
fn a_mount_of_the_caller_takes_the_place_of_the_runtimes() {
    let mut case = plain();
    for path in ["/etc/hosts", "/dev/shm"] {
        case.container.mounts.push(cri::Mount {
            container_path: path.into(),
            host_path: "/srv/own".into(),
            ..Default::default()
        });
    }
    let spec = case.spec().unwrap();
    for path in ["/etc/hosts", "/dev/shm"] {
        let found: Vec<_> = spec
            .mounts
            .iter()
            .filter(|mount| mount.destination == path)
            .collect();
        assert_eq!(found.len(), 1, "{path}");
        assert_eq!(found[0].source, "/srv/own");
    }
    assert_eq!(case.mount("/etc/resolv.conf").source, "/s/resolv.conf");
}

#[rstest]
#[case::relative("data", "/srv", "container_path: data: must be absolute")]
#[case::leading_up("/data/../etc", "/srv", "container_path: /data/../etc: must not have")]
#[case::nowhere("", "/srv", "container_path: missing")]
#[case::over_everything("/./", "/srv", "container_path: the container's root")]
#[case::without_a_source("/data", "", "host_path: missing")]
#[case::with_a_relative_source("/data", "srv", "host_path: srv: must be absolute")]
#[case::with_a_source_leading_up("/data", "/srv/../etc", "host_path: /srv/../etc: must not have")]
fn a_broken_mount_is_refused_by_its_field(#[case] to: &str, #[case] from: &str, #[case] problem: &str) {
    let mut case = plain();
    case.container.mounts = vec![cri::Mount {
        container_path: to.into(),
        host_path: from.into(),
        ..Default::default()
    }];
    let error = case.spec().unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("config.mounts[0].{problem}")),
        "{error}"
    );
}

#[test]
fn mounts_that_contradict_themselves_are_refused() {
    let plain_mount = cri::Mount {
        container_path: "/data".into(),
        host_path: "/srv".into(),
        ..Default::default()
    };
    let recursive = cri::Mount {
        readonly: true,
        recursive_read_only: true,
        ..plain_mount.clone()
    };
    let mut case = plain();
    case.container.mounts = vec![recursive.clone()];
    assert_eq!(case.mount("/data").options, ["rbind", "rprivate", "rro"]);
    let broken = [
        cri::Mount {
            readonly: false,
            ..recursive.clone()
        },
        cri::Mount {
            propagation: MountPropagation::PropagationHostToContainer.into(),
            ..recursive
        },
        cri::Mount {
            mount_options: strings(&["rw"]),
            ..plain_mount.clone()
        },
        cri::Mount {
            propagation: 17,
            ..plain_mount
        },
    ];
    for mount in broken {
        case.container.mounts = vec![mount.clone()];
        assert!(case.spec().is_err(), "{mount:?}");
    }
}

#[test]
fn limits_become_resources_and_zeros_nothing() {
    let mut case = plain();
    let resources = |case: &Case| serde_json::to_value(case.spec().unwrap().linux.resources).unwrap();
    let devices = json!([{"allow": false, "access": "rwm"}]);
    assert_eq!(resources(&case), json!({"devices": devices}));
    *case.limits() = cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 1 << 20,
        cpuset_cpus: "0-1".into(),
        hugepage_limits: vec![cri::HugepageLimit {
            page_size: "2MB".into(),
            limit: 4,
        }],
        ..Default::default()
    };
    let expected = json!({
        "devices": devices,
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0-1"},
        "memory": {"limit": 1 << 20, "swap": 1 << 20},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
    });
    assert_eq!(resources(&case), expected);
    // CRI: no limit any more.
    case.limits().memory_limit_in_bytes = -1;
    assert_eq!(resources(&case)["memory"], json!({"limit": -1, "swap": -1}));
    case.limits().memory_limit_in_bytes = -2;
    assert!(case.spec().unwrap_err().to_string().contains("neither"));
    case.limits().memory_limit_in_bytes = 0;
    case.limits().unified = BTreeMap::from([("memory.high".to_owned(), "1".to_owned())]);
    assert!(case.spec().unwrap_err().to_string().contains("cgroup v1"));
    case.host.cgroup_v2 = true;
    assert_eq!(resources(&case)["unified"], json!({"memory.high": "1"}));
}

#[rstest]
#[case(-998, -1000, -998)]
#[case(-998, 0, 0)]
#[case(500, 0, 500)]
#[case(5000, -1000, 1000)]
fn oom_score_adj_is_what_may_be_set(#[case] asked: i64, #[case] floor: i32, #[case] expected: i32) {
    let mut case = plain();
    case.limits().oom_score_adj = asked;
    case.host.oom_score_adj_floor = floor;
    assert_eq!(case.spec().unwrap().process.oom_score_adj, Some(expected));
}

#[test]
fn security_fields_reach_the_process_and_its_root() {
    let mut case = plain();
    case.user = ResolvedUser {
        uid: 1000,
        gid: 1001,
        supplemental_gids: vec![4],
        home: "/srv".into(),
    };
    case.security().readonly_rootfs = true;
    case.security().no_new_privs = true;
    case.security().masked_paths = strings(&["/proc/mine"]);
    case.container.tty = true;
    let spec = case.spec().unwrap();
    assert!(spec.root.readonly && spec.process.no_new_privileges && spec.process.terminal);
    let user = serde_json::to_value(&spec.process.user).unwrap();
    assert_eq!(user, json!({"uid": 1000, "gid": 1001, "additionalGids": [4]}));
    assert_eq!(spec.linux.masked_paths, ["/proc/mine"]);
    assert!(spec.linux.readonly_paths.is_empty(), "only what is asked for");
    assert!(spec.process.env.contains(&"TERM=xterm".into()));
    assert!(case.mount("/etc/hosts").options.contains(&"ro".into()));
}

#[test]
fn the_usual_seccomp_profile_allows_what_is_listed_and_more_to_administrators() {
    let mut case = plain();
    assert_eq!(case.spec().unwrap().linux.seccomp, None);
    case.security().seccomp = Some(SecurityProfile::default());
    // The arguments on which a call is allowed; none where it is not.
    let allowed = |case: &Case, name: &str| {
        let profile = serde_json::to_value(case.spec().unwrap().linux.seccomp).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let calls = profile["syscalls"].as_array().unwrap().clone();
        let mut rules = calls.into_iter().filter(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW" && rule["names"].as_array().unwrap().contains(&name.into())
        });
        rules.next().map(|rule| rule["args"].as_array().unwrap().len())
    };
    assert_eq!(allowed(&case, "read"), Some(0));
    assert_eq!(allowed(&case, "clone"), Some(1), "only without new namespaces");
    assert_eq!(allowed(&case, "chroot"), Some(0), "a usual capability");
    for refused in [
        "unshare",
        "kexec_load",
        "clone3",
        "bpf",
        "io_uring_setup",
        "keyctl",
    ] {
        assert_eq!(allowed(&case, refused), None, "{refused}");
    }
    case.security().capabilities = Some(cri::Capability {
        add_capabilities: strings(&["SYS_ADMIN"]),
        ..Default::default()
    });
    for now_allowed in ["unshare", "clone", "clone3", "mount"] {
        assert_eq!(allowed(&case, now_allowed), Some(0), "{now_allowed}");
    }
    assert_eq!(allowed(&case, "kexec_load"), None);
    let profile = SecurityProfile {
        profile_type: ProfileType::Localhost.into(),
        localhost_ref: "/nonexistent/profile.json".into(),
    };
    case.security().seccomp = Some(profile);
    assert!(
        case.spec()
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/profile.json")
    );
}
