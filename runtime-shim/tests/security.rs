//! Who containers are and what they may do, on a real containerd and kernel.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::fs;

use clone8s::cri::{self, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType};
use tonic::Code;

use self::rig::{Rig, script, security};

fn ints(values: &[i64]) -> Vec<i64> {
    values.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_and_its_groups_are_those_asked_for_and_those_reported() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    for (name, policy, expected) in [
        ("merge", SupplementalGroupsPolicy::Merge, "4,1001,2000"),
        ("strict", SupplementalGroupsPolicy::Strict, "1001,2000"),
    ] {
        let mut container = script(
            name,
            "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n | uniq | paste -sd,) $HOME",
        );
        let who = security(&mut container);
        who.run_as_username = "web".into();
        who.run_as_group = Some(cri::Int64Value { value: 1001 });
        who.supplemental_groups = ints(&[2000]);
        who.supplemental_groups_policy = policy.into();
        let id = rig.run(&pod, container).await;
        rig.exited(&id).await;
        let user = rig.status(&id).await.unwrap().user.unwrap().linux.unwrap();
        let told: Vec<_> = user.supplemental_groups.iter().map(ToString::to_string).collect();
        assert_eq!(
            (user.uid, user.gid, told.join(",").as_str()),
            (1000, 1001, expected)
        );
        assert_eq!(
            rig.log(&format!("{name}.log")),
            [format!("stdout F 1000 1001 {expected} /srv")]
        );
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_container_has_the_devices_and_writes_to_sys() {
    let rig = Rig::start().await;
    let mut config = rig.host_pod("web");
    let refused = {
        let pod = rig.run_sandbox(rig.host_pod("plain")).await.unwrap();
        let mut container = script("main", "true");
        security(&mut container).privileged = true;
        rig.create(&pod, container).await.unwrap_err()
    };
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("sandbox is not privileged"),
        "{refused:?}"
    );

    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .privileged = true;
    let pod = rig.run_sandbox(config).await.unwrap();
    let program = "grep CapBnd /proc/self/status; ls /dev/kmsg; grep -c ' /sys sysfs ro' /proc/mounts";
    let mut container = script("main", program);
    security(&mut container).privileged = true;
    // Masked all the same where it is not privileged.
    security(&mut container).masked_paths = vec!["/proc/version".into()];
    let id = rig.run(&pod, container).await;
    rig.exited(&id).await;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapBnd")).unwrap();
    assert_eq!(
        rig.log("main.log"),
        [
            format!("stdout F {own}"),
            "stdout F /dev/kmsg".to_owned(),
            "stdout F 0".to_owned()
        ]
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_hidden_and_read_only_exactly_as_asked() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let program = "head -c 5 /proc/version; echo; echo 1 2>/dev/null > /proc/sys/kernel/ns_last_pid && echo written; \
                   touch /root-file 2>/dev/null || echo root is read-only; exit 0";
    let open = rig.output(&pod, script("open", program)).await;
    assert_eq!(open[0], "Linux");
    let mut container = script("closed", program);
    let who = security(&mut container);
    who.masked_paths = vec!["/proc/version".into()];
    who.readonly_paths = vec!["/proc/sys".into()];
    who.readonly_rootfs = true;
    assert_eq!(rig.output(&pod, container).await, ["", "root is read-only"]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls_are_filtered_by_the_profile_asked_for() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let program = "grep Seccomp: /proc/self/status | tr -d '\\t'; grep NoNewPrivs /proc/self/status | tr -d '\\t'; \
                   mkdir /tmp/d 2>/dev/null && echo made; unshare -m true 2>/dev/null && echo unshared; exit 0";
    let run = async |name: &str, profile: Option<SecurityProfile>, old: &str| {
        let mut container = script(name, program);
        let who = security(&mut container);
        who.seccomp = profile;
        #[expect(deprecated, reason = "older clients use it")]
        old.clone_into(&mut who.seccomp_profile_path);
        who.no_new_privs = name == "usual";
        who.capabilities = Some(cri::Capability {
            add_capabilities: if name == "none" {
                vec!["SYS_ADMIN".into()]
            } else {
                Vec::new()
            },
            ..Default::default()
        });
        rig.output(&pod, container).await
    };
    let profile = |kind: ProfileType, reference: &str| {
        Some(SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: reference.into(),
        })
    };
    let none = run("none", profile(ProfileType::Unconfined, ""), "").await;
    assert_eq!(none, ["Seccomp:0", "NoNewPrivs:0", "made", "unshared"]);
    let usual = run("usual", profile(ProfileType::RuntimeDefault, ""), "").await;
    assert_eq!(usual, ["Seccomp:2", "NoNewPrivs:1", "made"]);
    let old = run("old", None, "runtime/default").await;
    assert_eq!(old, ["Seccomp:2", "NoNewPrivs:0", "made"]);
    let file = rig.dir.dir().join("profile.json");
    fs::write(
        &file,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let path = file.display().to_string();
    let local = run("local", profile(ProfileType::Localhost, &path), "").await;
    assert_eq!(local, ["Seccomp:2", "NoNewPrivs:0"]);
    let local = run("local-old", None, &format!("localhost/{path}")).await;
    assert_eq!(local, ["Seccomp:2", "NoNewPrivs:0"]);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_usable_as_asked_by_path_and_by_vendors_files() {
    let cdi = tempfile::tempdir().unwrap();
    fs::write(
        cdi.path().join("vendor.yaml"),
        "cdiVersion: 0.6.0\nkind: example.com/zero\ndevices:\n- name: a\n  containerEdits:\n    env: [ZERO=yes]\n    \
         deviceNodes: [{path: /dev/vendor-zero, hostPath: /dev/zero}]\n    \
         mounts: [{hostPath: /usr, containerPath: /vendor, options: [ro, rbind]}]\n",
    )
    .unwrap();
    let rig = Rig::start_with(&["--cdi-dir", cdi.path().to_str().unwrap()]).await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let program = "head -c 3 /dev/mine | wc -c; echo x 2>/dev/null > /dev/mine || echo not for writing; \
                   head -c 2 /dev/vendor-zero | wc -c; echo $ZERO; ls -d /vendor/bin";
    let mut container = script("main", program);
    container.devices = vec![cri::Device {
        container_path: "/dev/mine".into(),
        host_path: "/dev/zero".into(),
        permissions: "r".into(),
    }];
    container
        .annotations
        .insert("cdi.k8s.io/test".into(), "example.com/zero=a".into());
    let lines = rig.output(&pod, container).await;
    // The vendor's device is the same one, with more rights.
    assert_eq!(lines.first().map(String::as_str), Some("3"));
    assert_eq!(lines[lines.len() - 3..], ["2", "yes", "/vendor/bin"]);

    let mut container = script("absent", "true");
    container.cdi_devices = vec![cri::CdiDevice {
        name: "example.com/zero=b".into(),
    }];
    let absent = rig.create(&pod, container).await.unwrap_err();
    assert_eq!(absent.code(), Code::InvalidArgument);
    assert!(absent.message().contains("example.com/zero=b"), "{absent:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_given_taken_and_kept_for_users_that_are_not_root() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let mut container = script(
        "main",
        "grep -E 'CapEff|CapAmb|CapBnd' /proc/self/status | tr -d '\\t'",
    );
    let who = security(&mut container);
    who.run_as_user = Some(cri::Int64Value { value: 1000 });
    who.capabilities = Some(cri::Capability {
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["ALL".into()],
        add_ambient_capabilities: vec!["NET_ADMIN".into()],
    });
    let only = format!("{:016x}", 1u64 << 12);
    let lines = rig.output(&pod, container).await;
    assert_eq!(
        lines,
        ["CapEff", "CapBnd", "CapAmb"].map(|set| format!("{set}:{only}"))
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_apparmor_that_cannot_be_had_is_an_error_that_says_so() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let has_apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|enabled| enabled.starts_with('Y'));
    let create = async |name: &str, kind: ProfileType, reference: &str| {
        let mut container = script(name, "true");
        security(&mut container).apparmor = Some(SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: reference.into(),
        });
        rig.create(&pod, container).await
    };
    let named = create("named", ProfileType::Localhost, "no-such-profile")
        .await
        .unwrap_err();
    assert_eq!(named.code(), Code::FailedPrecondition);
    let reason = if has_apparmor {
        "is not loaded"
    } else {
        "this host has no AppArmor"
    };
    assert!(
        named.message().contains("no-such-profile") && named.message().contains(reason),
        "{named:?}"
    );
    if !has_apparmor {
        let usual = create("usual", ProfileType::RuntimeDefault, "")
            .await
            .unwrap_err();
        assert!(usual.message().contains(reason), "{usual:?}");
    }
    create("unconfined", ProfileType::Unconfined, "").await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_selinux_are_refused_only_where_they_would_mean_something() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let mut container = script("main", "true");
    security(&mut container).selinux_options = Some(cri::SeLinuxOption {
        level: "s0:c1,c2".into(),
        ..Default::default()
    });
    let created = rig.create(&pod, container).await;
    if fs::exists("/sys/fs/selinux/enforce").unwrap() {
        let refused = created.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("selinux_options"), "{refused:?}");
    } else {
        created.unwrap();
    }
    rig.finish().await;
}
