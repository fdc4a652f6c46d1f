//! What the pods of each namespace take, kept by what happens to them: a count costs what has changed since the last.

use std::{collections::HashMap, sync::Arc};

use clone8s::v1::Pod;

use super::Usage;
use crate::{
    cache::{Cached as _, Caches, Entry},
    store::Revision,
};

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The revision that it shows; None before the first count.
    at: Option<Revision>,
    pods: HashMap<Arc<str>, Usage>,
    namespaces: HashMap<String, Usage>,
}

impl Ledger {
    /// What a namespace's pods take at a revision that the caches have come to, or later.
    pub(super) fn used(&mut self, caches: &Caches, namespace: &str, now: Revision) -> Usage {
        while self.at.is_none_or(|at| at < now) {
            self.go_on(caches, now);
        }
        let nothing = Usage::one_of("pods", 0);
        self.namespaces.get(namespace).copied().unwrap_or(nothing)
    }

    fn go_on(&mut self, caches: &Caches, now: Revision) {
        let pods = Pod::cache(caches);
        if let Some(events) = self.at.and_then(|at| pods.events(at, now)) {
            for event in &events {
                self.set(event.key(), event.after());
            }
            self.at = Some(events.last().map_or(now, |last| last.revision()));
            return;
        }
        *self = Self::default();
        // What is newer than `now` comes again by the events, and is set to the same.
        for entry in pods.all("") {
            self.set(entry.key(), Some(&entry));
        }
        self.at = Some(now);
    }

    fn set(&mut self, key: &Arc<str>, entry: Option<&Entry>) {
        let namespace = namespace(key).to_owned();
        let total = self
            .namespaces
            .entry(namespace.clone())
            .or_insert_with(|| Usage::one_of("pods", 0));
        if let Some(before) = self.pods.remove(key) {
            *total -= &before;
        }
        // One that cannot be decoded is no pod.
        if let Some(pod) = entry.and_then(|entry| entry.decode::<Pod>().ok()) {
            let usage = Usage::of_pod(&pod);
            *total += &usage;
            self.pods.insert(Arc::clone(key), usage);
        }
        if *total == Usage::one_of("pods", 0) {
            self.namespaces.remove(&namespace);
        }
    }
}

/// `/clone8s/objects/pods/<namespace>/<name>`
fn namespace(key: &str) -> &str {
    key.rsplit('/').nth(1).unwrap_or_default()
}
