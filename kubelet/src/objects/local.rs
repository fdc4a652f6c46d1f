//! Config maps and secrets from a folder of manifests on the node: for pods that the apiserver does not know.
//!
//! A file that cannot be read as a whole leaves what it said before; one that is gone takes its objects along.

use std::{collections::BTreeMap, convert::Infallible, path::PathBuf, sync::Arc};

use clone8s::{
    manifest,
    object::{AnyObject, Object},
};
use clone8s_daemon::Shutdown;
use sha2::{Digest as _, Sha256};

use super::{Entries, Local, ObjectKind, ObjectRef, ObjectsSender};
use crate::watched_folder::{Content, FileName, FolderError, WatchedFolder};

type Found = BTreeMap<ObjectRef, Arc<Entries>>;

/// Watches one folder for as long as the kubelet runs.
#[derive(Debug)]
pub(crate) struct LocalObjects {
    folder: WatchedFolder,
    files: BTreeMap<FileName, File>,
    objects: ObjectsSender,
}

#[derive(Debug, Default)]
struct File {
    /// Of the content that was last looked at.
    digest: Option<[u8; 32]>,
    found: Found,
    /// Why its present content cannot be used.
    fault: Option<String>,
}

impl LocalObjects {
    /// Makes the folder, for root alone, where it is missing.
    pub(crate) fn new(dir: PathBuf, objects: ObjectsSender) -> Result<Self, FolderError> {
        objects.set_local(Local::Unread);
        Ok(Self {
            folder: WatchedFolder::open(dir, "folder of config maps and secrets", 0o700)?,
            files: BTreeMap::new(),
            objects,
        })
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            if let Some(contents) = self.folder.scan().await {
                self.take_in(contents);
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.folder.due() => {}
            }
        }
    }

    fn take_in(&mut self, contents: BTreeMap<FileName, Content>) {
        self.files.retain(|name, _| contents.contains_key(name));
        for (name, content) in contents {
            let file = self.files.entry(name.clone()).or_default();
            let read = match content {
                Content::Unsettled => continue,
                Content::Unreadable(reason) => {
                    file.digest = None;
                    Err(reason)
                }
                Content::Bytes(bytes) => {
                    let digest = Some(Sha256::digest(&bytes).into());
                    if file.digest == digest {
                        continue;
                    }
                    file.digest = digest;
                    read(&name, &bytes)
                }
            };
            match read {
                Ok(found) => {
                    file.found = found;
                    file.fault = None;
                }
                Err(reason) => {
                    if file.fault.as_ref() != Some(&reason) {
                        let path = self.folder.dir().join(&name);
                        tracing::error!(path = %path.display(), reason, "a manifest of config maps and secrets cannot be used");
                    }
                    file.fault = Some(reason);
                }
            }
        }
        let mut all = Found::new();
        // The first file by name has an object that two files hold, as for pods.
        for file in self.files.values() {
            for (object, entries) in &file.found {
                all.entry(object.clone()).or_insert_with(|| Arc::clone(entries));
            }
        }
        self.objects.set_local(Local::Read(all));
    }
}

/// The objects of one file, held to the API's rules.
fn read(file: &str, bytes: &[u8]) -> Result<Found, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let documents = manifest::parse_valid(file, text).map_err(|errors| errors.to_string())?;
    let mut found = Found::new();
    for document in documents {
        let (object, entries) = match document.object {
            AnyObject::ConfigMap(map) => (named(ObjectKind::ConfigMap, &map), Entries::from(map)),
            AnyObject::Secret(secret) => (named(ObjectKind::Secret, &secret), Entries::from(secret)),
            other => {
                return Err(format!(
                    "{} {:?} is neither a config map nor a secret",
                    other.kind(),
                    other.name()
                ));
            }
        };
        found.insert(object, entries.into());
    }
    Ok(found)
}

fn named<O: Object>(kind: ObjectKind, object: &O) -> ObjectRef {
    let namespace = match object.namespace() {
        "" => "default",
        namespace => namespace,
    };
    ObjectRef {
        kind,
        namespace: namespace.to_owned(),
        name: object.name().to_owned(),
    }
}
