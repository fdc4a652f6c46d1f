//! Every change of every object, in order and each once, for who tells all of them on.
//!
//! ```text
//! history (the store's, where the caches do not reach back) ──► memory (the caches' events)
//!    ▲                                                             │
//!    └──(memory has forgotten what is next, or is behind)──────────┘
//! ```

use std::{collections::VecDeque, sync::Arc};

use clone8s::object::OBJECTS_PREFIX;
use clone8s_daemon::supervisor::chain;
use futures::{StreamExt as _, stream};
use tokio::sync::watch;

use super::{Caches, ObjectEvent, state};
use crate::{
    kind::Kind,
    store::{Change, EVERYTHING, Revision, StoreError, Watch, WatchItem},
};

/// Some changes of all kinds: all up to a revision.
pub(super) struct Batch {
    changes: Vec<Change>,
    up_to: Revision,
}

impl Batch {
    pub(super) fn new(up_to: Revision) -> Self {
        Self {
            changes: Vec::new(),
            up_to,
        }
    }

    /// Takes what a cache gives at a time.
    pub(super) fn take<K: Kind>(&mut self, events: &[Arc<ObjectEvent<K>>]) {
        if let Some(last) = events.last().filter(|_| events.len() >= state::BATCH) {
            self.up_to = self.up_to.min(last.revision());
        }
        for event in events {
            match event.change() {
                Ok(change) => self.changes.push(change),
                // Waiting for it would keep everything else from being told.
                Err(error) => tracing::error!(error = chain(&error), "a change of an object is not told"),
            }
        }
    }

    fn into_ordered(self) -> impl Iterator<Item = Change> {
        let Self { mut changes, up_to } = self;
        changes.retain(|change| change.revision <= up_to);
        changes.sort_by_key(|change| change.revision);
        changes.into_iter()
    }
}

pub(super) fn follow(caches: Arc<Caches>, after: Revision) -> Watch {
    let follower = Follower {
        news: caches.subscribe(),
        caches,
        position: after,
        ready: VecDeque::new(),
        history: None,
    };
    let items = stream::try_unfold(follower, |mut follower| async move {
        let item = follower.next().await?;
        Ok(Some((item, follower)))
    });
    items.boxed()
}

struct Follower {
    caches: Arc<Caches>,
    news: watch::Receiver<Option<Revision>>,
    /// Every change up to here is in `ready` or was given.
    position: Revision,
    ready: VecDeque<WatchItem>,
    /// The store's own watch, until memory has what is next.
    history: Option<Watch>,
}

impl Follower {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            match &mut self.history {
                Some(history) => {
                    let next = history.next().await;
                    let ended = || StoreError::Unavailable("the store ended the watch".into());
                    self.take_from_history(next.ok_or_else(ended)??);
                }
                None => self.take_from_memory().await?,
            }
        }
    }

    fn take_from_history(&mut self, item: WatchItem) {
        let complete = item.complete();
        let known = self.caches.complete().is_some_and(|known| complete <= known);
        if known && complete >= self.position && self.caches.reach_back_to(complete) {
            self.history = None;
            self.position = complete;
            self.ready.push_back(WatchItem::Progress(complete));
            return;
        }
        match &item {
            WatchItem::Change(change) => {
                self.position = change.revision;
                if !change.key.starts_with(OBJECTS_PREFIX) {
                    return;
                }
            }
            WatchItem::Progress(revision) => self.position = *revision,
        }
        self.ready.push_back(item);
    }

    async fn take_from_memory(&mut self) -> Result<(), StoreError> {
        let complete = *self.news.borrow_and_update();
        let Some(complete) = complete.filter(|complete| *complete != self.position) else {
            // The sender is in the caches, which live as long as this.
            let _ = self.news.changed().await;
            return Ok(());
        };
        let recent = self.caches.changes_between(self.position, complete);
        let Some(batch) = recent.filter(|_| complete > self.position) else {
            let store = self.caches.newest.store();
            self.history = Some(store.watch(EVERYTHING, self.position).await?);
            return Ok(());
        };
        self.position = batch.up_to;
        self.ready.extend(batch.into_ordered().map(WatchItem::Change));
        self.ready.push_back(WatchItem::Progress(self.position));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
