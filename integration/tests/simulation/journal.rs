//! Writes the history down as it happens, and holds every entry to the rules at once.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use clone8s::{mirror::is_mirror, object::Object as _, v1::Pod};
use clone8s_apiserver::store::{Change, Revision, far::FarStore};
use prost::Message as _;
use tokio::time::Instant;

use crate::{
    history::{Entry, Fact, Wishes},
    rules::{Broken, Checker},
};

const PODS: &str = "/clone8s/objects/pods/";
/// What a failing seed shows of its history.
const SHOWN: usize = 60;

/// Clones write the same history.
#[derive(Debug, Clone)]
pub(crate) struct Journal(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    store: FarStore,
    /// What of the store's log is in the history.
    seen: Revision,
    entries: Vec<Entry>,
    checker: Checker,
    broken: Option<Broken>,
}

impl Journal {
    pub(crate) fn new(store: &FarStore) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            begun: Instant::now(),
            store: store.clone(),
            seen: Revision(0),
            entries: Vec::new(),
            checker: Checker::default(),
            broken: None,
        })))
    }

    /// Writes down what the store has taken by now.
    pub(crate) fn catch_up(&self) {
        self.lock().catch_up();
    }

    /// After what the store has taken by now.
    pub(crate) fn write(&self, fact: Fact) {
        let mut inner = self.lock();
        inner.catch_up();
        inner.add(fact);
    }

    /// The first rule that was broken, and what led to it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut inner = self.lock();
        inner.catch_up();
        match &inner.broken {
            None => Ok(()),
            Some(broken) => Err(format!("{broken}\n{}", inner.end())),
        }
    }

    /// For people: the end of the history.
    pub(crate) fn end(&self) -> String {
        self.lock().end()
    }

    /// The pods that the store has now, and what the nodes are to have besides.
    pub(crate) fn wanted(&self) -> (Vec<Pod>, Wishes) {
        let mut inner = self.lock();
        inner.catch_up();
        inner.checker.wanted()
    }

    /// How many containers were started.
    pub(crate) fn starts(&self) -> usize {
        let inner = self.lock();
        let facts = inner.entries.iter().map(|entry| &entry.fact);
        facts.filter(|fact| matches!(fact, Fact::Started { .. })).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn catch_up(&mut self) {
        for change in self.store.changes_after(self.seen) {
            self.seen = change.revision;
            if let Some(fact) = of_pod(change) {
                self.add(fact);
            }
        }
    }

    fn add(&mut self, fact: Fact) {
        // What follows on a broken rule says nothing new.
        if self.broken.is_some() {
            return;
        }
        let at = self.begun.elapsed();
        let entry = Entry { at, fact };
        self.broken = self.checker.take(&entry).err();
        self.entries.push(entry);
    }

    fn end(&self) -> String {
        let begin = self.entries.len().saturating_sub(SHOWN);
        self.entries[begin..]
            .iter()
            .fold(String::new(), |mut text, entry| {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{entry}");
                text
            })
    }
}

/// None for what is no pod, and for what only shows a node's own.
fn of_pod(change: Change) -> Option<Fact> {
    change.key.strip_prefix(PODS)?;
    let is_stored = change.value.is_some();
    let bytes = change.value.or(change.previous.map(|previous| previous.value))?;
    let mut pod = Pod::decode(bytes).ok().filter(|pod| !is_mirror(pod))?;
    if !is_stored {
        return Some(Fact::Removed(pod.uid().to_owned()));
    }
    pod.metadata_mut().resource_version = change.revision.0;
    Some(Fact::Stored(Box::new(pod)))
}
