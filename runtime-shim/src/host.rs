//! What this host and this process can give to containers, read once at the start.

use std::{fs, path::Path};

use crate::{
    cgroups::Cgroups,
    oci::{self, Host},
};

/// `CAP_SYS_RESOURCE`, by whose absence a process cannot lower its `oom_score_adj`.
const SYS_RESOURCE: &str = "CAP_SYS_RESOURCE";

pub(crate) fn read(cgroups: &Cgroups) -> Host {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // What root gets after an exec: the OCI runtime is a child of containerd, which runs as this process does.
    let bits = status_bits(&status, "CapBnd:");
    let capabilities = oci::known_capabilities(bits);
    let own_score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let oom_score_adj_floor = if capabilities.contains(SYS_RESOURCE) {
        -1000
    } else {
        own_score.trim().parse().unwrap_or(0)
    };
    Host {
        cgroup_v2: cgroups.is_unified(),
        capabilities,
        oom_score_adj_floor,
        hugetlb: cgroups.has_controller("hugetlb"),
        swap: cgroups.counts_swap(),
        apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

fn status_bits(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

/// The AppArmor profiles that the kernel has; none on a host without AppArmor.
pub(crate) fn apparmor_profiles(host: &Host) -> Option<Vec<String>> {
    if !host.apparmor {
        return None;
    }
    let text = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    // Lines of `name (mode)`.
    let names = text.lines().filter_map(|line| line.rsplit_once(" ("));
    Some(names.map(|(name, _)| name.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_the_bits_of_the_bounding_set() {
        let status = "Name:\tx\nCapBnd:\t0000000000000021\nSeccomp:\t0\n";
        let names = oci::known_capabilities(status_bits(status, "CapBnd:"));
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_KILL"]);
    }
}
