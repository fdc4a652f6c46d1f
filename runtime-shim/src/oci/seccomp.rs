//! System call filters (OCI runtime spec 1.0.2, config-linux.md, "Seccomp"; CRI v1, SecurityProfile).

mod calls;

use clone8s::cri::{self, security_profile::ProfileType};
use serde_json::{Value, json};

use super::types::{Capabilities, Seccomp};
use crate::error::{Error, Result};

/// The flags of clone(2) for new mount, cgroup, UTS, IPC, user, PID and network namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// Values of personality(2) that only change what uname(2) tells, and the question for the current one.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Sockets between a virtual machine and its host pass by every network policy.
const AF_VSOCK: u64 = 40;
const FIELD: &str = "config.linux.security_context.seccomp";
/// Profiles are a few tens of kilobytes.
const MAX_PROFILE: u64 = 4 << 20;
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
    match wanted(security)? {
        Wanted::Nothing => Ok(None),
        Wanted::Usual => Ok(Some(usual(capabilities))),
        Wanted::File(path) => from_file(path).map(Some),
    }
}

enum Wanted<'a> {
    Usual,
    Nothing,
    File(&'a str),
}

fn wanted(security: &cri::LinuxContainerSecurityContext) -> Result<Wanted<'_>> {
    let file = |reference: &'_ str| {
        let path = reference.strip_prefix("localhost/").unwrap_or(reference);
        match super::not_a_plain_path(path) {
            None => Ok(()),
            Some(problem) => Err(Error::invalid(
                format!("{FIELD}.localhost_ref"),
                format!("{path:?} {problem}"),
            )),
        }
    };
    if let Some(profile) = &security.seccomp {
        let kind = ProfileType::try_from(profile.profile_type).map_err(|_| {
            Error::invalid(
                format!("{FIELD}.profile_type"),
                format!("{} is no type of profile", profile.profile_type),
            )
        })?;
        return match kind {
            ProfileType::Unconfined => Ok(Wanted::Nothing),
            ProfileType::RuntimeDefault => Ok(Wanted::Usual),
            ProfileType::Localhost => {
                let reference = profile.localhost_ref.as_str();
                file(reference)?;
                Ok(Wanted::File(
                    reference.strip_prefix("localhost/").unwrap_or(reference),
                ))
            }
        };
    }
    #[expect(deprecated, reason = "older clients use only this field")]
    let old = security.seccomp_profile_path.as_str();
    match old {
        "" | "unconfined" => Ok(Wanted::Nothing),
        "runtime/default" | "docker/default" => Ok(Wanted::Usual),
        reference if reference.starts_with("localhost/") => {
            file(reference)?;
            Ok(Wanted::File(&reference["localhost/".len()..]))
        }
        other => Err(Error::invalid(
            "config.linux.security_context.seccomp_profile_path",
            format!("{other:?} is none of runtime/default, unconfined and localhost/<path>"),
        )),
    }
}

/// Refuses what is not listed.
fn usual(capabilities: &Capabilities) -> Seccomp {
    let allow =
        |names: &[&str], args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let has = |name: &str| capabilities.bounding.iter().any(|has| has == name);
    let mut calls = vec![
        allow(calls::ALLOWED, json!([])),
        allow(
            &["socket"],
            json!([{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}]),
        ),
    ];
    for value in PERSONALITIES {
        calls.push(allow(
            &["personality"],
            json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]),
        ));
    }
    for (capability, names) in calls::ALLOWED_WITH {
        if has(capability) {
            calls.push(allow(names, json!([])));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        let no_namespace = json!([
            {"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        ]);
        calls.push(allow(&["clone"], no_namespace));
        // clone3 passes its flags in memory, where a filter cannot see them; C libraries then use clone.
        calls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    let architectures: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        // The OCI runtime adds its own.
        _ => &[],
    };
    Seccomp(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures,
        "syscalls": calls,
    }))
}

fn from_file(path: &str) -> Result<Seccomp> {
    let refuse =
        |problem: String| Error::invalid(format!("{FIELD}.localhost_ref"), format!("{path}: {problem}"));
    let found = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if !found.is_file() || found.len() > MAX_PROFILE {
        return Err(refuse("no file of at most 4 MiB".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let profile: Value = serde_json::from_str(&text).map_err(|error| refuse(format!("not JSON: {error}")))?;
    if !profile["defaultAction"].is_string() {
        return Err(refuse("no seccomp profile: it has no \"defaultAction\"".into()));
    }
    Ok(Seccomp(profile))
}
