//! An object as it is served.

use std::sync::Arc;

use bytes::Bytes;
use clone8s::{object::Object, v1::ObjectMeta, wire::Encoded};

use crate::{
    error::ApiError,
    kind::Kind,
    registry::{FOREGROUND, ORPHAN, decode},
    store::{KeyValue, Revision},
};

/// An object's bytes, and what is asked of it most.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    key: Arc<str>,
    /// With its revision in its metadata; None where the store holds something that is not an object of the kind.
    object: Option<Encoded>,
    revision: Revision,
    /// [`Kind::node`].
    node: Option<Arc<str>>,
    ties: Ties,
}

/// How an object is tied to others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ties {
    /// It names owners.
    pub(crate) owned: bool,
    /// It is being deleted, and waits for those that name it.
    pub(crate) awaits_dependents: bool,
}

impl Ties {
    fn of(meta: &ObjectMeta) -> Self {
        let awaits = |finalizer: &String| [FOREGROUND, ORPHAN].contains(&finalizer.as_str());
        Self {
            owned: !meta.owner_references.is_empty(),
            awaits_dependents: meta.deletion_timestamp.is_some() && meta.finalizers.iter().any(awaits),
        }
    }

    /// What `ownership` looks at.
    pub(crate) fn any(self) -> bool {
        self.owned || self.awaits_dependents
    }
}

impl Entry {
    pub(crate) fn read<K: Kind>(stored: &KeyValue) -> Self {
        let object = decode::<K>(stored).ok();
        Self {
            key: stored.key.as_str().into(),
            ties: object
                .as_ref()
                .and_then(Object::metadata)
                .map(Ties::of)
                .unwrap_or_default(),
            node: object.as_ref().and_then(Kind::node).map(Arc::from),
            object: object.map(|object| encoded(&object)),
            revision: stored.revision,
        }
    }

    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    pub(crate) fn ties(&self) -> Ties {
        self.ties
    }

    /// Its bytes, for a response.
    pub(crate) fn encoded<K: Kind>(&self) -> Result<Encoded, ApiError> {
        self.object.clone().ok_or_else(|| {
            let key = &self.key;
            ApiError::internal(
                "what the store holds",
                format!("{key} is not a {}: delete it from the store", K::KIND),
            )
        })
    }

    pub(crate) fn decode<K: Kind>(&self) -> Result<K, ApiError> {
        let Encoded(bytes) = self.encoded::<K>()?;
        K::decode(bytes)
            .map_err(|cause| ApiError::internal(format!("{}: not a {}", self.key, K::KIND), cause))
    }

    /// The size of its bytes.
    pub(crate) fn len(&self) -> usize {
        self.object.as_ref().map_or(0, |Encoded(bytes)| bytes.len())
    }
}

pub(super) fn encoded<K: Kind>(object: &K) -> Encoded {
    Encoded(Bytes::from(object.encode_to_vec()))
}
