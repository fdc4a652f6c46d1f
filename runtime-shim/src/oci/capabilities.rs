//! Capabilities (capabilities(7); CRI v1, Capability).

use std::collections::BTreeSet;

use clone8s::cri;

use super::types::Capabilities;
use crate::error::{Error, Result};

pub(crate) type CapabilitySet = BTreeSet<&'static str>;

/// All capabilities by their bit (linux/capability.h).
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has that asks for nothing, as with docker and containerd.
const USUAL: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The names of a set of capabilities given as bits, as in `/proc/<pid>/status`.
pub(crate) fn known(bits: u64) -> CapabilitySet {
    ALL.iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, &name)| name)
        .collect()
}

/// The sets of a container's process. What the host cannot give is left out where everything was asked for, and
/// refused where it was asked for by name.
pub(super) fn of_container(
    security: &cri::LinuxContainerSecurityContext,
    available: &CapabilitySet,
) -> Result<Capabilities> {
    let none = cri::Capability::default();
    let change = security.capabilities.as_ref().unwrap_or(&none);
    let mut set: CapabilitySet = if security.privileged {
        available.clone()
    } else {
        USUAL
            .into_iter()
            .filter(|name| available.contains(name))
            .collect()
    };
    // "ALL" first, so that it can be combined with exceptions either way (CRI, Capability).
    let (add_all, add) = split(&change.add_capabilities)?;
    let (drop_all, drop) = split(&change.drop_capabilities)?;
    if add_all {
        set.clone_from(available);
    }
    if drop_all {
        set.clear();
    }
    for name in add {
        if !available.contains(name) {
            return Err(Error::invalid(
                "config.linux.security_context.capabilities",
                format!("{name} cannot be given: this runtime does not have it itself"),
            ));
        }
        set.insert(name);
    }
    for name in drop {
        set.remove(name);
    }
    let (ambient_all, ambient) = split(&change.add_ambient_capabilities)?;
    let mut ambient: CapabilitySet = ambient.into_iter().filter(|name| set.contains(name)).collect();
    if ambient_all {
        ambient.clone_from(&set);
    }
    let names = |set: &CapabilitySet| set.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    Ok(Capabilities {
        bounding: names(&set),
        effective: names(&set),
        permitted: names(&set),
        // Only ambient capabilities need to be inheritable; more would leak into what the container executes.
        inheritable: names(&ambient),
        ambient: names(&ambient),
    })
}

/// Whether "ALL" is among the names, and the others in full.
fn split(names: &[String]) -> Result<(bool, CapabilitySet)> {
    let mut all = false;
    let mut set = CapabilitySet::new();
    for name in names {
        let upper = name.to_uppercase();
        if upper == "ALL" {
            all = true;
            continue;
        }
        let full = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        let known = ALL.iter().find(|known| **known == full).ok_or_else(|| {
            Error::invalid(
                "config.linux.security_context.capabilities",
                format!("{name:?} is no capability of Linux"),
            )
        })?;
        set.insert(known);
    }
    Ok((all, set))
}
