//! The rules of security contexts, a pod's and a container's.

use super::sysctl::{self, SysctlNamespace};
use crate::{
    names,
    rules::check::{Check, Seen},
    v1::{
        AppArmorProfile, Capabilities, PodSecurityContext, PodSpec, SeLinuxOptions, SeccompProfile,
        SecurityContext, Sysctl,
    },
};

const MAX_ID: i64 = i32::MAX as i64;
const MAX_GROUPS: usize = 64;
const MAX_SYSCTLS: usize = 100;
const MAX_SYSCTL_VALUE: usize = 4096;
const MAX_PROFILE_NAME: usize = 4095;
const MAX_LABEL_PART: usize = 256;

/// Linux' capabilities, without CAP_.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// A pod's.
pub(super) fn check_pod(c: &mut Check, context: &PodSecurityContext, spec: &PodSpec) {
    for (field, id) in [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
        ("fsGroup", context.fs_group),
    ] {
        c.field(field, |c| id.into_iter().for_each(|id| check_id(c, id)));
    }
    c.list(
        "supplementalGroups",
        &context.supplemental_groups,
        MAX_GROUPS,
        |c, id| check_id(c, *id),
    );
    for (field, word, words) in [
        (
            "supplementalGroupsPolicy",
            &context.supplemental_groups_policy,
            ["Merge", "Strict"],
        ),
        (
            "fsGroupChangePolicy",
            &context.fs_group_change_policy,
            ["Always", "OnRootMismatch"],
        ),
    ] {
        if !word.is_empty() {
            c.field(field, |c| c.one_of(word, &words));
        }
    }
    check_sysctls(c, &context.sysctls, spec);
    check_seccomp(c, context.seccomp_profile.as_ref());
    check_app_armor(c, context.app_armor_profile.as_ref());
    check_se_linux(c, context.se_linux_options.as_ref());
}

/// A container's.
pub(super) fn check_container(c: &mut Check, context: &SecurityContext, spec: &PodSpec) {
    for (field, id) in [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        c.field(field, |c| id.into_iter().for_each(|id| check_id(c, id)));
    }
    if context.privileged == Some(true) && context.allow_privilege_escalation == Some(false) {
        c.field("allowPrivilegeEscalation", |c| {
            c.wrong("cannot be false for a privileged container");
        });
    }
    if !context.proc_mount.is_empty() {
        c.field("procMount", |c| {
            c.one_of(&context.proc_mount, &["Default", "Unmasked"]);
            if context.proc_mount == "Unmasked" && spec.host_users != Some(false) {
                c.wrong("cannot be \"Unmasked\" unless the pod's hostUsers is false");
            }
        });
    }
    if let Some(capabilities) = &context.capabilities {
        c.field("capabilities", |c| check_capabilities(c, capabilities));
    }
    check_seccomp(c, context.seccomp_profile.as_ref());
    check_app_armor(c, context.app_armor_profile.as_ref());
    check_se_linux(c, context.se_linux_options.as_ref());
}

fn check_id(c: &mut Check, id: i64) {
    if !(0..=MAX_ID).contains(&id) {
        c.wrong(format!("must be from 0 to {MAX_ID}, but is {id}"));
    }
}

fn check_sysctls(c: &mut Check, sysctls: &[Sysctl], spec: &PodSpec) {
    let mut seen = Seen::new();
    c.list("sysctls", sysctls, MAX_SYSCTLS, |c, sysctl| {
        c.field("name", |c| {
            let Some(name) = sysctl::name(&sysctl.name) else {
                c.wrong(format!(
                    "must be a parameter such as \"net.ipv4.tcp_syncookies\", but is {:?}",
                    sysctl.name
                ));
                return;
            };
            match sysctl::namespace(&name) {
                Some(SysctlNamespace::Net) if spec.host_network => {
                    c.wrong("cannot be set where hostNetwork is true: it would be the node's");
                }
                Some(SysctlNamespace::Ipc) if spec.host_ipc => {
                    c.wrong("cannot be set where hostIPC is true: it would be the node's");
                }
                _ => {}
            }
            if seen.again(name) {
                c.wrong(format!("{:?} is set already", sysctl.name));
            }
        });
        c.field("value", |c| {
            c.at_most(&sysctl.value, MAX_SYSCTL_VALUE);
            if sysctl.value.contains(['\0', '\n']) {
                c.wrong("must be one line of text");
            }
        });
    });
}

fn check_seccomp(c: &mut Check, profile: Option<&SeccompProfile>) {
    let Some(profile) = profile else { return };
    c.field("seccompProfile", |c| {
        check_profile(c, &profile.r#type, &profile.localhost_profile, |c, path| {
            if path.starts_with('/') || path.split('/').any(|part| part == "..") {
                c.wrong(format!(
                    "must be a path below the node's folder of profiles, without \"..\", but is {path:?}"
                ));
            }
        });
    });
}

fn check_app_armor(c: &mut Check, profile: Option<&AppArmorProfile>) {
    let Some(profile) = profile else { return };
    c.field("appArmorProfile", |c| {
        check_profile(c, &profile.r#type, &profile.localhost_profile, |c, name| {
            if name.trim() != name {
                c.wrong(format!(
                    "must be the name of a profile, without spaces around it, but is {name:?}"
                ));
            }
        });
    });
}

fn check_profile(c: &mut Check, kind: &str, local: &str, check: impl FnOnce(&mut Check, &str)) {
    c.field("type", |c| {
        c.one_of(kind, &["RuntimeDefault", "Unconfined", "Localhost"]);
    });
    c.field("localhostProfile", |c| match (kind, local) {
        ("Localhost", "") => c.wrong("must be there for the type \"Localhost\""),
        ("Localhost", local) => {
            c.at_most(local, MAX_PROFILE_NAME);
            if local.contains(char::is_control) {
                c.wrong("must not contain control characters");
            }
            check(c, local);
        }
        (_, "") => {}
        _ => c.wrong("can be set for the type \"Localhost\" alone"),
    });
}

fn check_se_linux(c: &mut Check, options: Option<&SeLinuxOptions>) {
    let Some(options) = options else { return };
    c.field("seLinuxOptions", |c| {
        for (field, part) in [
            ("user", &options.user),
            ("role", &options.role),
            ("type", &options.r#type),
            ("level", &options.level),
        ] {
            c.field(field, |c| {
                c.at_most(part, MAX_LABEL_PART);
                if part.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    c.wrong(format!("must be one word, but is {part:?}"));
                }
            });
        }
    });
}

fn check_capabilities(c: &mut Check, capabilities: &Capabilities) {
    for (field, names) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        c.list(field, names, CAPABILITIES.len(), |c, name| {
            check_capability(c, name);
        });
    }
}

fn check_capability(c: &mut Check, name: &str) {
    if CAPABILITIES.contains(&name) {
        return;
    }
    let bare = name.to_ascii_uppercase();
    let bare = bare.strip_prefix("CAP_").unwrap_or(&bare);
    let mut sentence = format!("{name:?} is not a capability, written without \"CAP_\"");
    if let Some(near) = names::nearest(bare, CAPABILITIES) {
        sentence = format!("{sentence}; did you mean {near:?}?");
    }
    c.wrong(sentence);
}
