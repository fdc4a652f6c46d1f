//! The leader's work: follow the store's changes from the cursor and publish each.

use std::time::Duration;

use bytes::Bytes;
use clone8s::object::OBJECTS_PREFIX;
use futures::{StreamExt as _, stream::ReadyChunks};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    CURSOR_KEY,
    publish::{Publisher, Routed},
    route::{self, Unreadable},
};
use crate::store::{Change, KeyValue, Page, Precondition, Revision, Store, StoreError, Watch, WatchItem};

/// Changes taken together: more would be published again after a crash, fewer would wait for each other more.
const BATCH: usize = 256;
/// Objects of a page when everything is published.
const PAGE: usize = 500;
/// Without changes of objects the cursor is saved only when it fell this far behind the store, whose own
/// bookkeeping goes on: it must not leave the history.
const IDLE_REVISIONS: i64 = 500;
/// As in etcd, an empty store is at revision 1: everything ever written comes after it.
const BEGINNING: Revision = Revision(1);

/// The value of the cursor's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// Everything up to this revision has been confirmed by the bus.
    revision: i64,
    /// Of the leader that says so.
    term: u64,
}

pub(super) struct Tail<'s> {
    store: &'s dyn Store,
    publisher: &'s Publisher,
    term: u64,
    save_every: Duration,
    cursor: Revision,
    /// The cursor as it was saved last, and that write's revision.
    saved: Revision,
    saved_at: Revision,
    /// Changes were published that the saved cursor does not cover.
    owes_save: bool,
}

impl<'s> Tail<'s> {
    /// Reads the cursor and makes it this leader's: from here on, no earlier leader can move it.
    pub(super) async fn start(
        store: &'s dyn Store,
        publisher: &'s Publisher,
        term: u64,
        save_every: Duration,
    ) -> Result<Self, StoreError> {
        let (found, _) = store.get(CURSOR_KEY).await?;
        let precondition = found.as_ref().map_or(Precondition::Absent, |found| {
            Precondition::Revision(found.revision)
        });
        let cursor = found.as_ref().map_or(BEGINNING, read);
        let saved_at = store.put(CURSOR_KEY, encode(cursor, term), precondition).await?;
        Ok(Self {
            store,
            publisher,
            term,
            save_every,
            cursor,
            saved: cursor,
            saved_at,
            owes_save: false,
        })
    }

    /// Everything up to here has been confirmed.
    pub(super) fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Publishes until the store fails.
    pub(super) async fn run(&mut self) -> Result<std::convert::Infallible, StoreError> {
        loop {
            let watch = self.store.watch(OBJECTS_PREFIX, self.cursor).await;
            let ended = match watch {
                Ok(watch) => self.follow(watch.ready_chunks(BATCH)).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(never) => match never {},
                Err(StoreError::Compacted { oldest, .. }) => {
                    self.bridge_gap(&format!("history begins at {oldest}")).await?;
                }
                Err(StoreError::Future { newest, .. }) => {
                    self.bridge_gap(&format!("the store went back to {newest}"))
                        .await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn follow(
        &mut self,
        mut batches: ReadyChunks<Watch>,
    ) -> Result<std::convert::Infallible, StoreError> {
        let mut next_save = Instant::now() + self.save_every;
        loop {
            let batch = tokio::select! {
                batch = batches.next() => batch,
                () = tokio::time::sleep_until(next_save), if self.owes_save => {
                    self.save().await?;
                    continue;
                }
            };
            let Some(batch) = batch else {
                return Err(StoreError::Unavailable("the watch has ended".into()));
            };
            let was_owing = self.owes_save;
            self.take(batch).await?;
            if self.owes_save && !was_owing {
                next_save = Instant::now() + self.save_every;
            }
        }
    }

    async fn take(&mut self, batch: Vec<Result<WatchItem, StoreError>>) -> Result<(), StoreError> {
        let mut changes = Vec::with_capacity(batch.len());
        let mut up_to = self.cursor;
        let mut failed = None;
        for item in batch {
            match item {
                Ok(WatchItem::Change(change)) => {
                    up_to = change.revision;
                    changes.extend(routed(&change));
                }
                Ok(WatchItem::Progress(revision)) => up_to = up_to.max(revision),
                // What came before it is still to be published.
                Err(error) => failed = Some(error),
            }
        }
        self.owes_save |= !changes.is_empty();
        self.publisher.publish(changes).await;
        self.cursor = up_to;
        self.owes_save |= self.cursor.0 - self.saved.0 >= IDLE_REVISIONS;
        failed.map_or(Ok(()), Err)
    }

    /// Writes the cursor, unless the store has it already.
    pub(super) async fn save(&mut self) -> Result<(), StoreError> {
        if self.cursor != self.saved {
            let precondition = Precondition::Revision(self.saved_at);
            self.saved_at = self
                .store
                .put(CURSOR_KEY, encode(self.cursor, self.term), precondition)
                .await?;
            self.saved = self.cursor;
        }
        self.owes_save = false;
        Ok(())
    }

    /// What happened between the cursor and the history's beginning cannot be told any more; what there is now can.
    async fn bridge_gap(&mut self, why: &str) -> Result<(), StoreError> {
        tracing::error!(
            cursor = self.cursor.0,
            why,
            "changes were lost to the bus: publishing everything as it is now"
        );
        let mut at = None;
        let mut page = Page {
            limit: Some(PAGE),
            after: None,
        };
        loop {
            let listing = self.store.list(OBJECTS_PREFIX, page.clone(), at).await?;
            if at.is_none() {
                let gap = route::gap(self.cursor, listing.revision);
                let told = Routed {
                    key: String::new(),
                    queue_of: None,
                    publications: vec![gap],
                };
                self.publisher.publish(vec![told]).await;
            }
            at = Some(listing.revision);
            page.after = listing.items.last().map(|item| item.key.clone());
            self.publisher
                .publish(listing.items.iter().filter_map(restated).collect())
                .await;
            if !listing.more {
                self.cursor = listing.revision;
                return self.save().await;
            }
        }
    }
}

fn routed(change: &Change) -> Option<Routed> {
    let routed = readable(&change.key, route::route(change))?;
    Some(Routed {
        queue_of: route::queue_missed_by(change),
        ..routed
    })
}

fn restated(item: &KeyValue) -> Option<Routed> {
    readable(&item.key, route::restate(item))
}

/// What cannot be read cannot be told; waiting for it would keep everything else from being told.
fn readable(key: &str, publications: Result<Vec<route::Publication>, Unreadable>) -> Option<Routed> {
    match publications {
        Ok(publications) => Some(Routed {
            key: key.to_owned(),
            queue_of: None,
            publications,
        }),
        Err(error) => {
            tracing::error!(
                error = clone8s_daemon::supervisor::chain(&error),
                "a stored object is not published"
            );
            None
        }
    }
}

fn encode(cursor: Revision, term: u64) -> Bytes {
    format!("revision: {cursor}\nterm: {term}\n").into()
}

/// A value that nobody of ours wrote is no reason to stop: everything is published from the beginning.
fn read(found: &KeyValue) -> Revision {
    match serde_yaml::from_slice::<Saved>(&found.value) {
        Ok(saved) => Revision(saved.revision),
        Err(error) => {
            tracing::error!(%error, key = CURSOR_KEY, "the outbox's cursor cannot be read: starting over");
            BEGINNING
        }
    }
}
