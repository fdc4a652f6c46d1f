//! Desired pods on the node's disk, so that a kubelet that restarts with nothing else reachable keeps its pods.
//!
//! One folder a source, one file a pod: `<data dir>/checkpoints/<source>/<namespace>_<name>.pb`. A file is a
//! protobuf message that carries the pod's bytes and their SHA-256, written beside and renamed over, so that it is
//! whole or absent. A file that does not hold what it promises is set aside, never fatal. Beside them, for a source that
//! counts: the revision up to which it had told all when a pod last went, so that no old news of that pod brings it back.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use clone8s::{object::Object as _, v1::Pod};
use futures::{StreamExt as _, stream};
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::desired::{PodKey, are_equal};

const EXTENSION: &str = "pb";
const SET_ASIDE: &str = "corrupt";
const HALF_WRITTEN: &str = "tmp";
const REVISION: &str = "revision";
/// Files that are written at a time.
const AT_A_TIME: usize = 8;

/// The checkpointed pods of one source.
#[derive(Debug)]
pub(super) struct Checkpoint {
    dir: PathBuf,
    on_disk: SavedPods,
    set_aside: Vec<PathBuf>,
    new: bool,
    revision: i64,
    /// Every file that came to its place or went has done so on the disk, too.
    is_synced: bool,
}

/// A pod on disk.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) pod: Arc<Pod>,
    /// Where the source had it from, such as the name of a manifest file; may be empty.
    pub(super) origin: String,
}

impl PartialEq for Saved {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin && are_equal(&self.pod, &other.pod)
    }
}

pub(super) type SavedPods = BTreeMap<PodKey, Saved>;

/// Why the checkpoint cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the checkpoint {path}; check that the disk has room and that the folder is writable", path = .path.display())]
pub struct CheckpointError {
    pub path: PathBuf,
    #[source]
    pub cause: io::Error,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "bytes", tag = "1")]
    pod: Bytes,
    /// SHA-256 of `pod`: protobuf alone reads many kinds of garbage without an error.
    #[prost(bytes = "bytes", tag = "2")]
    digest: Bytes,
    #[prost(string, tag = "3")]
    origin: String,
}

impl Record {
    fn of(saved: &Saved) -> Self {
        let pod = Bytes::from(saved.pod.encode_to_vec());
        Self {
            digest: Bytes::copy_from_slice(&Sha256::digest(&pod)),
            origin: saved.origin.clone(),
            pod,
        }
    }
}

impl Checkpoint {
    /// Opens a source's folder, making it where it is missing, and reads what it holds.
    pub(super) fn open(dir: PathBuf) -> Result<Self, CheckpointError> {
        let failed = |cause| CheckpointError {
            path: dir.clone(),
            cause,
        };
        let new = !dir.exists();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(failed)?;
        let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(failed)?;
        paths.sort();

        let mut on_disk = SavedPods::new();
        let mut set_aside = Vec::new();
        for path in paths {
            match path.extension().and_then(OsStr::to_str) {
                Some(EXTENSION) => match read(&path) {
                    Ok(saved) => drop(on_disk.insert(PodKey::of(&saved.pod), saved)),
                    Err(reason) => {
                        let aside = path.with_extension(SET_ASIDE);
                        tracing::error!(path = %path.display(), set_aside = %aside.display(), reason, "a checkpointed pod is unreadable");
                        fs::rename(&path, &aside).map_err(failed)?;
                        set_aside.push(aside);
                    }
                },
                Some(SET_ASIDE) => set_aside.push(path),
                Some(HALF_WRITTEN) => fs::remove_file(&path).map_err(failed)?,
                _ => {}
            }
        }
        let revision = read_revision(&dir.join(REVISION));
        Ok(Self {
            dir,
            on_disk,
            set_aside,
            new,
            revision,
            // Whoever wrote it may have been killed before it was.
            is_synced: false,
        })
    }

    /// Nothing was ever saved here: what may run from before is not known.
    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    /// The pods on disk.
    pub(super) fn pods(&self) -> &SavedPods {
        &self.on_disk
    }

    /// Up to which its source had told all when a pod last went from the disk; 0 where none has, or nobody knows.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// False while a file is set aside: the source may have wanted a pod that is not in [`Checkpoint::pods`].
    pub(super) fn is_whole(&self) -> bool {
        self.set_aside.is_empty()
    }

    /// Makes the disk hold these pods and no others. When it returns well, they survive a loss of power; when it
    /// fails, a second call goes on where this one stopped.
    pub(super) async fn keep(&mut self, wanted: &SavedPods) -> Result<(), CheckpointError> {
        let changed: Vec<_> = wanted
            .iter()
            .filter(|(key, saved)| self.on_disk.get(*key) != Some(*saved))
            .map(|(key, saved)| (self.path(key), key, saved))
            .collect();
        let writes: Vec<_> = changed
            .iter()
            .map(|(path, _, saved)| {
                let record = Record::of(saved).encode_to_vec();
                blocking(path.clone(), move |path| write_beside(path, &record))
            })
            .collect();
        // File systems take what is to be on the disk at the same time in one go. All end, whichever fails: none is to be
        // written still when the next call writes it.
        let written: Vec<_> = stream::iter(writes).buffered(AT_A_TIME).collect().await;
        let mut failure = None;
        for ((path, key, saved), written) in changed.into_iter().zip(written) {
            if let Err(error) = written {
                failure.get_or_insert(error);
                continue;
            }
            self.is_synced = false;
            blocking(path, |path| fs::rename(beside(path), path)).await?;
            self.on_disk.insert(key.clone(), saved.clone());
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let unwanted: Vec<PodKey> = self
            .on_disk
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .cloned()
            .collect();
        for key in unwanted {
            self.is_synced = false;
            blocking(self.path(&key), remove_if_there).await?;
            self.on_disk.remove(&key);
        }
        if !self.is_synced {
            blocking(self.dir.clone(), sync_dir).await?;
            self.is_synced = true;
        }
        self.remove_replaced().await
    }

    /// What is known of a pod takes the place of what could not be read, once it is on the disk.
    async fn remove_replaced(&mut self) -> Result<(), CheckpointError> {
        if self.set_aside.is_empty() {
            return Ok(());
        }
        let known: Vec<_> = self
            .on_disk
            .keys()
            .map(|key| self.path(key).with_extension(SET_ASIDE))
            .filter(|aside| self.set_aside.contains(aside))
            .collect();
        for aside in known {
            blocking(aside.clone(), remove_if_there).await?;
            self.set_aside.retain(|path| *path != aside);
        }
        Ok(())
    }

    /// The same for a source that has told all up to a revision, which is on disk before a pod goes.
    pub(super) async fn keep_at(&mut self, wanted: &SavedPods, revision: i64) -> Result<(), CheckpointError> {
        let forgets = self.on_disk.keys().any(|key| !wanted.contains_key(key));
        if forgets && revision != self.revision {
            let dir = self.dir.clone();
            blocking(self.dir.join(REVISION), move |path| {
                write_beside(path, revision.to_string().as_bytes())?;
                fs::rename(beside(path), path)?;
                sync_dir(&dir)
            })
            .await?;
            self.revision = revision;
        }
        self.keep(wanted).await
    }

    /// Removes what was set aside, once the source itself has said all that it wants.
    pub(super) async fn clear_set_aside(&mut self) -> Result<(), CheckpointError> {
        while let Some(path) = self.set_aside.last() {
            blocking(path.clone(), remove_if_there).await?;
            self.set_aside.pop();
        }
        Ok(())
    }

    fn path(&self, key: &PodKey) -> PathBuf {
        // Neither part may hold "_" or "/": both are DNS names, validated at every source's door.
        self.dir
            .join(format!("{}_{}.{EXTENSION}", key.namespace, key.name))
    }
}

async fn blocking(
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> Result<(), CheckpointError> {
    let at = path.clone();
    tokio::task::spawn_blocking(move || work(&path))
        .await
        .unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
        .map_err(|cause| CheckpointError { path: at, cause })
}

fn read(path: &Path) -> Result<Saved, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let record = Record::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    if record.digest != Sha256::digest(&record.pod).as_slice() {
        return Err("the checksum does not match".into());
    }
    let pod = Pod::decode(record.pod).map_err(|error| error.to_string())?;
    if pod.name().is_empty() || pod.namespace().is_empty() {
        return Err("the pod has no name or no namespace".into());
    }
    Ok(Saved {
        pod: Arc::new(pod),
        origin: record.origin,
    })
}

fn read_revision(path: &Path) -> i64 {
    let Ok(text) = fs::read_to_string(path) else {
        return 0;
    };
    text.parse().unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "the revision of a checkpoint is unreadable");
        0
    })
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension(HALF_WRITTEN)
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(beside(path))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
