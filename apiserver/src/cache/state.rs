//! The objects of one kind, and the events that led to them: as much of the past as there is room for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use clone8s::object::store_prefix;

use super::{Entry, ObjectEvent, event::written};
use crate::{
    kind::Kind,
    store::{Change, KeyValue, Page, Revision, Store, StoreError},
};

/// Events beyond these bounds are forgotten, oldest first; a watcher that still needs one is too slow.
const MAX_EVENTS: usize = 16_384;
/// The events may take a quarter of what the objects take, and at least this.
const MIN_EVENT_BYTES: usize = 4 << 20;

/// So many of the newest events stay decoded, for the selectors of the watchers that are about to look.
const DECODED_EVENTS: usize = 64;

/// Events that a watcher is given at a time; with fewer, there are no more.
pub(super) const BATCH: usize = 64;

/// How many keys the store is asked for at a time.
const CHUNK: usize = 500;

/// Some of a kind's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Of their keys.
    pub(crate) prefix: String,
    /// Only what belongs to this node, where it is given.
    pub(crate) node: Option<String>,
}

impl Part {
    pub(crate) fn has(&self, entry: &Entry) -> bool {
        entry.key().starts_with(&self.prefix) && (self.node.is_none() || entry.node() == self.node.as_deref())
    }
}

#[derive(Debug)]
pub(super) struct State<K> {
    objects: BTreeMap<Arc<str>, Entry>,
    /// The keys of what belongs to each node.
    by_node: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The keys of what has [`Ties`](super::entry::Ties).
    tied: BTreeSet<Arc<str>>,
    /// The last time that something went, or began to wait for its dependents.
    ended: Revision,
    /// What the objects take.
    bytes: usize,
    /// Everything that happened after `floor`, in order.
    events: VecDeque<Arc<ObjectEvent<K>>>,
    event_bytes: usize,
    floor: Revision,
}

impl<K: Kind> State<K> {
    pub(super) fn empty(at: Revision) -> Self {
        Self {
            objects: BTreeMap::new(),
            by_node: HashMap::new(),
            tied: BTreeSet::new(),
            ended: at,
            bytes: 0,
            events: VecDeque::new(),
            event_bytes: 0,
            floor: at,
        }
    }

    /// What is stored, now or at a revision.
    pub(super) async fn load(
        store: &dyn Store,
        mut at: Option<Revision>,
    ) -> Result<(Self, Revision), StoreError> {
        let mut state = Self::empty(Revision(0));
        let mut after = None;
        loop {
            let page = Page {
                limit: Some(CHUNK),
                after,
            };
            let listing = store.list(&store_prefix::<K>(""), page, at).await?;
            let revision = *at.get_or_insert(listing.revision);
            state.floor = revision;
            state.ended = revision;
            for stored in &listing.items {
                state.insert(stored);
            }
            after = listing.items.into_iter().next_back().map(|last| last.key);
            if !listing.more || after.is_none() {
                return Ok((state, revision));
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.objects.get(key)
    }

    /// Everything that happened after this revision is in memory.
    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn tied(&self) -> impl Iterator<Item = &Entry> {
        self.tied.iter().filter_map(|key| self.objects.get(key))
    }

    pub(super) fn ended(&self) -> Revision {
        self.ended
    }

    pub(super) fn newest_event(&self) -> Revision {
        self.events.back().map_or(self.floor, |event| event.revision())
    }

    pub(super) fn events(&self, after: Revision, up_to: Revision) -> Option<Vec<Arc<ObjectEvent<K>>>> {
        if after < self.floor {
            return None;
        }
        let mut batch: Vec<Arc<ObjectEvent<K>>> = Vec::new();
        let unseen = self.events.range(self.first_after(after)..);
        for event in unseen.take_while(|event| event.revision() <= up_to) {
            // A revision is given whole: the next batch begins after it.
            let whole = batch
                .last()
                .is_some_and(|last| last.revision() < event.revision());
            if batch.len() >= BATCH && whole {
                break;
            }
            batch.push(Arc::clone(event));
        }
        Some(batch)
    }

    /// Entries in the order of their keys, as they were at a revision; None when that is too long ago.
    pub(super) fn page(&self, part: &Part, after: &str, limit: usize, at: Revision) -> Option<Vec<Entry>> {
        if at < self.floor {
            return None;
        }
        // What has changed since then, as it was then: the first event of each key says so.
        let mut then: BTreeMap<&str, Option<&Entry>> = BTreeMap::new();
        for event in self.events.range(self.first_after(at)..) {
            then.entry(event.key()).or_insert(event.before());
        }
        let unchanged = self
            .entries(part, after)
            .filter(|entry| !then.contains_key(&**entry.key()));
        let mut found: Vec<Entry> = unchanged.take(limit).cloned().collect();
        let changed = then.into_values().flatten();
        let before = found.len();
        found.extend(
            changed
                .filter(|entry| &**entry.key() > after && part.has(entry))
                .cloned(),
        );
        if found.len() > before {
            found.sort_by(|one, other| one.key().cmp(other.key()));
            found.truncate(limit);
        }
        Some(found)
    }

    /// The present entries of a part, after a key.
    pub(super) fn entries<'a>(
        &'a self,
        part: &'a Part,
        after: &'a str,
    ) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let start = if after < part.prefix.as_str() {
            Bound::Included(part.prefix.as_str())
        } else {
            Bound::Excluded(after)
        };
        let range = (start, Bound::Unbounded);
        let in_part = |key: &Arc<str>| key.starts_with(&part.prefix);
        match &part.node {
            None => Box::new(
                self.objects
                    .range::<str, _>(range)
                    .take_while(move |(key, _)| in_part(key))
                    .map(|(_, entry)| entry),
            ),
            Some(node) => Box::new(
                self.by_node
                    .get(node.as_str())
                    .into_iter()
                    .flat_map(move |keys| keys.range::<str, _>(range))
                    .take_while(move |key| in_part(key))
                    .filter_map(|key| self.objects.get(key)),
            ),
        }
    }

    fn first_after(&self, revision: Revision) -> usize {
        self.events.partition_point(|event| event.revision() <= revision)
    }

    pub(super) fn apply(&mut self, change: &Change) {
        let written = written(change);
        let seen = self.get(&change.key).map(Entry::revision);
        // The watch went on after a break within a revision.
        let again = match written {
            Some(_) => seen.is_some_and(|seen| seen >= change.revision),
            None => seen.is_none(),
        };
        if again {
            return;
        }
        let (before, after) = match &written {
            Some(stored) => self.insert(stored),
            None => (self.remove(&change.key), None),
        };
        let key = match after.as_ref().or(before.as_ref()) {
            Some(entry) => Arc::clone(entry.key()),
            None => change.key.as_str().into(),
        };
        if after.as_ref().is_none_or(|entry| entry.ties().awaits_dependents) {
            self.ended = change.revision;
        }
        self.remember(ObjectEvent::new(key, change.revision, before, after));
    }

    /// What was there, and what is.
    fn insert(&mut self, stored: &KeyValue) -> (Option<Entry>, Option<Entry>) {
        let before = self.remove(&stored.key);
        let entry = Entry::read::<K>(stored);
        self.bytes += entry.len();
        if let Some(node) = entry.node() {
            let keys = self.by_node.entry(node.into()).or_default();
            keys.insert(Arc::clone(entry.key()));
        }
        if entry.ties().any() {
            self.tied.insert(Arc::clone(entry.key()));
        }
        self.objects.insert(Arc::clone(entry.key()), entry.clone());
        (before, Some(entry))
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let entry = self.objects.remove(key)?;
        self.bytes -= entry.len();
        self.tied.remove(key);
        if let Some(node) = entry.node()
            && let Some(keys) = self.by_node.get_mut(node)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_node.remove(node);
            }
        }
        Some(entry)
    }

    fn remember(&mut self, event: ObjectEvent<K>) {
        self.event_bytes += event.len();
        self.events.push_back(Arc::new(event));
        if let Some(old) = self.events.len().checked_sub(DECODED_EVENTS + 1) {
            self.events[old].forget_objects();
        }
        let budget = MIN_EVENT_BYTES.max(self.bytes / 4);
        while self.events.len() > MAX_EVENTS || self.event_bytes > budget {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.event_bytes -= oldest.len();
            self.floor = oldest.revision();
        }
    }
}

#[cfg(test)]
mod tests;
