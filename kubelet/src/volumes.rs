//! The node's side of volumes: what a container mounts, made ready on the host.
//!
//! ```text
//! <data>/pods/<uid>/owner                     the pod's namespace and name
//! <data>/pods/<uid>/volumes/<name>            emptyDir: a folder, a tmpfs or a hugetlbfs; configMap, downwardAPI: a folder
//!                                             that changes all at once; secret, projected: the same in a tmpfs
//! <data>/pods/<uid>/subpaths/<container>/<n>  a bind mount of a sub_path, so that nobody can swap what is behind it
//! <data>/pods/<uid>/etc-hosts                 /etc/hosts of a pod with a network of its own, or with hostAliases
//! ```
//!
//! Everything here blocks, and all of it may be repeated.

mod asked;
mod atomic;
pub(crate) mod hosts;
mod mounts;
mod ownership;
mod projected;
mod sub_path;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clone8s::{
    cri::{Mount, MountPropagation},
    huge_pages, quantity,
    v1::{EmptyDirVolumeSource, HostPathVolumeSource, PodSpec, Volume, volume::Source},
};

pub use self::asked::NewContainer;
use self::projected::Medium;
use crate::{
    desired::{PodKey, PodUid},
    pod::{downward::Inputs, security::fs_group},
};

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
    #[error("volume {name}: {reason}")]
    Content { name: String, reason: String },
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
    /// Held while a volume is made or changed: containers of one pod are made side by side, and the second must not
    /// cover what the first mounts, nor write what it writes.
    making: Arc<Mutex<()>>,
}

impl Volumes {
    pub fn new(data_dir: &Path) -> Self {
        Self {
            pods: data_dir.join("pods"),
            making: Arc::default(),
        }
    }

    /// Makes every volume of a container ready and says how to mount it.
    pub fn mounts(&self, of: &NewContainer<'_>) -> Result<Vec<Mount>, VolumeError> {
        let NewContainer {
            inputs, container, ..
        } = *of;
        let pod = inputs.pod;
        let place = self.dir(&pod.uid());
        let mut mounts = Vec::with_capacity(container.volume_mounts.len() + 1);
        for (index, wanted) in container.volume_mounts.iter().enumerate() {
            let volume = pod
                .spec()
                .volumes
                .iter()
                .find(|volume| volume.name == wanted.name);
            let volume = volume.ok_or_else(|| VolumeError::Unknown {
                name: wanted.name.clone(),
            })?;
            let sub_path = of.sub_path(wanted)?;
            if let Some(Source::Image(image)) = &volume.source {
                mounts.push(Mount {
                    image: Some(of.image(&volume.name, image)),
                    image_sub_path: sub_path,
                    ..mount(Path::new(""), &wanted.mount_path, true)
                });
                continue;
            }
            let source = self.volume_path(&place, volume, inputs)?;
            let is_projected = projected::medium(volume).is_some();
            if is_projected && !source.join(&sub_path).exists() {
                return Err(VolumeError::Content {
                    name: wanted.name.clone(),
                    reason: format!("it has no file {sub_path:?}"),
                });
            }
            let host_path = if sub_path.is_empty() {
                source
            } else {
                let target = place
                    .join("subpaths")
                    .join(&container.name)
                    .join(index.to_string());
                sub_path::bind(&wanted.name, &source, &sub_path, &target)?;
                target
            };
            let read_only = wanted.read_only || is_projected;
            mounts.push(Mount {
                propagation: asked::propagation(wanted).into(),
                recursive_read_only: of.is_recursively_read_only(wanted)?,
                ..mount(&host_path, &wanted.mount_path, read_only)
            });
        }
        if !hosts::is_own(container)
            && let Some(path) = hosts::write(&place, inputs, of.pod_ip)?
        {
            mounts.push(mount(&path, hosts::PATH, false));
        }
        Ok(mounts)
    }

    fn volume_path(&self, place: &Path, volume: &Volume, inputs: Inputs<'_>) -> Result<PathBuf, VolumeError> {
        let path = place.join("volumes").join(&volume.name);
        match &volume.source {
            Some(Source::HostPath(host_path)) => ready_host_path(&volume.name, host_path),
            Some(Source::EmptyDir(empty_dir)) => {
                let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
                ready_empty_dir(&volume.name, empty_dir, &path, inputs.pod.spec())
            }
            Some(
                Source::ConfigMap(_) | Source::Secret(_) | Source::DownwardApi(_) | Source::Projected(_),
            ) => self.project(&path, volume, inputs).map(|_| path),
            // An image is the runtime's to mount.
            Some(Source::Image(_)) | None => Err(VolumeError::Unknown {
                name: volume.name.clone(),
            }),
        }
    }

    /// Writes the files of a volume of objects or of the pod itself; false when they were there already.
    fn project(&self, path: &Path, volume: &Volume, inputs: Inputs<'_>) -> Result<bool, VolumeError> {
        let files = projected::files(volume, inputs)?;
        let failed = |attempt| io_error(&volume.name, attempt, path);
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(path).map_err(failed("make the folder"))?;
        let in_memory = projected::medium(volume) == Some(Medium::Memory);
        if in_memory && !mounts::is_mounted(path).map_err(failed("look for a tmpfs at"))? {
            mounts::tmpfs(path, 0o755, None).map_err(failed("mount a tmpfs at"))?;
        }
        atomic::write(path, &files, fs_group(inputs.pod.spec())).map_err(failed("write"))
    }

    /// Brings the volumes that the pod's containers have up to date with their objects and with the pod itself. Names
    /// those that have changed.
    pub fn refresh(&self, inputs: Inputs<'_>) -> Result<Vec<String>, VolumeError> {
        let place = self.dir(&inputs.pod.uid()).join("volumes");
        let mut changed = Vec::new();
        let projected = inputs.pod.spec().volumes.iter();
        for volume in projected.filter(|volume| projected::medium(volume).is_some()) {
            let path = place.join(&volume.name);
            if path.exists() && self.project(&path, volume, inputs)? {
                changed.push(volume.name.clone());
            }
        }
        Ok(changed)
    }

    /// The folder of a pod: of what the kubelet keeps for it until it is cleaned up.
    pub fn dir(&self, uid: &PodUid) -> PathBuf {
        self.pods.join(uid.as_str())
    }

    /// The folder of an emptyDir or of a projection.
    pub fn volume_dir(&self, uid: &PodUid, name: &str) -> PathBuf {
        self.dir(uid).join("volumes").join(name)
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
    pub fn known(&self) -> io::Result<BTreeSet<PodUid>> {
        let entries = match fs::read_dir(&self.pods) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        entries
            .map(|entry| Ok(PodUid::new(entry?.file_name().to_string_lossy())))
            .collect()
    }

    /// The pod whose folders these are, where that was noted.
    pub fn owner(&self, uid: &PodUid) -> Option<PodKey> {
        let owner = fs::read_to_string(self.dir(uid).join(OWNER)).ok()?;
        let (namespace, name) = owner.split_once('/')?;
        Some(PodKey::new(namespace, name))
    }
}

/// Names the pod whose folders these are.
const OWNER: &str = "owner";

fn mount(host_path: &Path, container_path: &str, readonly: bool) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        readonly,
        propagation: MountPropagation::PropagationPrivate.into(),
        ..Default::default()
    }
}

fn io_error(name: &str, attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError + use<> {
    let (name, path) = (name.to_owned(), path.to_owned());
    move |cause| VolumeError::Io {
        name,
        attempt,
        path,
        cause,
    }
}

/// Checks what is at the path, and makes it where the type says so.
fn ready_host_path(name: &str, volume: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&volume.path);
    let failed = |attempt| io_error(name, attempt, &path);
    let (wanted, is_right): (_, fn(&fs::FileType) -> bool) = match volume.r#type.as_str() {
        "" => return Ok(path),
        "DirectoryOrCreate" | "Directory" => ("folder", fs::FileType::is_dir),
        "FileOrCreate" | "File" => ("file", fs::FileType::is_file),
        "Socket" => ("socket", |kind| kind.is_socket()),
        "CharDevice" => ("character device", |kind| kind.is_char_device()),
        "BlockDevice" => ("block device", |kind| kind.is_block_device()),
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

fn ready_empty_dir(
    name: &str,
    volume: &EmptyDirVolumeSource,
    path: &Path,
    spec: &PodSpec,
) -> Result<PathBuf, VolumeError> {
    let failed = |attempt| io_error(name, attempt, path);
    fs::create_dir_all(path).map_err(failed("make the folder"))?;
    let pages = huge_pages::of_medium(&volume.medium, spec).map_err(|reason| VolumeError::Content {
        name: name.to_owned(),
        reason: format!("its medium {reason}"),
    })?;
    if let Some(size) = pages {
        mounts::hugetlbfs(path, size, size_limit(name, volume)?)
            .map_err(failed("mount a file system of huge pages at"))?;
    } else if volume.medium == "Memory" {
        mounts::tmpfs(path, 0o777, size_limit(name, volume)?).map_err(failed("mount a tmpfs at"))?;
    }
    let group = fs_group(spec);
    // Containers of one pod may run as different users.
    let mode = 0o777 | group.map_or(0, |_| ownership::SET_GROUP);
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("open up"))?;
    if let Some(group) = group {
        ownership::give(path, group).map_err(failed("give to the pod's group"))?;
    }
    Ok(path.to_owned())
}

/// Bytes; None for no limit.
fn size_limit(name: &str, volume: &EmptyDirVolumeSource) -> Result<Option<i64>, VolumeError> {
    if volume.size_limit.is_empty() {
        return Ok(None);
    }
    let bytes = quantity::bytes(&volume.size_limit).map_err(|cause| VolumeError::SizeLimit {
        name: name.to_owned(),
        cause,
    })?;
    Ok(Some(bytes))
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
