//! What is mounted in a container (OCI runtime spec 1.0.2, config.md, "Mounts"; CRI v1, Mount).

use clone8s::cri::{self, MountPropagation};

use super::{Inputs, types::Mount};
use crate::error::{Error, Result};

/// The kernel's file systems, the sandbox's files, then the caller's mounts, parents before children.
pub(super) fn mounts(
    inputs: &Inputs<'_>,
    security: &cri::LinuxContainerSecurityContext,
) -> Result<Vec<Mount>> {
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
        .map(requested)
        .collect::<Result<Vec<_>>>()?;
    theirs.sort_by_key(|mount| {
        mount
            .destination
            .split('/')
            .filter(|part| !part.is_empty())
            .count()
    });
    all.extend(theirs);
    Ok(all)
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
    let sys = if inputs.wanted.net {
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

fn requested(mount: &cri::Mount) -> Result<Mount> {
    let path = &mount.container_path;
    let refuse = |problem: &str| Err(Error::invalid("config.mounts", format!("{path}: {problem}")));
    if !path.starts_with('/') {
        return refuse("the container path must be absolute");
    }
    if mount.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        return refuse("mounts of images are not implemented");
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return refuse("mounts with user mappings are not implemented");
    }
    if mount.host_path.is_empty() {
        return refuse("no host path");
    }
    if mount.recursive_read_only {
        return refuse("recursive read-only mounts are not implemented");
    }
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let access = if mount.readonly { "ro" } else { "rw" };
    let mut bound = bind(clean(path), &mount.host_path, &["rbind", propagation, access]);
    bound.options.extend(mount.mount_options.iter().cloned());
    Ok(bound)
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
