//! Security contexts and names.

use rstest::rstest;

use super::{after, updating};
use crate::v1::{
    AppArmorProfile, HostAlias, PodSecurityContext, PodSpec, SeLinuxOptions, SeccompProfile, SecurityContext,
    Sysctl,
};

type Edit = fn(&mut PodSpec);

fn context(spec: &mut PodSpec) -> &mut PodSecurityContext {
    spec.security_context.get_or_insert_default()
}

fn own(spec: &mut PodSpec) -> &mut SecurityContext {
    spec.containers[0].security_context.get_or_insert_default()
}

fn sysctl(name: &str) -> Sysctl {
    Sysctl {
        name: name.to_owned(),
        value: "1".to_owned(),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn seccomp(kind: &str, local: &str) -> Option<SeccompProfile> {
    Some(SeccompProfile {
        r#type: kind.to_owned(),
        localhost_profile: local.to_owned(),
    })
}

#[allow(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn app_armor(kind: &str, local: &str) -> Option<AppArmorProfile> {
    Some(AppArmorProfile {
        r#type: kind.to_owned(),
        localhost_profile: local.to_owned(),
    })
}

#[test]
fn everything_of_it_can_be_said() {
    let found = after(|spec| {
        spec.security_context = Some(Box::new(PodSecurityContext {
            run_as_user: Some(1000),
            run_as_group: Some(0),
            run_as_non_root: Some(true),
            supplemental_groups: vec![1, 2],
            supplemental_groups_policy: "Strict".into(),
            fs_group: Some(2000),
            fs_group_change_policy: "OnRootMismatch".into(),
            sysctls: vec![
                sysctl("net.ipv4.tcp_syncookies"),
                sysctl("kernel/shm_rmid_forced"),
            ],
            seccomp_profile: seccomp("Localhost", "profiles/audit.json"),
            app_armor_profile: app_armor("Localhost", "mine"),
            se_linux_options: Some(SeLinuxOptions {
                level: "s0:c1,c2".into(),
                ..Default::default()
            }),
        }));
        spec.host_users = Some(false);
        let own = own(spec);
        own.run_as_non_root = Some(false);
        own.seccomp_profile = seccomp("Unconfined", "");
        own.app_armor_profile = app_armor("RuntimeDefault", "");
        own.proc_mount = "Unmasked".into();
        spec.subdomain = "web".into();
        spec.set_hostname_as_fqdn = Some(true);
        spec.host_aliases = vec![HostAlias {
            ip: "0.0.0.0".into(),
            hostnames: vec!["ads.example".into()],
        }];
    });
    assert!(found.is_empty(), "{found:?}");
}

#[rstest]
#[case(|spec: &mut PodSpec| context(spec).run_as_user = Some(-1), "spec.securityContext.runAsUser: must be from 0")]
#[case(|spec: &mut PodSpec| context(spec).fs_group = Some(1 << 31), "spec.securityContext.fsGroup: must be from 0")]
#[case(|spec: &mut PodSpec| context(spec).supplemental_groups = vec![1, -1], "spec.securityContext.supplementalGroups[1]: must")]
#[case(|spec: &mut PodSpec| context(spec).supplemental_groups_policy = "Merged".into(), "spec.securityContext.supplementalGroupsPolicy: must be \"Merge\" or \"Strict\"")]
#[case(|spec: &mut PodSpec| context(spec).fs_group_change_policy = "Never".into(), "spec.securityContext.fsGroupChangePolicy: must")]
#[case(|spec: &mut PodSpec| context(spec).sysctls = vec![sysctl("net..x")], "spec.securityContext.sysctls[0].name: must be a parameter")]
#[case(|spec: &mut PodSpec| context(spec).sysctls = vec![sysctl("net.a.b"), sysctl("net/a/b")], "spec.securityContext.sysctls[1].name: \"net/a/b\" is set already")]
#[case(
    |spec: &mut PodSpec| { spec.host_network = true; context(spec).sysctls = vec![sysctl("net.core.somaxconn")]; },
    "spec.securityContext.sysctls[0].name: cannot be set where hostNetwork is true"
)]
#[case(
    |spec: &mut PodSpec| { spec.host_ipc = true; context(spec).sysctls = vec![sysctl("kernel.sem")]; },
    "spec.securityContext.sysctls[0].name: cannot be set where hostIPC is true"
)]
#[case(|spec: &mut PodSpec| context(spec).seccomp_profile = seccomp("Default", ""), "spec.securityContext.seccompProfile.type: must be")]
#[case(|spec: &mut PodSpec| own(spec).seccomp_profile = seccomp("Localhost", ""), "spec.containers[0].securityContext.seccompProfile.localhostProfile: must be there")]
#[case(|spec: &mut PodSpec| own(spec).seccomp_profile = seccomp("Localhost", "../x"), "spec.containers[0].securityContext.seccompProfile.localhostProfile: must be a path below")]
#[case(|spec: &mut PodSpec| own(spec).seccomp_profile = seccomp("Unconfined", "x"), "spec.containers[0].securityContext.seccompProfile.localhostProfile: can be set for")]
#[case(|spec: &mut PodSpec| own(spec).app_armor_profile = app_armor("Localhost", " x"), "spec.containers[0].securityContext.appArmorProfile.localhostProfile: must be the name")]
#[case(|spec: &mut PodSpec| own(spec).proc_mount = "Unmasked".into(), "spec.containers[0].securityContext.procMount: cannot be \"Unmasked\"")]
#[case(|spec: &mut PodSpec| own(spec).proc_mount = "None".into(), "spec.containers[0].securityContext.procMount: must be \"Default\" or \"Unmasked\"")]
#[case(
    |spec: &mut PodSpec| own(spec).se_linux_options = Some(SeLinuxOptions { level: "a b".into(), ..Default::default() }),
    "spec.containers[0].securityContext.seLinuxOptions.level: must be one word"
)]
#[case(|spec: &mut PodSpec| spec.subdomain = "a.b".into(), "spec.subdomain: ")]
#[case(|spec: &mut PodSpec| spec.host_aliases = vec![HostAlias { ip: "localhost".into(), hostnames: vec![] }], "spec.hostAliases[0].ip: must be an IP address")]
#[case(|spec: &mut PodSpec| spec.host_aliases = vec![HostAlias { ip: "::1".into(), hostnames: vec!["a b".into()] }], "spec.hostAliases[0].hostnames[0]: ")]
fn what_cannot_be_is_refused_by_its_path(#[case] edit: Edit, #[case] expected: &str) {
    let found = after(edit);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(expected), "{found:?}");
}

#[rstest]
#[case(|spec: &mut PodSpec| context(spec).sysctls = vec![sysctl("net.a.b")], Some("spec.securityContext.sysctls: cannot be changed"))]
#[case(|spec: &mut PodSpec| spec.subdomain = "web".into(), Some("spec.subdomain: cannot be changed"))]
#[case(|spec: &mut PodSpec| spec.set_hostname_as_fqdn = Some(true), Some("spec.setHostnameAsFQDN: cannot be changed"))]
#[case(|spec: &mut PodSpec| spec.set_hostname_as_fqdn = Some(false), None)]
#[case(|spec: &mut PodSpec| context(spec).run_as_user = Some(1), None)]
#[case(|spec: &mut PodSpec| context(spec).fs_group = Some(1), None)]
#[case(|spec: &mut PodSpec| spec.host_aliases = vec![HostAlias::default()], None)]
fn what_is_the_sandboxs_stays(#[case] edit: Edit, #[case] expected: Option<&str>) {
    let found = updating(|_| {}, edit);
    match expected {
        Some(expected) => assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}"),
        None => assert!(found.is_empty(), "{found:?}"),
    }
}
