//! System call filters (OCI runtime spec 1.0.2, config-linux.md, "Seccomp"; CRI v1, SecurityProfile).

use clone8s::cri::{self, security_profile::ProfileType};
use serde_json::{Value, json};

use super::types::{Capabilities, Seccomp};
use crate::error::{Error, Result};

/// What the usual profile denies to all: calls that change the whole machine or load code into its kernel.
const DENIED: [&str; 32] = [
    "acct",
    "add_key",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "get_kernel_syms",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "quotactl",
    "reboot",
    "request_key",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "sysfs",
    "userfaultfd",
    "vm86",
];

/// What it denies to all but those who were given CAP_SYS_ADMIN: leaving or rearranging the container's namespaces.
const DENIED_WITHOUT_ADMIN: [&str; 15] = [
    "bpf",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// The flags of clone(2) for new mount, cgroup, UTS, IPC, user, PID and network namespaces.
const NEW_NAMESPACES: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The filter of a container, or none.
pub(super) fn seccomp(
    security: &cri::LinuxContainerSecurityContext,
    capabilities: &Capabilities,
) -> Result<Option<Seccomp>> {
    if security.privileged {
        return Ok(None);
    }
    let Some(profile) = &security.seccomp else {
        return Ok(None);
    };
    match profile.profile_type() {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => {
            let has_admin = capabilities.bounding.iter().any(|name| name == "CAP_SYS_ADMIN");
            Ok(Some(usual(has_admin)))
        }
        ProfileType::Localhost => from_file(&profile.localhost_ref).map(Some),
    }
}

fn usual(has_admin: bool) -> Seccomp {
    let deny = |names: &[&str], errno: u32, args: Value| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": args});
    let mut calls = vec![deny(&DENIED, EPERM, json!([]))];
    if !has_admin {
        calls.push(deny(&DENIED_WITHOUT_ADMIN, EPERM, json!([])));
        // clone3 passes its flags in memory, where a filter cannot see them; C libraries then use clone.
        calls.push(deny(&["clone3"], ENOSYS, json!([])));
        calls.extend(NEW_NAMESPACES.map(|flag| {
            let asks_for = json!([{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}]);
            deny(&["clone"], EPERM, asks_for)
        }));
    }
    Seccomp(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls}))
}

fn from_file(path: &str) -> Result<Seccomp> {
    let refuse = |problem: String| {
        Error::invalid(
            "config.linux.security_context.seccomp.localhost_ref",
            format!("{path}: {problem}"),
        )
    };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_str(&text)
        .map(Seccomp)
        .map_err(|error| refuse(format!("not JSON: {error}")))
}
