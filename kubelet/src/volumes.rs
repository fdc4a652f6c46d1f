//! The node's side of volumes: what a container mounts, made ready on the host.
//!
//! ```text
//! <data>/pods/<uid>/owner                     the pod's namespace and name
//! <data>/pods/<uid>/volumes/<name>            emptyDir: a folder, or a tmpfs
//! <data>/pods/<uid>/subpaths/<container>/<n>  a bind mount of a sub_path, so that nobody can swap what is behind it
//! <data>/pods/<uid>/etc-hosts                 /etc/hosts of a pod with a network of its own
//! ```
//!
//! Everything here blocks, and all of it may be repeated.

mod mounts;
mod sub_path;

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clone8s::{
    cri::{Mount, MountPropagation},
    quantity,
    v1::{
        Container, EmptyDirVolumeSource, HostPathVolumeSource, PodSpec, Volume, VolumeMount, volume::Source,
    },
};

use crate::desired::{DesiredPod, PodKey, PodUid};

/// Why a volume cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume {name}: the pod has no volume of this name")]
    Unknown { name: String },
    #[error("volume {name}: {path} is not a {wanted}, as the volume's type asks", path = .path.display())]
    WrongType {
        name: String,
        path: PathBuf,
        wanted: &'static str,
    },
    #[error("volume {name}: the type {type_name:?} is not known")]
    UnknownType { name: String, type_name: String },
    #[error("volume {name}: {cause}")]
    SizeLimit {
        name: String,
        #[source]
        cause: quantity::QuantityError,
    },
    #[error("volume {name}: {sub_path:?} does not stay within the volume")]
    Escape { name: String, sub_path: String },
    #[error("volume {name}: cannot {attempt} {path}: {cause}", path = .path.display())]
    Io {
        name: String,
        attempt: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// The folders of every pod on the node.
#[derive(Debug, Clone)]
pub struct Volumes {
    pods: PathBuf,
    /// Held while a tmpfs is looked for and mounted: containers of one pod are made side by side, and the second must
    /// not cover what the first mounts.
    tmpfs: Arc<Mutex<()>>,
}

impl Volumes {
    pub fn new(data_dir: &Path) -> Self {
        Self {
            pods: data_dir.join("pods"),
            tmpfs: Arc::default(),
        }
    }

    /// Makes every volume of a container ready and says how to mount it. `pod_ip` is None on the host network.
    pub fn mounts(
        &self,
        pod: &DesiredPod,
        container: &Container,
        pod_ip: Option<&str>,
    ) -> Result<Vec<Mount>, VolumeError> {
        let place = self.dir(&pod.uid());
        let mut mounts = Vec::with_capacity(container.volume_mounts.len() + 1);
        for (index, wanted) in container.volume_mounts.iter().enumerate() {
            let source = self.volume_path(&place, pod.spec(), wanted)?;
            let host_path = if wanted.sub_path.is_empty() {
                source
            } else {
                let target = place
                    .join("subpaths")
                    .join(&container.name)
                    .join(index.to_string());
                sub_path::bind(&wanted.name, &source, &wanted.sub_path, &target)?;
                target
            };
            mounts.push(mount(&host_path, &wanted.mount_path, wanted.read_only));
        }
        let own_hosts = mounts.iter().any(|mount| mount.container_path == HOSTS);
        if let Some(ip) = pod_ip.filter(|ip| !ip.is_empty() && !own_hosts) {
            let path = write_hosts(&place, ip, crate::pod::hash::hostname(pod))?;
            mounts.push(mount(&path, HOSTS, false));
        }
        Ok(mounts)
    }

    fn volume_path(
        &self,
        place: &Path,
        spec: &PodSpec,
        wanted: &VolumeMount,
    ) -> Result<PathBuf, VolumeError> {
        let volume = spec.volumes.iter().find(|volume| volume.name == wanted.name);
        match volume {
            Some(Volume {
                name,
                source: Some(Source::HostPath(host_path)),
            }) => ready_host_path(name, host_path),
            Some(Volume {
                name,
                source: Some(Source::EmptyDir(empty_dir)),
            }) => {
                let _mounting = self.tmpfs.lock().unwrap_or_else(PoisonError::into_inner);
                ready_empty_dir(name, empty_dir, &place.join("volumes").join(name))
            }
            Some(Volume { source: None, .. }) | None => Err(VolumeError::Unknown {
                name: wanted.name.clone(),
            }),
        }
    }

    /// The folder of a pod: of what the kubelet keeps for it until it is cleaned up.
    pub fn dir(&self, uid: &PodUid) -> PathBuf {
        self.pods.join(uid.as_str())
    }

    /// Takes down the mounts of a pod and removes its folders. Harmless when there are none.
    pub fn clean_up(&self, uid: &PodUid) -> io::Result<()> {
        let place = self.dir(uid);
        mounts::unmount_below(&place)?;
        remove_tree(&place)
    }

    /// Notes that a pod has come to the node: until it is cleaned up, [`Volumes::known`] names it.
    pub fn claim(&self, key: &PodKey, uid: &PodUid) -> io::Result<()> {
        let place = self.dir(uid);
        fs::create_dir_all(&place)?;
        fs::write(place.join(OWNER), key.to_string())
    }

    /// All pods that have folders here.
    pub fn known(&self) -> io::Result<Vec<(PodUid, Option<PodKey>)>> {
        let entries = match fs::read_dir(&self.pods) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries
            .map(|entry| {
                let entry = entry?;
                let owner = fs::read_to_string(entry.path().join(OWNER)).ok();
                let key = owner
                    .as_deref()
                    .and_then(|owner| owner.split_once('/'))
                    .map(|(namespace, name)| PodKey::new(namespace, name));
                Ok((PodUid::new(entry.file_name().to_string_lossy()), key))
            })
            .collect()
    }
}

/// Names the pod whose folders these are.
const OWNER: &str = "owner";
const HOSTS: &str = "/etc/hosts";

fn mount(host_path: &Path, container_path: &str, readonly: bool) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        readonly,
        propagation: MountPropagation::PropagationPrivate.into(),
        ..Default::default()
    }
}

/// Checks what is at the path, and makes it where the type says so.
fn ready_host_path(name: &str, volume: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&volume.path);
    let failed = |attempt| {
        let (name, path) = (name.to_owned(), path.clone());
        move |cause| VolumeError::Io {
            name,
            attempt,
            path,
            cause,
        }
    };
    let (wanted, is_right): (_, fn(&fs::FileType) -> bool) = match volume.r#type.as_str() {
        "" => return Ok(path),
        "DirectoryOrCreate" | "Directory" => ("folder", fs::FileType::is_dir),
        "FileOrCreate" | "File" => ("file", fs::FileType::is_file),
        "Socket" => ("socket", |kind| kind.is_socket()),
        other => {
            return Err(VolumeError::UnknownType {
                name: name.to_owned(),
                type_name: other.to_owned(),
            });
        }
    };
    let missing = !path.try_exists().map_err(failed("look at"))?;
    match volume.r#type.as_str() {
        "DirectoryOrCreate" if missing => fs::create_dir_all(&path).map_err(failed("make the folder"))?,
        "FileOrCreate" if missing => drop(fs::File::create_new(&path).map_err(failed("make the file"))?),
        _ => {}
    }
    let kind = fs::metadata(&path).map_err(failed("look at"))?.file_type();
    if is_right(&kind) {
        Ok(path)
    } else {
        Err(VolumeError::WrongType {
            name: name.to_owned(),
            path,
            wanted,
        })
    }
}

fn ready_empty_dir(name: &str, volume: &EmptyDirVolumeSource, path: &Path) -> Result<PathBuf, VolumeError> {
    let failed = |attempt| {
        let (name, path) = (name.to_owned(), path.to_owned());
        move |cause| VolumeError::Io {
            name,
            attempt,
            path,
            cause,
        }
    };
    fs::create_dir_all(path).map_err(failed("make the folder"))?;
    if volume.medium == "Memory" {
        let limit = match volume.size_limit.as_str() {
            "" => None,
            text => Some(quantity::bytes(text).map_err(|cause| VolumeError::SizeLimit {
                name: name.to_owned(),
                cause,
            })?),
        };
        mounts::tmpfs(path, limit).map_err(failed("mount a tmpfs at"))?;
    }
    // Containers of one pod may run as different users.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed("open up"))?;
    Ok(path.to_owned())
}

fn write_hosts(place: &Path, ip: &str, hostname: &str) -> Result<PathBuf, VolumeError> {
    let path = place.join("etc-hosts");
    let text = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\t\
         ip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{ip}\t{hostname}\n"
    );
    let written = fs::create_dir_all(place).and_then(|()| match fs::read_to_string(&path) {
        // Containers mount this very file: leave it alone unless it must change.
        Ok(found) if found == text => Ok(()),
        _ => fs::write(&path, &text),
    });
    match written {
        Ok(()) => Ok(path),
        Err(cause) => Err(VolumeError::Io {
            name: "etc-hosts".to_owned(),
            attempt: "write",
            path,
            cause,
        }),
    }
}

/// Removes a folder and all in it, but never what is mounted there.
fn remove_tree(path: &Path) -> io::Result<()> {
    if mounts::any_below(path)? {
        return Err(io::Error::other(format!(
            "{} still has mounts below it; unmount them",
            path.display()
        )));
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests;
