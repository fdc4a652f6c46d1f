//! What the node says about its pods.
//!
//! Each worker writes its own pod's entry of the [`StatusBoard`]; everybody else reads.

pub(crate) mod sync;

use std::{collections::BTreeMap, sync::Arc};

use clone8s::v1::PodStatus;
use tokio::sync::watch;

use crate::desired::{PodKey, PodUid, Source};

/// One pod's latest status.
#[derive(Debug, Clone, PartialEq)]
pub struct PodEntry {
    pub uid: PodUid,
    pub source: Source,
    pub status: Arc<PodStatus>,
    /// Deletion was asked for, and nothing of the pod is left on the node.
    pub gone: bool,
}

pub type PodStatuses = Arc<BTreeMap<PodKey, PodEntry>>;

/// The status of every pod of the node.
#[derive(Debug, Clone)]
pub struct StatusBoard {
    entries: Arc<watch::Sender<PodStatuses>>,
}

impl Default for StatusBoard {
    fn default() -> Self {
        Self::new()
    }
}

impl StatusBoard {
    pub fn new() -> Self {
        Self {
            entries: Arc::new(watch::Sender::new(PodStatuses::default())),
        }
    }

    pub fn subscribe(&self) -> watch::Receiver<PodStatuses> {
        self.entries.subscribe()
    }

    /// Takes over one pod's status; readers wake only when it differs from the last.
    pub fn publish(&self, key: &PodKey, entry: PodEntry) {
        self.entries.send_if_modified(|entries| {
            if entries.get(key) == Some(&entry) {
                return false;
            }
            Arc::make_mut(entries).insert(key.clone(), entry);
            true
        });
    }

    /// Forgets a pod of which nothing is left, here and at the source.
    pub fn remove(&self, key: &PodKey) {
        self.entries.send_if_modified(|entries| {
            entries.contains_key(key) && Arc::make_mut(entries).remove(key).is_some()
        });
    }
}
