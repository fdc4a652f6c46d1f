//! What this host and this process can give to containers, read once at the start.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use crate::{
    cgroups::Cgroups,
    oci::{self, Host, HostDevice},
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
    let mut devices = Vec::new();
    collect_devices(Path::new("/dev"), &mut devices);
    Host {
        cgroup_v2: cgroups.is_unified(),
        capabilities,
        oom_score_adj_floor,
        devices,
    }
}

fn status_bits(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

/// Device nodes, without those that belong to a file system of the container's own.
fn collect_devices(dir: &Path, devices: &mut Vec<HostDevice>) {
    const OWN: [&str; 5] = ["pts", "shm", "fd", "mqueue", ".lxc"];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = found.file_type();
        if kind.is_dir() && !OWN.iter().any(|own| entry.file_name() == *own) {
            collect_devices(&path, devices);
        } else if (kind.is_char_device() || kind.is_block_device()) && path != Path::new("/dev/console") {
            devices.push(HostDevice {
                path,
                kind: if kind.is_char_device() { 'c' } else { 'b' },
                major: rustix::fs::major(found.rdev()),
                minor: rustix::fs::minor(found.rdev()),
                mode: found.mode() & 0o777,
                uid: found.uid(),
                gid: found.gid(),
            });
        }
    }
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

    #[test]
    fn the_hosts_null_device_is_found() {
        let host = read(&Cgroups::of_host());
        let null = host
            .devices
            .iter()
            .find(|device| device.path == Path::new("/dev/null"))
            .unwrap();
        assert_eq!((null.kind, null.major, null.minor), ('c', 1, 3));
    }
}
