//! The config maps and secrets that the node's pods refer to, as they are now.
//!
//! ```text
//! desired pods ─names─► ApiObjects ──a watch each──► apiserver        pods of the API
//!                           │
//!                        Objects ──► workers: environment, volumes
//!                           │
//!                      LocalObjects ◄── a folder of manifests         pods of the manifest folder and the queue
//! ```
//! What is known stays known while the apiserver is away.

mod api;
mod local;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use clone8s::{
    references::References,
    v1::{ConfigMap, Container, Secret, volume::Source as Shown},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

pub(crate) use self::{api::ApiObjects, local::LocalObjects};
use crate::{
    desired::{DesiredPod, Source},
    pod::memory::Fingerprint,
};

/// What holds data for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "config map",
            Self::Secret => "secret",
        })
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
}

impl ObjectRef {
    /// Everything of these names.
    pub fn all(namespace: &str, references: &References) -> BTreeSet<Self> {
        let of = |kind: ObjectKind, names: &BTreeSet<String>| {
            let namespace = namespace.to_owned();
            names
                .iter()
                .map(move |name| Self {
                    kind,
                    namespace: namespace.clone(),
                    name: name.clone(),
                })
                .collect::<Vec<_>>()
        };
        let maps = of(ObjectKind::ConfigMap, &references.config_maps);
        maps.into_iter()
            .chain(of(ObjectKind::Secret, &references.secrets))
            .collect()
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The data of one object.
#[derive(Clone, PartialEq, Eq)]
pub struct Entries {
    values: BTreeMap<String, Bytes>,
    digest: [u8; 32],
}

/// Values may be secret.
impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Entries {
    pub fn new(values: BTreeMap<String, Bytes>) -> Self {
        let mut hasher = Sha256::new();
        for (key, value) in &values {
            for part in [key.as_bytes(), value] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        Self {
            values,
            digest: hasher.finalize().into(),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.values.get(key)
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Tells these data from others.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl From<ConfigMap> for Entries {
    fn from(map: ConfigMap) -> Self {
        let text = map.data.into_iter().map(|(key, value)| (key, value.into()));
        Self::new(text.chain(map.binary_data).collect())
    }
}

impl From<Secret> for Entries {
    fn from(secret: Secret) -> Self {
        let mut values = secret.data;
        let text = secret.string_data.into_iter();
        values.extend(text.map(|(key, value)| (key, value.into())));
        Self::new(values)
    }
}

/// What is known of an object of the apiserver.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    Found(Arc<Entries>),
    Absent,
}

/// What is known of the node's own folder.
#[derive(Debug, Clone, PartialEq, Default)]
enum Local {
    #[default]
    None,
    Unread,
    Read(BTreeMap<ObjectRef, Arc<Entries>>),
}

/// Everything that is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    api: BTreeMap<ObjectRef, Known>,
    local: Local,
}

/// Why an object's data are not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("{0} not found")]
    Absent(ObjectRef),
    #[error("{0} not found: the node has no folder of config maps and secrets (--config-objects)")]
    NoFolder(ObjectRef),
    /// Nobody has said yet whether it is there.
    #[error("{0} is not known yet: {1}")]
    Unknown(ObjectRef, &'static str),
}

impl Objects {
    #[cfg(test)]
    pub(crate) fn of_api<'a>(
        objects: impl IntoIterator<Item = (ObjectKind, &'a str, &'a [(&'a str, &'a str)])>,
    ) -> Self {
        let api = objects.into_iter().map(|(kind, name, pairs)| {
            let object = ObjectRef {
                kind,
                namespace: "default".to_owned(),
                name: name.to_owned(),
            };
            let of = |(key, value): &(&str, &str)| ((*key).to_owned(), Bytes::from((*value).to_owned()));
            let entries = Entries::new(pairs.iter().map(of).collect());
            (object, Known::Found(entries.into()))
        });
        Self {
            api: api.collect(),
            local: Local::None,
        }
    }

    /// The data of an object, for a pod of this source.
    pub fn get(&self, source: Source, object: &ObjectRef) -> Result<&Arc<Entries>, Missing> {
        let absent = || Missing::Absent(object.clone());
        let unknown = |why| Missing::Unknown(object.clone(), why);
        match source {
            Source::Api => match self.api.get(object) {
                Some(Known::Found(entries)) => Ok(entries),
                Some(Known::Absent) => Err(absent()),
                None => Err(unknown("the apiserver has not answered")),
            },
            Source::Folder | Source::Queue => match &self.local {
                Local::None => Err(Missing::NoFolder(object.clone())),
                Local::Unread => Err(unknown("the folder has not been read")),
                Local::Read(objects) => objects.get(object).ok_or_else(absent),
            },
        }
    }

    /// Stands for the state of all that the pod refers to.
    pub fn seen_by(&self, pod: &DesiredPod) -> Fingerprint {
        let mut hasher = Sha256::new();
        self.add(pod, &References::of(pod.spec()), &mut hasher);
        hasher.finalize().into()
    }

    /// Why containers of the pod cannot start yet, by name: nobody has said what an object is that they need.
    pub fn unknown_to(&self, pod: &DesiredPod) -> BTreeMap<String, String> {
        let namespace = pod.key().namespace;
        let unknown_to = |container: &Container| {
            let references = References::of_container(pod.spec(), container);
            let objects = ObjectRef::all(&namespace, &references);
            let mut missing = objects
                .iter()
                .filter_map(|object| self.get(pod.source, object).err());
            missing.find(|missing| matches!(missing, Missing::Unknown(..)))
        };
        let lasting = pod.spec().all_containers().map(Cow::Borrowed);
        let ephemeral = pod.spec().ephemeral_containers.iter();
        let containers = lasting.chain(ephemeral.map(|container| Cow::Owned(container.to_container())));
        containers
            .filter_map(|container| Some((container.name.clone(), unknown_to(&container)?.to_string())))
            .collect()
    }

    /// Stands for what the pod's volumes of objects and of the pod itself have to show; None without such volumes.
    pub fn shown_to(&self, pod: &DesiredPod) -> Option<Fingerprint> {
        let mut hasher = Sha256::new();
        let mut any = false;
        for volume in &pod.spec().volumes {
            let references = References::of_volume(volume);
            let tells_of_pod = matches!(volume.source, Some(Shown::DownwardApi(_) | Shown::Projected(_)));
            any |= tells_of_pod || !references.is_empty();
            self.add(pod, &references, &mut hasher);
        }
        let metadata = pod.pod.metadata.as_ref();
        for map in metadata.iter().flat_map(|meta| [&meta.labels, &meta.annotations]) {
            hasher.update(format!("{map:?}"));
        }
        any.then(|| hasher.finalize().into())
    }

    fn add(&self, pod: &DesiredPod, references: &References, hasher: &mut Sha256) {
        for object in ObjectRef::all(&pod.key().namespace, references) {
            match self.get(pod.source, &object) {
                Ok(entries) => hasher.update(entries.digest()),
                Err(Missing::Unknown(..)) => hasher.update([0]),
                Err(_) => hasher.update([1]),
            }
        }
    }
}

/// The writers' end. Each writes its own part.
#[derive(Debug, Clone)]
pub(crate) struct ObjectsSender(Arc<watch::Sender<Objects>>);

impl ObjectsSender {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Objects::default())))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Objects> {
        self.0.subscribe()
    }

    fn set_api(&self, object: &ObjectRef, known: Known) {
        self.0.send_if_modified(|objects| {
            let differs = objects.api.get(object) != Some(&known);
            if differs {
                objects.api.insert(object.clone(), known);
            }
            differs
        });
    }

    /// Nobody needs to know these any more.
    fn forget_api(&self, unwanted: impl Fn(&ObjectRef) -> bool) {
        self.0.send_if_modified(|objects| {
            let before = objects.api.len();
            objects.api.retain(|object, _| !unwanted(object));
            objects.api.len() != before
        });
    }

    fn set_local(&self, local: Local) {
        self.0.send_if_modified(|objects| {
            let differs = objects.local != local;
            objects.local = local;
            differs
        });
    }
}

#[cfg(test)]
mod tests;
