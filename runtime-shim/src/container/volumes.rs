//! Where a container's mounts come from.

use std::{fs, path::Path, sync::Arc};

use clone8s::cri::{self, MountPropagation};

use super::{Container, state::State};
use crate::{
    error::{Error, Result},
    ids::ContainerId,
    images::Image,
    oci,
    pins::SandboxDir,
    sandbox::{Sandbox, user_mappings},
    shim::Shim,
    staging::{self, Order, Stage, Staged},
};

/// The sources of a container's mounts, checked.
#[derive(Debug)]
pub(super) struct Volumes {
    /// One for each mount, in order.
    pub(super) sources: Vec<String>,
    /// The images among them, by index.
    pub(super) images: Vec<(usize, Arc<Image>)>,
    /// Host paths that are not there yet.
    missing: Vec<String>,
}

impl Volumes {
    /// Makes folders of the host paths that are not there, as kubelets expect of a runtime.
    pub(super) fn make_missing(&self) -> Result<()> {
        for path in &self.missing {
            fs::create_dir_all(path).map_err(Error::file("make mount source", path))?;
        }
        Ok(())
    }

    pub(super) fn snapshots(&self, id: &ContainerId) -> Vec<String> {
        let indices = self.images.iter().map(|(index, _)| *index);
        indices.map(|index| staging::image_snapshot(id, index)).collect()
    }

    /// Labels by which containerd's garbage collection finds from the container to these snapshots.
    pub(super) fn labels(&self, snapshotter: &str, id: &ContainerId) -> Vec<(String, String)> {
        let keys = self.snapshots(id).into_iter().enumerate();
        keys.map(|(number, key)| {
            let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}/image.{number}");
            (label, key)
        })
        .collect()
    }
}

impl Shim {
    /// Finds the source of each mount and checks what the host has to give.
    pub(super) async fn volumes(
        &self,
        sandbox: &Sandbox,
        id: &ContainerId,
        config: &cri::ContainerConfig,
    ) -> Result<Volumes> {
        oci::check_mounts(config)?;
        let staged = staging::plan(config)?;
        if config.mounts.iter().any(|mount| mount.recursive_read_only) {
            self.features(sandbox.handler())
                .await
                .check_recursive_read_only()?;
        }
        let stage = Stage::new(&self.config.state_dir, id);
        let mut volumes = Volumes {
            sources: Vec::with_capacity(config.mounts.len()),
            images: Vec::new(),
            missing: Vec::new(),
        };
        for (index, mount) in config.mounts.iter().enumerate() {
            if let Some(reference) = staging::image_of(mount) {
                let found = self
                    .images
                    .find(reference)
                    .await?
                    .ok_or_else(|| Error::NotFound {
                        kind: "image",
                        id: format!("{reference:?} of config.mounts[{index}] (pull it first)"),
                    })?;
                volumes.images.push((index, found.image));
            } else if !Path::new(&mount.host_path).exists() {
                volumes.missing.push(mount.host_path.clone());
            }
            let is_staged = staged.iter().any(|staged| staged.index() == index);
            volumes.sources.push(if is_staged {
                stage.mount(index).display().to_string()
            } else {
                // As it is now: whoever changes a link later does not change the container's mount.
                let real = fs::canonicalize(&mount.host_path);
                real.map_or_else(|_| mount.host_path.clone(), |path| path.display().to_string())
            });
        }
        let passes_on = |mount: &cri::Mount| mount.propagation() != MountPropagation::PropagationPrivate;
        if config.mounts.iter().any(passes_on) {
            let mountinfo = fs::read_to_string("/proc/self/mountinfo")
                .map_err(Error::file("read", "/proc/self/mountinfo"))?;
            for (index, (mount, source)) in config.mounts.iter().zip(&volumes.sources).enumerate() {
                check_propagation(index, mount.propagation(), source, &mountinfo)?;
            }
        }
        Ok(volumes)
    }

    /// What has to be staged for the start of a container.
    pub(super) async fn order(&self, container: &Container, sandbox: &Sandbox) -> Result<Order> {
        let users = user_mappings(&sandbox.config)?.map(|mappings| {
            let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
            (dir.user(), mappings)
        });
        let mut mounts = Vec::new();
        for staged in staging::plan(&container.config)? {
            let layers = match &staged {
                Staged::Image { index, .. } => {
                    let key = staging::image_snapshot(&container.id, *index);
                    self.containerd
                        .snapshot_mounts(&self.config.snapshotter, &key)
                        .await?
                }
                Staged::Mapped { .. } => Vec::new(),
            };
            mounts.push((staged, layers));
        }
        Ok(Order {
            rootfs: None,
            mounts,
            pid: self.target_of(sandbox, &container.config)?,
            users,
        })
    }

    /// The PID namespace that a container is to join because another one is in it.
    pub(super) fn target_of(
        &self,
        sandbox: &Sandbox,
        config: &cri::ContainerConfig,
    ) -> Result<Option<std::path::PathBuf>> {
        const FIELD: &str = "config.linux.security_context.namespace_options.target_id";
        if oci::processes(&sandbox.config, config) != cri::NamespaceMode::Target {
            return Ok(None);
        }
        let id = oci::namespace_options(config)
            .map(|options| options.target_id.as_str())
            .unwrap_or_default();
        if id.is_empty() {
            return Err(Error::invalid(FIELD, "missing"));
        }
        let target = self
            .table
            .container(id)
            .map_err(|_| Error::invalid(FIELD, format!("container {id} is not there")))?;
        if target.sandbox != sandbox.id {
            return Err(Error::invalid(
                FIELD,
                format!("container {id} is of another sandbox"),
            ));
        }
        let State::Running { pid, .. } = target.state() else {
            return Err(Error::WrongState {
                kind: "target container",
                id: target.id.to_string(),
                state: target.state().name(),
                next_step: "only a running container has processes to look at",
            });
        };
        Ok(Some(format!("/proc/{pid}/ns/pid").into()))
    }
}

/// A mount passes on new mounts only as far as the host's own mount does (mount_namespaces(7)).
fn check_propagation(
    index: usize,
    propagation: MountPropagation,
    source: &str,
    mountinfo: &str,
) -> Result<()> {
    let wanted: &[&str] = match propagation {
        MountPropagation::PropagationPrivate => return Ok(()),
        MountPropagation::PropagationHostToContainer => &["shared:", "master:"],
        MountPropagation::PropagationBidirectional => &["shared:"],
    };
    let (point, tags) = mount_over(Path::new(source), mountinfo);
    if tags
        .iter()
        .any(|tag| wanted.iter().any(|start| tag.starts_with(start)))
    {
        return Ok(());
    }
    let kind = match propagation {
        MountPropagation::PropagationBidirectional => "a shared",
        _ => "a shared or slave",
    };
    Err(Error::unmet(
        format!("config.mounts[{index}].propagation"),
        format!(
            "{source} is mounted on {point}, which is not {kind} mount; try mount --make-rshared {point}"
        ),
    ))
}

/// The mount that a path is on, and its optional fields (proc_pid_mountinfo(5)).
fn mount_over<'a>(path: &Path, mountinfo: &'a str) -> (String, Vec<&'a str>) {
    let mut best: Option<(String, Vec<&str>)> = None;
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescape) else {
            continue;
        };
        let tags = fields.skip(1).take_while(|field| *field != "-").collect();
        // Of several mounts on one point the last is on top.
        if path.starts_with(&point) && best.as_ref().is_none_or(|(other, _)| point.len() >= other.len()) {
            best = Some((point, tags));
        }
    }
    best.unwrap_or_else(|| ("/".to_owned(), Vec::new()))
}

fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /srv rw shared:5 - tmpfs t rw
31 30 0:31 / /srv/slave rw master:5 - tmpfs t rw
32 22 0:32 / /srv\\040two rw shared:6 - tmpfs t rw
33 22 0:33 / /top rw shared:7 - tmpfs t rw
34 33 0:34 / /top rw - tmpfs t rw
";

    #[test]
    fn a_mount_can_pass_on_what_the_hosts_mount_passes_on() {
        use MountPropagation::{PropagationBidirectional as Both, PropagationHostToContainer as Down};
        let check = |propagation, source: &str| check_propagation(3, propagation, source, MOUNTINFO);
        for (propagation, source, good) in [
            (Down, "/srv/a", true),
            (Both, "/srv/a", true),
            (Down, "/srv/slave/a", true),
            (Both, "/srv/slave/a", false),
            (Both, "/srv two/a", true),
            (Down, "/other", false),
            (Both, "/srvx", false),
            (Both, "/top", false),
            (MountPropagation::PropagationPrivate, "/other", true),
        ] {
            assert_eq!(
                check(propagation, source).is_ok(),
                good,
                "{propagation:?} {source}"
            );
        }
        let error = check(Both, "/srv/slave/a").unwrap_err().to_string();
        assert!(
            error.contains("config.mounts[3].propagation") && error.contains("/srv/slave,"),
            "{error}"
        );
    }
}
