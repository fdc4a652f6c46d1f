//! The pods that messages have asked for, where the message is the truth: pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use clone8s::{object::Object as _, v1::Pod};
use uuid::Uuid;

use super::interpret::Command;
use crate::{
    desired::PodKey,
    sources::{
        api::{Hint, HintedChange},
        checkpoint::{Saved, SavedPods},
    },
    timestamp::timestamp,
};

/// Deleted uids whose revision is remembered; older ones can only come again as a pod that is deleted again.
const DELETIONS_KEPT: usize = 1024;

#[derive(Debug, Clone, Default)]
pub(super) struct QueuePods {
    pods: SavedPods,
    deletions: VecDeque<(String, i64)>,
}

impl QueuePods {
    pub(super) fn new(pods: SavedPods) -> Self {
        Self {
            pods,
            deletions: VecDeque::new(),
        }
    }

    pub(super) fn pods(&self) -> &SavedPods {
        &self.pods
    }

    pub(super) fn shown(&self) -> BTreeMap<PodKey, Arc<Pod>> {
        self.pods
            .iter()
            .map(|(key, saved)| (key.clone(), saved.pod.clone()))
            .collect()
    }

    /// Doing it twice is the same as doing it once: messages may come again. `fresh` is the uid of a pod that is new.
    pub(super) fn apply(&mut self, command: Command, fresh: Uuid, now: SystemTime) {
        match command {
            Command::Stored(hint) => self.stored(hint),
            Command::Apply(pod) => self.requested(*pod, fresh, now),
            Command::Remove { key, uid } => {
                if self
                    .pods
                    .get(&key)
                    .is_some_and(|saved| uid.is_empty() || saved.pod.uid() == uid)
                {
                    self.pods.remove(&key);
                }
            }
        }
    }

    fn stored(&mut self, hint: Hint) {
        let key = PodKey::of(&hint.pod);
        let uid = hint.pod.uid();
        let deleted_at = self
            .deletions
            .iter()
            .find(|(deleted, _)| deleted == uid)
            .map_or(0, |(_, at)| *at);
        let known_at = self
            .pods
            .get(&key)
            .map_or(0, |saved| saved.pod.resource_version());
        if hint.revision <= known_at.max(deleted_at) {
            return;
        }
        match hint.change {
            HintedChange::Put => {
                let mut pod = Arc::unwrap_or_clone(hint.pod);
                pod.metadata_mut().resource_version = hint.revision;
                self.put(key, pod);
            }
            HintedChange::Deleted => {
                self.deletions.push_back((uid.to_owned(), hint.revision));
                if self.deletions.len() > DELETIONS_KEPT {
                    self.deletions.pop_front();
                }
                self.pods.remove(&key);
            }
        }
    }

    fn requested(&mut self, mut pod: Pod, fresh: Uuid, now: SystemTime) {
        let key = PodKey::of(&pod);
        let known = self.pods.get(&key).and_then(|saved| {
            let changed = saved.pod.spec != pod.spec;
            saved.pod.metadata().map(|meta| (meta.clone(), changed))
        });
        let meta = pod.metadata_mut();
        if let Some((before, changed)) = known {
            meta.uid = before.uid;
            meta.creation_timestamp = before.creation_timestamp;
            meta.generation = before.generation + i64::from(changed);
            meta.resource_version = before.resource_version;
        } else {
            meta.uid = fresh.to_string();
            meta.creation_timestamp = Some(timestamp(now));
            meta.generation = 1;
        }
        self.put(key, pod);
    }

    fn put(&mut self, key: PodKey, pod: Pod) {
        let saved = Saved {
            pod: Arc::new(pod),
            origin: String::new(),
        };
        self.pods.insert(key, saved);
    }
}

#[cfg(test)]
mod tests;
