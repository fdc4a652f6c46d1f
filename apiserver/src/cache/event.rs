//! One write of an object, for every watcher that is to see it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use clone8s::wire::Encoded;

use super::{Entry, entry::encoded};
use crate::{
    error::ApiError,
    kind::Kind,
    store::{Change, KeyValue, Revision},
};

/// A write, from what the object was to what it became.
#[derive(Debug)]
pub(crate) struct ObjectEvent<K> {
    key: Arc<str>,
    revision: Revision,
    before: Option<Entry>,
    after: Option<Entry>,
    /// What it was, with the revision of this write: what a watcher gets of an object that has gone.
    last_state: OnceLock<Encoded>,
    objects: Mutex<Option<Arc<Objects<K>>>>,
}

/// Both sides of an event, decoded once for all selectors that look at them.
#[derive(Debug)]
pub(crate) struct Objects<K> {
    pub(crate) before: Option<K>,
    pub(crate) after: Option<K>,
}

impl<K: Kind> ObjectEvent<K> {
    pub(super) fn new(
        key: Arc<str>,
        revision: Revision,
        before: Option<Entry>,
        after: Option<Entry>,
    ) -> Self {
        Self {
            key,
            revision,
            before,
            after,
            last_state: OnceLock::new(),
            objects: Mutex::new(None),
        }
    }

    /// The event of a change in the store's history.
    pub(crate) fn of(change: &Change) -> Self {
        let before = change.previous.as_ref().map(Entry::read::<K>);
        let after = written(change).as_ref().map(Entry::read::<K>);
        Self::new(change.key.as_str().into(), change.revision, before, after)
    }

    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn before(&self) -> Option<&Entry> {
        self.before.as_ref()
    }

    pub(crate) fn after(&self) -> Option<&Entry> {
        self.after.as_ref()
    }

    /// What the object became.
    pub(crate) fn state(&self) -> Result<Option<Encoded>, ApiError> {
        self.after.as_ref().map(Entry::encoded::<K>).transpose()
    }

    /// What the object was, with the revision of this write.
    pub(crate) fn last_state(&self) -> Result<Option<Encoded>, ApiError> {
        if let Some(encoded) = self.last_state.get() {
            return Ok(Some(encoded.clone()));
        }
        let Some(before) = &self.before else {
            return Ok(None);
        };
        let mut object: K = before.decode()?;
        object.metadata_mut().resource_version = self.revision.0;
        Ok(Some(self.last_state.get_or_init(|| encoded(&object)).clone()))
    }

    /// The event as the store's watch tells it.
    pub(super) fn change(&self) -> Result<Change, ApiError> {
        let bytes = |entry: &Entry| entry.encoded::<K>().map(|Encoded(bytes)| bytes);
        let stored = |entry: &Entry| {
            bytes(entry).map(|value| KeyValue {
                key: entry.key().to_string(),
                value,
                revision: entry.revision(),
            })
        };
        Ok(Change {
            key: self.key.to_string(),
            value: self.after.as_ref().map(bytes).transpose()?,
            previous: self.before.as_ref().map(stored).transpose()?,
            revision: self.revision,
        })
    }

    pub(crate) fn objects(&self) -> Result<Arc<Objects<K>>, ApiError> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(objects) = &*objects {
            return Ok(Arc::clone(objects));
        }
        let decoded = Arc::new(Objects {
            before: self.before.as_ref().map(Entry::decode).transpose()?,
            after: self.after.as_ref().map(Entry::decode).transpose()?,
        });
        *objects = Some(Arc::clone(&decoded));
        Ok(decoded)
    }

    /// Lets go of what was decoded: few will look at it again, and it takes several times the room of the bytes.
    pub(super) fn forget_objects(&self) {
        *self.objects.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What it keeps in memory, beside what it shares with the event before.
    pub(super) fn len(&self) -> usize {
        let bytes = match (&self.before, &self.after) {
            (_, Some(after)) => after.len(),
            // Once more as its last state.
            (Some(before), None) => 2 * before.len(),
            (None, None) => 0,
        };
        size_of::<Self>() + self.key.len() + bytes
    }
}

pub(super) fn written(change: &Change) -> Option<KeyValue> {
    change.value.as_ref().map(|value| KeyValue {
        key: change.key.clone(),
        value: value.clone(),
        revision: change.revision,
    })
}
