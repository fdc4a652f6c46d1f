//! Snapshots, mounted by the shim itself as containerd's snapshotters describe them.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use clone8s_daemon::within;
use containerd_client::types::Mount;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    thread::UnshareFlags,
};

use super::make::bind_mapped;
use crate::{kernel, pins::IdMappings};

/// Mounts a snapshot; with a user namespace, owners in its layers are as that maps them, and `scratch` is a folder for
/// the layers meanwhile. The calling thread has a working folder of its own, which changes.
pub(crate) fn mount(
    mounts: &[Mount],
    target: &Path,
    users: Option<BorrowedFd<'_>>,
    scratch: &Path,
) -> io::Result<()> {
    match (users, mounts) {
        (None, _) => mount_layers(mounts, target),
        (Some(users), [only]) if is_bind(only) => {
            // Nothing below: what is written here is written by mapped users already, unless it is an image's.
            if has(only, "rw") {
                mount_layers(mounts, target)
            } else {
                bind_mapped(Path::new(&only.source), target, users)
            }
        }
        (Some(users), [overlay]) if overlay.r#type == "overlay" => {
            let lowers = lower_dirs(overlay);
            let mut mapped = Vec::with_capacity(lowers.len());
            for (index, lower) in lowers.iter().enumerate() {
                let place = scratch.join(index.to_string());
                bind_mapped(lower, &place, users)?;
                mapped.push(place);
            }
            let joined: Vec<_> = mapped.iter().map(|path| path.display().to_string()).collect();
            let mut overlay = overlay.clone();
            for option in &mut overlay.options {
                if option.starts_with(LOWER) {
                    *option = format!("{LOWER}{}", joined.join(":"));
                }
            }
            mount_layers(&[overlay], target)?;
            // The overlay has its own copies of these mounts.
            for place in &mapped {
                rustix::mount::unmount(place, UnmountFlags::DETACH)?;
            }
            Ok(())
        }
        _ => Err(io::Error::other(format!(
            "a snapshot of kind {:?}",
            mounts
                .iter()
                .map(|mount| mount.r#type.as_str())
                .collect::<Vec<_>>()
        ))),
    }
}

const LOWER: &str = "lowerdir=";

fn lower_dirs(overlay: &Mount) -> Vec<PathBuf> {
    let lower = overlay
        .options
        .iter()
        .find_map(|option| option.strip_prefix(LOWER));
    lower
        .map(|dirs| dirs.split(':').map(PathBuf::from).collect())
        .unwrap_or_default()
}

fn has(mount: &Mount, flag: &str) -> bool {
    mount.options.iter().any(|option| option == flag)
}

fn is_bind(mount: &Mount) -> bool {
    mount.r#type == "bind" || has(mount, "bind") || has(mount, "rbind")
}

/// Mounts a snapshot as it is. The calling thread has a working folder of its own, which changes.
pub(crate) fn mount_layers(mounts: &[Mount], target: &Path) -> io::Result<()> {
    mounts.iter().try_for_each(|mount| mount_one(mount, target))
}

fn mount_one(mount: &Mount, target: &Path) -> io::Result<()> {
    if is_bind(mount) {
        rustix::mount::mount_bind(&mount.source, target)?;
        if has(mount, "ro") {
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(target, flags, "")?;
        }
        return Ok(());
    }
    let words = ["ro", "rw"];
    let mut data: Vec<_> = mount
        .options
        .iter()
        .filter(|option| !words.contains(&option.as_str()))
        .cloned()
        .collect();
    // The kernel takes a page of options at most, which the paths of many layers would fill.
    let lowers = lower_dirs(mount);
    if let Some(shared) = lowers.first().and_then(|first| common_parent(first, &lowers)) {
        rustix::process::chdir(&shared)?;
        for option in &mut data {
            if let Some(dirs) = option.strip_prefix(LOWER) {
                let start = format!("{}/", shared.display());
                let short: Vec<_> = dirs
                    .split(':')
                    .map(|dir| dir.strip_prefix(&start).unwrap_or(dir))
                    .collect();
                *option = format!("{LOWER}{}", short.join(":"));
            }
        }
    }
    let data = CString::new(data.join(","))?;
    let flags = if has(mount, "ro") {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    Ok(rustix::mount::mount(
        &mount.source,
        target,
        &mount.r#type,
        flags,
        data.as_c_str(),
    )?)
}

/// Mounts a snapshot where no other process sees it, and looks into it.
pub(crate) async fn look_into<T: Send + 'static>(
    mounts: Vec<Mount>,
    look: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (reply, done) = tokio::sync::oneshot::channel();
    // A thread of its own, which ends in the mount namespace that it makes.
    std::thread::Builder::new()
        .name("look-into-image".into())
        .spawn(move || {
            let _ = reply.send(look_here(&mounts, look));
        })?;
    done.await
        .unwrap_or_else(|_| Err(io::Error::other("the thread died")))
}

fn look_here<T>(mounts: &[Mount], look: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    kernel::unshare(UnshareFlags::NEWNS)?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    let root = tempfile::tempdir()?;
    mount_layers(mounts, root.path())?;
    let seen = look(root.path());
    rustix::mount::unmount(root.path(), UnmountFlags::empty())?;
    seen
}

/// A part of an image whose root is here. Links in the image lead nowhere but into the image.
pub(crate) fn part_of(root: &Path, sub_path: &Path) -> io::Result<OwnedFd> {
    let part = if sub_path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        sub_path
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(within::find(&root, part, OFlags::empty(), resolve)?)
}

/// The lowest folder that all paths are in.
fn common_parent(first: &Path, paths: &[PathBuf]) -> Option<PathBuf> {
    let parent = first.ancestors().skip(1).find(|parent| {
        paths
            .iter()
            .all(|path| path.starts_with(parent) && path != parent)
    })?;
    (parent != Path::new("/") && parent.is_absolute()).then(|| parent.to_owned())
}

/// Gives the root of a new, writable snapshot to whom its owner is in a user namespace. Once only.
pub(crate) fn own_root(mounts: &[Mount], mappings: &IdMappings) -> io::Result<()> {
    let [mount] = mounts else {
        return Err(io::Error::other("a snapshot of several mounts"));
    };
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    let root = match upper {
        Some(upper) => upper,
        None if is_bind(mount) => mount.source.as_str(),
        None => {
            return Err(io::Error::other(format!(
                "the snapshotter's {:?} has no upper folder",
                mount.r#type
            )));
        }
    };
    let found = fs::symlink_metadata(root)?;
    let unmapped = || io::Error::other(format!("owner {}:{} is not mapped", found.uid(), found.gid()));
    let uid = mappings.uid(found.uid()).ok_or_else(unmapped)?;
    let gid = mappings.gid(found.gid()).ok_or_else(unmapped)?;
    std::os::unix::fs::lchown(root, Some(uid), Some(gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_layers_are_shortened_by_what_they_share() {
        let paths = ["/var/snapshots/1/fs", "/var/snapshots/20/fs"].map(PathBuf::from);
        assert_eq!(common_parent(&paths[0], &paths), Some("/var/snapshots".into()));
        let only = [PathBuf::from("/var/1/fs")];
        assert_eq!(common_parent(&only[0], &only), Some("/var/1".into()));
        let apart = ["/a/fs", "/b/fs"].map(PathBuf::from);
        assert_eq!(common_parent(&apart[0], &apart), None);
    }

    #[test]
    fn the_owner_of_a_writable_root_becomes_a_mapped_one() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("fs");
        fs::create_dir(&upper).unwrap();
        let range = [clone8s::cri::IdMapping {
            host_id: 70_000,
            container_id: 0,
            length: 10,
        }];
        let mappings = IdMappings::new("f", &range, &range).unwrap();
        let overlay = Mount {
            r#type: "overlay".into(),
            options: vec!["lowerdir=/l".into(), format!("upperdir={}", upper.display())],
            ..Default::default()
        };
        own_root(std::slice::from_ref(&overlay), &mappings).unwrap();
        let owner = fs::metadata(&upper).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (70_000, 70_000));
        // Not mapped a second time: such an owner has none.
        assert!(own_root(&[overlay], &mappings).is_err());
        assert!(own_root(&[], &mappings).is_err());
    }
}
