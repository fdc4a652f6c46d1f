//! What is mounted in a container (OCI runtime spec 1.0.2, config.md, "Mounts"; CRI v1, Mount).

use clone8s::cri::{self, MountPropagation};

use super::{Inputs, types::Mount};
use crate::error::{Error, Result};

/// The kernel's file systems, the sandbox's files, then the caller's mounts, parents before children.
pub(super) fn mounts(inputs: &Inputs<'_>, security: &cri::LinuxContainerSecurityContext) -> Vec<Mount> {
    let container = inputs.container;
    let given = |path: &str| {
        container
            .mounts
            .iter()
            .any(|mount| clean(&mount.container_path) == path)
    };
    let mut all = kernel_file_systems(inputs, security);
    all.retain(|mount| !given(&mount.destination));

    let read_only = if security.readonly_rootfs { "ro" } else { "rw" };
    let files = [
        ("/etc/hosts", &inputs.files.hosts),
        ("/etc/hostname", &inputs.files.hostname),
        ("/etc/resolv.conf", &inputs.files.resolv_conf),
    ];
    for (destination, source) in files.into_iter().filter(|(destination, _)| !given(destination)) {
        all.push(bind(
            destination,
            &source.display().to_string(),
            &["rbind", "rprivate", read_only],
        ));
    }
    let mut theirs = container
        .mounts
        .iter()
        .zip(&inputs.sources)
        .map(|(mount, source)| requested(mount, source))
        .collect::<Vec<_>>();
    theirs.sort_by_key(|mount| {
        mount
            .destination
            .split('/')
            .filter(|part| !part.is_empty())
            .count()
    });
    all.extend(theirs);
    all.extend(inputs.edits.mounts.iter().map(|mount| Mount {
        destination: clean(&mount.container_path).to_owned(),
        kind: mount.kind.clone().unwrap_or_else(|| "bind".to_owned()),
        source: mount.host_path.clone(),
        options: match mount.options.as_slice() {
            [] => ["rbind", "rprivate", "nosuid", "nodev"].map(str::to_owned).into(),
            given => given.to_vec(),
        },
    }));
    all
}

/// A mount that is to pass new mounts on needs a root that does.
pub(super) fn rootfs_propagation(container: &cri::ContainerConfig) -> String {
    let has = |propagation| {
        container
            .mounts
            .iter()
            .any(|mount| mount.propagation() == propagation)
    };
    let propagation = if has(MountPropagation::PropagationBidirectional) {
        "rshared"
    } else if has(MountPropagation::PropagationHostToContainer) {
        "rslave"
    } else {
        "private"
    };
    propagation.to_owned()
}

fn kernel_file_systems(inputs: &Inputs<'_>, security: &cri::LinuxContainerSecurityContext) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    };
    let access = if security.privileged { "rw" } else { "ro" };
    // The node's own, with all that is mounted in it, only where the kernel allows no other: its network seen by users of
    // another namespace.
    let sys = if inputs.wanted.net || !inputs.wanted.user {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])
    } else {
        bind(
            "/sys",
            "/sys",
            &["rbind", "rslave", "nosuid", "noexec", "nodev", access],
        )
    };
    let shm = if inputs.wanted.ipc {
        inputs.files.shm.display().to_string()
    } else {
        "/dev/shm".to_owned()
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
        bind("/dev/shm", &shm, &["rbind", "rprivate", "rw"]),
    ]
}

/// What a caller may add to a mount: flags of the kernel that only take something away, and times of access.
const MOUNT_OPTIONS: [&str; 12] = [
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nosuid",
    "nosymfollow",
    "relatime",
    "rnodev",
    "rnoexec",
    "rnosuid",
    "ro",
    "strictatime",
];

/// What is wrong with the mounts in themselves, by field.
pub(crate) fn check(container: &cri::ContainerConfig) -> Result<()> {
    for (index, mount) in container.mounts.iter().enumerate() {
        let refuse = |field: &str, problem: String| {
            Err(Error::invalid(format!("config.mounts[{index}].{field}"), problem))
        };
        let to = &mount.container_path;
        if to.is_empty() {
            return refuse("container_path", "missing".into());
        }
        if let Some(problem) = not_a_plain_path(to) {
            return refuse("container_path", format!("{to}: {problem}"));
        }
        if to.split('/').all(|part| matches!(part, "" | ".")) {
            return refuse(
                "container_path",
                "the container's root cannot be mounted over".into(),
            );
        }
        let is_image = crate::staging::image_of(mount).is_some();
        if !is_image {
            if mount.host_path.is_empty() {
                return refuse("host_path", "missing".into());
            }
            if let Some(problem) = not_a_plain_path(&mount.host_path) {
                return refuse("host_path", format!("{}: {problem}", mount.host_path));
            }
        }
        if MountPropagation::try_from(mount.propagation).is_err() {
            return refuse("propagation", format!("{} is no propagation", mount.propagation));
        }
        let is_private = mount.propagation() == MountPropagation::PropagationPrivate;
        if is_image && !is_private {
            return refuse(
                "propagation",
                "an image has no mounts to pass on; use PRIVATE".into(),
            );
        }
        if mount.recursive_read_only && !(mount.readonly && is_private) {
            return refuse(
                "recursive_read_only",
                "needs readonly and private propagation beside it".into(),
            );
        }
        if let Some(option) = mount
            .mount_options
            .iter()
            .find(|option| !MOUNT_OPTIONS.contains(&option.as_str()))
        {
            let problem = format!("{option:?} is not among {}", MOUNT_OPTIONS.join(", "));
            return refuse("mount_options", problem);
        }
    }
    Ok(())
}

/// Why a path does not say plainly where it leads.
pub(crate) fn not_a_plain_path(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("must be absolute");
    }
    if path.split('/').any(|part| part == "..") {
        return Some("must not have \"..\" in it");
    }
    path.contains('\0').then_some("must not have a NUL in it")
}

/// A mount that [`check`] has passed.
fn requested(mount: &cri::Mount, source: &str) -> Mount {
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    // What others run from is nobody's to write to.
    let readonly = mount.readonly || crate::staging::image_of(mount).is_some();
    let access = match (readonly, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut bound = bind(
        clean(&mount.container_path),
        source,
        &["rbind", propagation, access],
    );
    bound.options.extend(mount.mount_options.iter().cloned());
    bound
}

fn bind(destination: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: "bind".to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

/// Without a slash at the end.
fn clean(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}
