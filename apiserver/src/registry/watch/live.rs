//! A place among a cache's events, which moves as they come.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use clone8s::v1::WatchEventType;
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep},
};

use super::{View, WatchEvent, without_object};
use crate::{
    cache::{Caches, ObjectEvent},
    error::ApiError,
    kind::Kind,
    store::Revision,
};

pub(super) struct Live<K> {
    news: watch::Receiver<Revision>,
    /// Events that were taken from the cache and not looked at yet.
    pending: VecDeque<Arc<ObjectEvent<K>>>,
    /// All up to here was taken from the cache.
    position: Revision,
    /// The last revision that the watcher was told of.
    told: Revision,
    bookmark_interval: Duration,
    /// Kept over all events between two bookmarks: a new one for each would be a good part of what an event costs.
    until_bookmark: Pin<Box<Sleep>>,
}

impl<K: Kind> Live<K> {
    pub(super) fn new(
        news: watch::Receiver<Revision>,
        position: Revision,
        bookmark_interval: Duration,
    ) -> Self {
        Self {
            news,
            pending: VecDeque::new(),
            position,
            told: position,
            bookmark_interval,
            until_bookmark: Box::pin(sleep(bookmark_interval)),
        }
    }

    pub(super) async fn next(&mut self, caches: &Caches, view: &View<K>) -> Result<WatchEvent, ApiError> {
        loop {
            while let Some(event) = self.pending.pop_front() {
                if let Some(seen) = view.of(&event)? {
                    self.told = event.revision();
                    return Ok(seen);
                }
            }
            // Also while there is news all the time, of which nothing is for this watcher.
            if Instant::now() >= self.until_bookmark.deadline() {
                self.until_bookmark
                    .as_mut()
                    .reset(Instant::now() + self.bookmark_interval);
                if self.position > self.told {
                    self.told = self.position;
                    return Ok(without_object(WatchEventType::Bookmark, self.told));
                }
            }
            // Before the look, so that what comes after it is noticed.
            self.news.mark_unchanged();
            if self.take(caches)? {
                continue;
            }
            tokio::select! {
                biased;
                news = self.news.changed() => news.map_err(|_| ApiError::Stopping)?,
                () = &mut self.until_bookmark => {}
            }
        }
    }

    /// Takes what the cache has; false when there is nothing.
    fn take(&mut self, caches: &Caches) -> Result<bool, ApiError> {
        let Some(complete) = caches.complete() else {
            return Ok(false);
        };
        let events = K::cache(caches)
            .events(self.position, complete)
            .ok_or(ApiError::TooSlow { told: self.told })?;
        self.position = match events.last() {
            Some(last) => last.revision(),
            None => self.position.max(complete),
        };
        self.pending.extend(events);
        Ok(!self.pending.is_empty())
    }
}
