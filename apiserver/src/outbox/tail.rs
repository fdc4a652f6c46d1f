//! The leader's work: follow the store's changes from the cursor and publish each.

use std::{convert::Infallible, future::pending, sync::Arc};

use bytes::Bytes;
use clone8s::object::OBJECTS_PREFIX;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    CURSOR_KEY, Timing,
    publish::{Publisher, Routed},
    route::{self, Unreadable},
    window::Window,
};
use crate::{
    cache::Caches,
    store::{Change, KeyValue, Page, Precondition, Revision, Store, StoreError, Watch, WatchItem},
};

/// Objects of a page when everything is published.
const PAGE: usize = 500;
/// Everything ever written comes after it.
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
    caches: &'s Arc<Caches>,
    publisher: &'s Publisher,
    term: u64,
    timing: Timing,
    cursor: Revision,
    /// The cursor as it was saved last, and that write's revision.
    saved: Revision,
    saved_at: Revision,
    /// The write of a later cursor, which nothing waits for: publishing goes on.
    saving: Option<Saving<'s>>,
    /// When the cursor is to be saved, where the store does not have it.
    next_save: Option<Instant>,
}

struct Saving<'s> {
    cursor: Revision,
    write: BoxFuture<'s, Result<Revision, StoreError>>,
}

impl<'s> Tail<'s> {
    /// Reads the cursor and makes it this leader's: from here on, no earlier leader can move it.
    pub(super) async fn start(
        store: &'s dyn Store,
        caches: &'s Arc<Caches>,
        publisher: &'s Publisher,
        term: u64,
        timing: Timing,
    ) -> Result<Self, StoreError> {
        let (found, _) = store.get(CURSOR_KEY).await?;
        let precondition = found.as_ref().map_or(Precondition::Absent, |found| {
            Precondition::Revision(found.revision)
        });
        let cursor = found.as_ref().map_or(BEGINNING, read);
        let saved_at = store.put(CURSOR_KEY, encode(cursor, term), precondition).await?;
        Ok(Self {
            store,
            caches,
            publisher,
            term,
            timing,
            cursor,
            saved: cursor,
            saved_at,
            saving: None,
            next_save: None,
        })
    }

    /// Everything up to here has been confirmed.
    pub(super) fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Publishes until the store fails.
    pub(super) async fn run(&mut self) -> Result<Infallible, StoreError> {
        loop {
            let changes = self.caches.changes(self.cursor);
            let Err(ended) = self.follow(changes).await;
            let gap = match ended {
                StoreError::Compacted { oldest, .. } => format!("history begins at {oldest}"),
                StoreError::Future { newest, .. } => format!("the store went back to {newest}"),
                error => return Err(error),
            };
            self.bridge_gap(&gap).await?;
        }
    }

    async fn follow(&mut self, mut changes: Watch) -> Result<Infallible, StoreError> {
        let mut window = Window::new(self.publisher, self.cursor);
        let mut ended = None;
        loop {
            // What came before the end is still to be published.
            if window.is_empty()
                && let Some(error) = ended
            {
                return Err(error);
            }
            let next_save = self.next_save.filter(|_| self.saving.is_none());
            tokio::select! {
                item = changes.next(), if ended.is_none() && window.has_room() => match item {
                    Some(Ok(WatchItem::Change(change))) => window.take(change.revision, routed(&change)),
                    Some(Ok(WatchItem::Progress(revision))) => window.take(revision, None),
                    Some(Err(error)) => ended = Some(error),
                    None => ended = Some(StoreError::Unavailable("the watch has ended".into())),
                },
                () = window.confirm(), if !window.is_empty() => {}
                saved = self.saved() => saved?,
                () = due(next_save) => self.begin_save(),
            }
            self.follow_confirms(&window);
        }
    }

    fn follow_confirms(&mut self, window: &Window<'_>) {
        self.cursor = window.cursor();
        let covered = self.saving.as_ref().map_or(self.saved, |saving| saving.cursor);
        let owes_save = window.told() > covered || self.cursor.0 - covered.0 >= self.timing.idle;
        if owes_save && self.next_save.is_none() {
            self.next_save = Some(Instant::now() + self.timing.save);
        }
    }

    /// Writes the cursor, unless the store has it already.
    pub(super) async fn save(&mut self) -> Result<(), StoreError> {
        if self.saving.is_some() {
            self.saved().await?;
        }
        if self.cursor != self.saved {
            self.begin_save();
            self.saved().await?;
        }
        Ok(())
    }

    fn begin_save(&mut self) {
        let (store, cursor) = (self.store, self.cursor);
        let value = encode(cursor, self.term);
        let precondition = Precondition::Revision(self.saved_at);
        let write = async move { store.put(CURSOR_KEY, value, precondition).await };
        self.saving = Some(Saving {
            cursor,
            write: write.boxed(),
        });
        self.next_save = None;
    }

    /// Waits for the write that is on its way, or for ever where there is none. May be cancelled: the write goes on with
    /// the next call.
    async fn saved(&mut self) -> Result<(), StoreError> {
        let Some(saving) = &mut self.saving else {
            return pending().await;
        };
        let (cursor, outcome) = (saving.cursor, (&mut saving.write).await);
        self.saving = None;
        self.saved_at = outcome?;
        self.saved = cursor;
        Ok(())
    }

    /// What happened between the cursor and the history's beginning cannot be told any more; what there is now can.
    async fn bridge_gap(&mut self, why: &str) -> Result<(), StoreError> {
        tracing::error!(
            cursor = self.cursor.0,
            why,
            "changes were lost to the bus: publishing everything as it is now"
        );
        let mut window = Window::new(self.publisher, self.cursor);
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
                window.take(self.cursor, Some(told));
                window.confirm_all().await;
            }
            at = Some(listing.revision);
            page.after = listing.items.last().map(|item| item.key.clone());
            for item in &listing.items {
                while !window.has_room() {
                    window.confirm().await;
                }
                window.take(item.revision, restated(item));
            }
            window.confirm_all().await;
            if !listing.more {
                self.cursor = listing.revision;
                return self.save().await;
            }
        }
    }
}

async fn due(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
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
