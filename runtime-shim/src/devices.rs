//! Device nodes of the host, looked up when they are asked for: they come and go.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use clone8s::cri;

use crate::{
    error::{Error, Result},
    oci::{GrantedDevice, HostDevice, not_a_plain_path},
};

/// All of `/dev`, for a privileged container.
pub(crate) fn all() -> Vec<HostDevice> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found);
    found
}

/// The devices that a container asks for: nodes, or folders with all nodes in them; links are followed.
pub(crate) fn granted(config: &cri::ContainerConfig) -> Result<Vec<GrantedDevice>> {
    let mut granted = Vec::new();
    for (index, device) in config.devices.iter().enumerate() {
        let refuse = |field: &str, problem: String| {
            Err(Error::invalid(
                format!("config.devices[{index}].{field}"),
                problem,
            ))
        };
        for (field, path) in [
            ("host_path", &device.host_path),
            ("container_path", &device.container_path),
        ] {
            if let Some(problem) = not_a_plain_path(path) {
                return refuse(field, format!("{path:?} {problem}"));
            }
        }
        let access = device.permissions.as_str();
        if access.is_empty() || access.contains(|c| !"rwm".contains(c)) {
            return refuse("permissions", format!("{access:?} must be letters of \"rwm\""));
        }
        let host_path = Path::new(&device.host_path);
        let real = match fs::canonicalize(host_path) {
            Ok(real) => real,
            Err(error) => return refuse("host_path", format!("{}: {error}", device.host_path)),
        };
        let mut found = Vec::new();
        if real.is_dir() {
            collect(&real, &mut found);
        } else if let Ok(Some(node)) = node(&real) {
            found.push(node);
        }
        if found.is_empty() {
            return refuse(
                "host_path",
                format!("{} is no device, nor a folder with any", device.host_path),
            );
        }
        granted.extend(found.into_iter().map(|device_found| {
            let inside = device_found.path.strip_prefix(&real).unwrap_or(Path::new(""));
            let path = if inside.as_os_str().is_empty() {
                PathBuf::from(&device.container_path)
            } else {
                Path::new(&device.container_path).join(inside)
            };
            GrantedDevice {
                device: device_found,
                path,
                access: access.to_owned(),
            }
        }));
    }
    Ok(granted)
}

/// The device at a path; none where something else is there.
pub(crate) fn node(path: &Path) -> io::Result<Option<HostDevice>> {
    let found = fs::metadata(path)?;
    let kind = found.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Ok(None);
    }
    Ok(Some(HostDevice {
        path: path.to_owned(),
        kind: if kind.is_char_device() { 'c' } else { 'b' },
        major: rustix::fs::major(found.rdev()),
        minor: rustix::fs::minor(found.rdev()),
        mode: found.mode() & 0o777,
        uid: found.uid(),
        gid: found.gid(),
    }))
}

/// Device nodes, without those that belong to a file system of the container's own.
fn collect(dir: &Path, devices: &mut Vec<HostDevice>) {
    const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if !OWN.iter().any(|own| entry.file_name() == *own) {
                collect(&path, devices);
            }
        } else if (kind.is_char_device() || kind.is_block_device()) && path != Path::new("/dev/console") {
            devices.extend(node(&path).ok().flatten());
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn asking(host_path: &str, container_path: &str, permissions: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            devices: vec![cri::Device {
                container_path: container_path.into(),
                host_path: host_path.into(),
                permissions: permissions.into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_hosts_null_device_is_found() {
        let all = all();
        let null = all
            .iter()
            .find(|device| device.path == Path::new("/dev/null"))
            .unwrap();
        assert_eq!((null.kind, null.major, null.minor), ('c', 1, 3));
        assert!(!all.iter().any(|device| device.path.starts_with("/dev/pts")));
    }

    #[test]
    fn a_device_is_found_by_node_link_and_folder() {
        let granted_at = |host: &str| granted(&asking(host, "/dev/inside", "rw")).unwrap();
        let by_node = granted_at("/dev/zero");
        assert_eq!(by_node[0].path, Path::new("/dev/inside"));
        assert_eq!((by_node[0].device.major, by_node[0].device.minor), (1, 5));

        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert_eq!(granted_at(link.to_str().unwrap()), by_node);

        let nodes = dir.path().join("nodes");
        fs::create_dir(&nodes).unwrap();
        let device = rustix::fs::makedev(1, 5);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            nodes.join("own-zero"),
            rustix::fs::FileType::CharacterDevice,
            mode,
            device,
        )
        .unwrap();
        let in_folder = granted_at(nodes.to_str().unwrap());
        assert_eq!(in_folder.len(), 1);
        assert_eq!(in_folder[0].path, Path::new("/dev/inside/own-zero"));
    }

    #[rstest]
    #[case::relative("dev/null", "/dev/x", "rw", "devices[0].host_path")]
    #[case::leading_up("/dev/../etc", "/dev/x", "rw", "devices[0].host_path")]
    #[case::absent("/dev/nonesuch", "/dev/x", "rw", "devices[0].host_path")]
    #[case::a_file("/etc/passwd", "/dev/x", "rw", "devices[0].host_path")]
    #[case::relative_inside("/dev/null", "x", "rw", "devices[0].container_path")]
    #[case::no_right("/dev/null", "/dev/x", "", "devices[0].permissions")]
    #[case::unknown_right("/dev/null", "/dev/x", "rx", "devices[0].permissions")]
    fn what_is_no_device_is_refused_by_its_field(
        #[case] host: &str,
        #[case] inside: &str,
        #[case] access: &str,
        #[case] field: &str,
    ) {
        let error = granted(&asking(host, inside, access)).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
