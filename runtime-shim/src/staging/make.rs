//! The mounts themselves.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree},
    thread::UnshareFlags,
};

use super::{Order, Stage, Staged, snapshot};
use crate::{
    error::{Error, Result},
    kernel::{self, MountChange},
    pins::IdMappings,
    roles::Held,
};

impl Stage {
    pub(super) fn make(&self, order: &Order) -> Result<()> {
        let in_stage = |error| Error::file("stage", &self.path)(error);
        // The working folder becomes the thread's own.
        kernel::unshare(UnshareFlags::FS).map_err(in_stage)?;
        fs::create_dir_all(self.path.join("mounts")).map_err(in_stage)?;
        let users = match &order.users {
            Some((path, mappings)) => {
                let namespace = File::open(path).map_err(Error::file("open", path))?;
                Some((namespace, mappings))
            }
            None => None,
        };
        let namespace = users.as_ref().map(|(namespace, _)| namespace.as_fd());
        if let Some(path) = &order.pid {
            File::create(self.pid())
                .map(drop)
                .and_then(|()| Ok(rustix::mount::mount_bind(path, self.pid())?))
                .map_err(Error::file("pin", path))?;
        }
        if let Some(mounts) = &order.rootfs {
            fs::create_dir_all(self.rootfs()).map_err(in_stage)?;
            snapshot::mount(mounts, &self.rootfs(), namespace, &self.path.join("lower"))
                .map_err(|error| no_mapped_layers(&error))?;
        }
        for (staged, layers) in &order.mounts {
            match staged {
                Staged::Mapped {
                    index,
                    source,
                    mappings,
                } => {
                    let mapped = match &users {
                        Some((namespace, of_pod)) if *of_pod == mappings => {
                            bind_mapped(source, &self.mount(*index), namespace.as_fd())
                        }
                        _ => bind_mapped_otherwise(source, &self.mount(*index), mappings),
                    };
                    mapped.map_err(|error| {
                        Error::unmet(
                            format!("config.mounts[{index}].uidMappings"),
                            format!(
                                "{} cannot be mounted with other owners ({error}); its file system or this kernel \
                                 has no id-mapped mounts",
                                source.display()
                            ),
                        )
                    })?;
                }
                Staged::Image { index, sub_path } => {
                    self.mount_image(*index, sub_path, layers, namespace)?;
                }
            }
        }
        Ok(())
    }

    fn mount_image(
        &self,
        index: usize,
        sub_path: &Path,
        layers: &[containerd_client::types::Mount],
        users: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let whole = self.path.join(format!("mounts/{index}.image"));
        let in_stage = |error: io::Error| Error::file("mount image at", &whole)(error);
        fs::create_dir_all(&whole).map_err(in_stage)?;
        let lower = self.path.join(format!("mounts/{index}.lower"));
        snapshot::mount(layers, &whole, users, &lower).map_err(|error| match users {
            Some(_) => no_mapped_layers(&error),
            None => in_stage(error),
        })?;
        let part = snapshot::part_of(&whole, sub_path).map_err(|error| no_part(index, sub_path, &error))?;
        attach(clone_of(&part, false), &self.mount(index)).map_err(in_stage)?;
        drop(part);
        rustix::mount::unmount(&whole, UnmountFlags::DETACH).map_err(|error| in_stage(error.into()))
    }
}

/// The mount that asks for a part of its image that is not there.
pub(super) fn no_part(index: usize, sub_path: &Path, error: &io::Error) -> Error {
    Error::invalid(
        format!("config.mounts[{index}].image_sub_path"),
        format!("{} in the image: {error}", sub_path.display()),
    )
}

fn no_mapped_layers(error: &io::Error) -> Error {
    Error::unmet(
        "config.linux.security_context.namespace_options.userns_options",
        format!(
            "the image cannot be mounted with other owners ({error}); this needs Linux 5.19, the overlayfs \
             snapshotter, and a file system below it with id-mapped mounts"
        ),
    )
}

fn bind_mapped_otherwise(source: &Path, target: &Path, mappings: &IdMappings) -> io::Result<()> {
    let held = Held::make(mappings, None)?;
    let namespace = File::open(held.namespace("user"))?;
    bind_mapped(source, target, namespace.as_fd())
}

/// Binds a folder or file with what is mounted below it; its own owners are as the user namespace maps them.
pub(super) fn bind_mapped(source: &Path, target: &Path, users: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(source, flags, Mode::empty())?;
    let copy = clone_of(&opened, true)?;
    kernel::change_mount(copy.as_fd(), Path::new(""), MountChange::IdMapped(users))?;
    attach(Ok(copy), target)
}

/// A mount of its own of what a descriptor is of, nowhere yet.
fn clone_of(opened: &OwnedFd, with_those_below: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if with_those_below {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(opened, "", flags)?)
}

/// Puts a mount at a path, which is made.
fn attach(mount: io::Result<OwnedFd>, target: &Path) -> io::Result<()> {
    let mount = mount?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&mount)?.st_mode);
    if kind.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        File::create(target)?;
    }
    Ok(move_mount(
        &mount,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}
