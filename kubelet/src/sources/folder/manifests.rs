//! What the folder's files say: pure, from their contents to pods with an identity.
//!
//! A file:
//! ```text
//! absent ──read well──► good ◄──read well── broken (its last good pods stay)
//!    ▲                   │ ▲────read badly────►
//!    └───────gone────────┴───────────gone───────┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use clone8s::{object::Object as _, v1::Pod};
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

use crate::{
    desired::PodKey,
    sources::{checkpoint::Saved, door},
    timestamp::timestamp,
    watched_folder::{Content, FileName},
};

/// Something that a person should see, once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notice {
    /// The file does not say anything that can run; the pods of its last good version, if any, stay.
    Broken {
        file: FileName,
        reason: String,
        kept: usize,
    },
    /// Broken before, good now.
    Mended { file: FileName },
    /// Two files hold a pod of the same name; the first by file name runs.
    Duplicate {
        key: PodKey,
        runs: FileName,
        ignored: FileName,
    },
}

/// Every manifest file and the pods that they make.
#[derive(Debug)]
pub(super) struct Manifests {
    node: String,
    files: BTreeMap<FileName, ManifestFile>,
    pods: BTreeMap<PodKey, Saved>,
    duplicates: BTreeSet<Notice>,
    /// How often a pod of this name was removed while this process ran.
    removals: BTreeMap<PodKey, u32>,
}

#[derive(Debug, Default)]
struct ManifestFile {
    /// Of the content that was last looked at.
    digest: Option<[u8; 32]>,
    /// Those that run are the ones in memory that are shown.
    last_good: Vec<Arc<Pod>>,
    fault: Option<String>,
}

/// More removed names than this are forgotten together; only the freshness of uids depends on them.
const REMOVALS_KEPT: usize = 4096;

impl Manifests {
    /// Goes on from the pods of an earlier process: until its file is read, each counts as that file's last good.
    pub(super) fn new(node: &str, restored: BTreeMap<PodKey, Saved>) -> Self {
        let mut files: BTreeMap<FileName, ManifestFile> = BTreeMap::new();
        for saved in restored.values() {
            let file = files.entry(saved.origin.clone()).or_default();
            file.last_good.push(Arc::clone(&saved.pod));
        }
        Self {
            node: node.to_owned(),
            files,
            pods: restored,
            duplicates: BTreeSet::new(),
            removals: BTreeMap::new(),
        }
    }

    /// The pods to run, each with the file that it is from.
    pub(super) fn pods(&self) -> &BTreeMap<PodKey, Saved> {
        &self.pods
    }

    /// Takes in the whole folder as it is now; a file that is not in `contents` is gone.
    pub(super) fn scanned(&mut self, contents: BTreeMap<FileName, Content>, now: SystemTime) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.files.retain(|name, _| contents.contains_key(name));
        for (name, content) in contents {
            notices.extend(self.take_in(name, content));
        }
        notices.extend(self.resolve(now));
        notices
    }

    fn take_in(&mut self, name: FileName, content: Content) -> Option<Notice> {
        let bytes = match content {
            Content::Unsettled => return None,
            Content::Unreadable(reason) => {
                let file = self.files.entry(name.clone()).or_default();
                file.digest = None;
                return file.broken(name, reason);
            }
            Content::Bytes(bytes) => bytes,
        };
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        let file = self.files.entry(name.clone()).or_default();
        if file.digest == Some(digest) {
            return None;
        }
        file.digest = Some(digest);
        match door::manifest_pods(&name, &bytes, &self.node) {
            Ok(pods) => {
                file.last_good = pods.into_iter().map(Arc::new).collect();
                // Else it would keep the room that the pods themselves had.
                file.last_good.shrink_to_fit();
                file.fault.take().map(|_| Notice::Mended { file: name })
            }
            Err(reason) => {
                // The same words about another content are news.
                file.fault = None;
                file.broken(name, reason)
            }
        }
    }

    fn resolve(&mut self, now: SystemTime) -> Vec<Notice> {
        let mut named: BTreeMap<PodKey, (&FileName, &mut Arc<Pod>)> = BTreeMap::new();
        let mut duplicates = BTreeSet::new();
        for (name, file) in &mut self.files {
            for pod in &mut file.last_good {
                let key = PodKey::of(pod);
                if let Some((first, _)) = named.get(&key) {
                    duplicates.insert(Notice::Duplicate {
                        key,
                        runs: (*first).clone(),
                        ignored: name.clone(),
                    });
                } else {
                    named.insert(key, (name, pod));
                }
            }
        }

        if self.removals.len() > REMOVALS_KEPT {
            self.removals.clear();
        }
        for key in self.pods.keys().filter(|key| !named.contains_key(*key)) {
            *self.removals.entry(key.clone()).or_default() += 1;
        }
        self.pods = named
            .into_iter()
            .map(|(key, (file, manifest))| {
                let pod = self.pods.get(&key).map_or_else(
                    || {
                        let removals = self.removals.get(&key).copied().unwrap_or(0);
                        Arc::new(added(manifest, uid(&self.node, &key, removals), now))
                    },
                    |before| updated(&before.pod, manifest),
                );
                manifest.clone_from(&pod);
                let origin = file.clone();
                (key, Saved { pod, origin })
            })
            .collect();

        let news = duplicates.difference(&self.duplicates).cloned().collect();
        self.duplicates = duplicates;
        news
    }
}

impl ManifestFile {
    fn broken(&mut self, file: FileName, reason: String) -> Option<Notice> {
        if self.fault.as_ref() == Some(&reason) {
            return None;
        }
        self.fault = Some(reason.clone());
        let kept = self.last_good.len();
        Some(Notice::Broken { file, reason, kept })
    }
}

/// A pod that stays keeps its identity, so that a changed manifest is an update in place.
fn updated(before: &Arc<Pod>, manifest: &Arc<Pod>) -> Arc<Pod> {
    if Arc::ptr_eq(before, manifest) {
        return Arc::clone(before);
    }
    let mut pod = Pod::clone(manifest);
    let meta = pod.metadata_mut();
    if let Some(known) = before.metadata() {
        meta.uid.clone_from(&known.uid);
        meta.creation_timestamp = known.creation_timestamp;
        meta.generation = known.generation + i64::from(before.spec != manifest.spec);
    }
    if pod == **before {
        before.clone()
    } else {
        Arc::new(pod)
    }
}

fn added(manifest: &Pod, uid: Uuid, now: SystemTime) -> Pod {
    let mut pod = manifest.clone();
    let meta = pod.metadata_mut();
    meta.uid = uid.to_string();
    meta.generation = 1;
    meta.creation_timestamp = Some(timestamp(now));
    pod
}

/// The same name on the same node gets the same uid even when the data folder is lost, so that its containers are
/// known again; one that was removed and comes back is another pod.
fn uid(node: &str, key: &PodKey, removals: u32) -> Uuid {
    let mut hash = Sha256::new();
    for part in ["folder", node, &key.namespace, &key.name, &removals.to_string()] {
        hash.update(part);
        hash.update([0]);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    // Version 8 of RFC 9562: made by a rule of our own.
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests;
