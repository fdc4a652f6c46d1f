//! Mounts that the start of a container needs for a moment, because no OCI runtime makes them by itself: file systems
//! with other owners, images as volumes, another container's processes.
//!
//! ```text
//! <state_dir>/stages/<container>/rootfs        the root of a container in a user namespace
//!                                lower/<n>     its layers, with their owners mapped
//!                                mounts/<n>    the source of the container's nth mount
//!                                pid           the PID namespace that it joins
//! ```
//!
//! The container's own mounts are copies of these, so that all of them go as soon as its task is made.

mod make;
mod snapshot;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clone8s::cri;
use containerd_client::types::Mount;
use rustix::mount::UnmountFlags;

pub(crate) use self::snapshot::{look_into, own_root};
use crate::{
    error::{Error, Result},
    ids::ContainerId,
    pins::IdMappings,
};

/// A mount of the caller's that has to be staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Staged {
    /// A folder or file of the host with other owners.
    Mapped {
        index: usize,
        source: PathBuf,
        mappings: IdMappings,
    },
    /// What an image holds, or a part of it.
    Image { index: usize, sub_path: PathBuf },
}

impl Staged {
    /// Which of the container's mounts it is.
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Mapped { index, .. } | Self::Image { index, .. } => *index,
        }
    }
}

/// Which of a container's mounts have to be staged; the field that is wrong where they contradict themselves.
pub(crate) fn plan(config: &cri::ContainerConfig) -> Result<Vec<Staged>> {
    let mut all = Vec::new();
    for (index, mount) in config.mounts.iter().enumerate() {
        let field = format!("config.mounts[{index}]");
        if let Some(image) = image_of(mount) {
            if !mount.host_path.is_empty() {
                return Err(Error::invalid(
                    format!("{field}.host_path"),
                    format!("a mount of image {image} has no host path"),
                ));
            }
            let sub_path = relative_part(&format!("{field}.image_sub_path"), &mount.image_sub_path)?;
            all.push(Staged::Image { index, sub_path });
        } else if !mount.image_sub_path.is_empty() {
            return Err(Error::invalid(
                format!("{field}.image_sub_path"),
                "there is no image beside it",
            ));
        } else if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            let mappings = IdMappings::new(&field, &mount.uid_mappings, &mount.gid_mappings)?;
            let source = PathBuf::from(&mount.host_path);
            all.push(Staged::Mapped {
                index,
                source,
                mappings,
            });
        }
    }
    Ok(all)
}

/// The image that a mount is of.
pub(crate) fn image_of(mount: &cri::Mount) -> Option<&str> {
    let image = mount.image.as_ref()?.image.as_str();
    (!image.is_empty()).then_some(image)
}

/// Looks for the part of an image that the nth mount asks for, in a snapshot of the image.
pub(crate) async fn check_part(index: usize, sub_path: &Path, mounts: Vec<Mount>) -> Result<()> {
    if sub_path.as_os_str().is_empty() {
        return Ok(());
    }
    let part = sub_path.to_owned();
    // Closed before the snapshot is unmounted, which it would keep busy.
    let found = look_into(mounts, move |root| snapshot::part_of(root, &part).map(drop)).await;
    found.map_err(|error| make::no_part(index, sub_path, &error))
}

/// The snapshot of a container's nth mount.
pub(crate) fn image_snapshot(id: &ContainerId, index: usize) -> String {
    format!("{id}-image-{index}")
}

/// The container that a snapshot of this name is of: its own, or that of one of its mounts.
pub(crate) fn container_of(snapshot: &str) -> &str {
    snapshot.split_once("-image-").map_or(snapshot, |(id, _)| id)
}

/// A path that stays within what it is relative to.
fn relative_part(field: &str, path: &str) -> Result<PathBuf> {
    use std::path::Component;
    let path = Path::new(path);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        Ok(path.to_owned())
    } else {
        Err(Error::invalid(
            field.to_owned(),
            format!("{} must be relative and without \"..\"", path.display()),
        ))
    }
}

/// Everything to stage for one start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    /// The root's snapshot, in a pod with users of its own.
    pub(crate) rootfs: Option<Vec<Mount>>,
    pub(crate) mounts: Vec<(Staged, Vec<Mount>)>,
    /// A PID namespace to join.
    pub(crate) pid: Option<PathBuf>,
    /// The pod's user namespace, pinned, and its mappings.
    pub(crate) users: Option<(PathBuf, IdMappings)>,
}

impl Order {
    fn is_empty(&self) -> bool {
        self.rootfs.is_none() && self.mounts.is_empty() && self.pid.is_none()
    }
}

/// Where the mounts for one container are.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    path: PathBuf,
}

impl Stage {
    pub(crate) fn new(state_dir: &Path, id: &ContainerId) -> Self {
        Self {
            path: all(state_dir).join(id.as_str()),
        }
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    pub(crate) fn mount(&self, index: usize) -> PathBuf {
        self.path.join("mounts").join(index.to_string())
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.path.join("pid")
    }

    /// Makes what is ordered. What fails leaves nothing.
    pub(crate) async fn set(&self, order: Order) -> Result<()> {
        if order.is_empty() {
            return Ok(());
        }
        let stage = self.clone();
        // A thread of its own: it changes its working folder.
        let (reply, done) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("stage".into())
            .spawn(move || {
                let _ = reply.send(stage.make(&order));
            })
            .map_err(Error::file("start a thread to stage", &self.path))?;
        let made = done.await.unwrap_or_else(|_| {
            Err(Error::file("stage", &self.path)(io::Error::other(
                "the thread died",
            )))
        });
        if made.is_err() {
            self.clear()?;
        }
        made
    }

    /// Unmounts and removes everything. Repeatable.
    pub(crate) fn clear(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let below = format!("{}/", self.path.display());
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")
            .map_err(Error::file("read", "/proc/self/mountinfo"))?;
        // The last made first: they may lie on each other.
        for point in mountinfo
            .lines()
            .rev()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&below))
        {
            match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(Error::file("unmount", point)(error.into())),
            }
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove folder", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The containers that have a stage: their start was cut off.
pub(crate) fn found(state_dir: &Path) -> Vec<ContainerId> {
    let entries = fs::read_dir(all(state_dir)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.into()))
        .collect()
}

fn all(state_dir: &Path) -> PathBuf {
    state_dir.join("stages")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", true)]
    #[case("data/inner", true)]
    #[case("./data", true)]
    #[case("/data", false)]
    #[case("..", false)]
    #[case("data/../../etc", false)]
    fn a_part_of_an_image_is_named_from_its_root_down(#[case] path: &str, #[case] good: bool) {
        assert_eq!(relative_part("f", path).is_ok(), good);
    }

    #[test]
    fn only_what_no_runtime_can_mount_is_staged() {
        let range = || {
            vec![cri::IdMapping {
                host_id: 70_000,
                container_id: 0,
                length: 10,
            }]
        };
        let plain = cri::Mount {
            host_path: "/srv".into(),
            ..Default::default()
        };
        let image = cri::Mount {
            image: Some(cri::ImageSpec {
                image: "data:1".into(),
                ..Default::default()
            }),
            image_sub_path: "a".into(),
            ..Default::default()
        };
        let mapped = cri::Mount {
            uid_mappings: range(),
            gid_mappings: range(),
            ..plain.clone()
        };
        let mut config = cri::ContainerConfig {
            mounts: vec![plain.clone(), image.clone(), mapped.clone()],
            ..Default::default()
        };
        let staged = plan(&config).unwrap();
        assert!(matches!(&staged[0], Staged::Image { index: 1, sub_path } if sub_path == Path::new("a")));
        assert!(matches!(&staged[1], Staged::Mapped { index: 2, .. }));
        assert_eq!(staged.len(), 2);

        let both = cri::Mount {
            host_path: "/srv".into(),
            ..image
        };
        let half = cri::Mount {
            gid_mappings: Vec::new(),
            ..mapped
        };
        let lonely = cri::Mount {
            image_sub_path: "a".into(),
            ..plain
        };
        for (mount, field) in [
            (both, "mounts[0].host_path"),
            (half, "mounts[0].gids"),
            (lonely, "image_sub_path"),
        ] {
            config.mounts = vec![mount];
            let error = plan(&config).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn clearing_removes_the_mounts_of_a_stage_and_is_repeatable() {
        let state = tempfile::tempdir().unwrap();
        let id = ContainerId::from("c1");
        let stage = Stage::new(state.path(), &id);
        fs::create_dir_all(stage.mount(0)).unwrap();
        rustix::mount::mount(
            "t",
            stage.mount(0),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        fs::create_dir(stage.mount(0).join("x")).unwrap();
        rustix::mount::mount_bind("/usr", stage.mount(0).join("x")).unwrap();
        assert_eq!(found(state.path()), [id]);
        stage.clear().unwrap();
        stage.clear().unwrap();
        assert!(found(state.path()).is_empty());
        assert!(Path::new("/usr/bin").exists());
    }
}
