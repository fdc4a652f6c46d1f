//! A watch: a position in the history that moves by itself.
//!
//! ```text
//! behind ──(read the file)──► caught up ──(read the memory)──► caught up … ──(fell behind the memory)──► behind
//! ```
//! A slow reader costs nobody anything: it has no queue, only its position, and falls back on the file.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    file::{File, broken},
    recent::{Look, Recent},
};
use crate::store::{Change, Revision, StoreError, Watch, WatchItem};

/// How many writes one look considers: it bounds the memory of a catch-up.
const LOOK: usize = 128;

pub(super) fn watch(
    file: Weak<File>,
    recent: Arc<Recent>,
    prefix: String,
    after: Revision,
    progress_every: Duration,
) -> Watch {
    let watcher = Watcher {
        file,
        newest: recent.subscribe(),
        recent,
        prefix,
        position: after,
        told: after,
        ready: VecDeque::new(),
        progress_every,
        next_progress: Instant::now() + progress_every,
    };
    let items = stream::try_unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        Ok(Some((item, watcher)))
    });
    items.boxed()
}

struct Watcher {
    /// Weak, so that a forgotten watch does not keep the file open.
    file: Weak<File>,
    recent: Arc<Recent>,
    newest: watch::Receiver<Option<Revision>>,
    prefix: String,
    /// Every change up to here is in `ready` or delivered.
    position: Revision,
    /// The last revision that the reader has heard of.
    told: Revision,
    ready: VecDeque<Change>,
    progress_every: Duration,
    next_progress: Instant,
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                self.told = change.revision;
                self.next_progress = Instant::now() + self.progress_every;
                return Ok(WatchItem::Change(change));
            }
            // Marked as seen before looking: what comes after the look wakes the wait below.
            if self.newest.borrow_and_update().is_none() {
                return Err(closed());
            }
            let before = self.position;
            let (changes, up_to) = match self.recent.after(&self.prefix, before, LOOK) {
                Look::Changes(changes, up_to) => (changes, up_to),
                Look::Behind => self.read_history().await?,
            };
            self.ready.extend(changes);
            self.position = up_to;
            if up_to == before
                && let Some(progress) = self.wait().await?
            {
                return Ok(progress);
            }
        }
    }

    /// Waits for a new revision, or for the time to tell the progress made since the reader last heard something.
    async fn wait(&mut self) -> Result<Option<WatchItem>, StoreError> {
        let owed = self.position > self.told;
        tokio::select! {
            changed = self.newest.changed() => changed.map(|()| None).map_err(|_| closed()),
            () = sleep_until(self.next_progress), if owed => {
                self.told = self.position;
                self.next_progress = Instant::now() + self.progress_every;
                Ok(Some(WatchItem::Progress(self.position)))
            }
        }
    }

    async fn read_history(&self) -> Result<(Vec<Change>, Revision), StoreError> {
        let file = self.file.upgrade().ok_or_else(closed)?;
        let (prefix, after) = (self.prefix.clone(), self.position);
        let read = tokio::task::spawn_blocking(move || {
            let snapshot = file.snapshot()?;
            snapshot.must_know(after)?;
            snapshot.changes(&prefix, after, LOOK).map_err(broken)
        });
        read.await.map_err(|error| StoreError::Broken(error.into()))?
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store was closed".into())
}
