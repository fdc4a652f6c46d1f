//! Watches: every change after a revision, in order, each once, or an error that says why not.
//!
//! ```text
//! (initial state: ADDED … SYNCED) ──► changes, with BOOKMARKs while nothing matches ──► an error ends the stream
//! ```
//! A stream is pulled by its reader, so one that reads slowly holds up itself alone; what it may fall behind is
//! bounded by the store's history, past which it is told OUT_OF_RANGE.

use std::{collections::VecDeque, pin::pin};

use clone8s::v1::WatchEventType;
use clone8s_daemon::Shutdown;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::{Instant, sleep_until};

use super::{
    Registry, decode,
    key::prefix,
    list::{CHUNK, Filter},
};
use crate::{
    access::Scope,
    error::ApiError,
    kind::Kind,
    store::{Change, KeyValue, Page, Revision, Watch, WatchItem},
};

#[derive(Debug, Clone, Default)]
pub(crate) struct WatchRequest {
    /// Empty means every namespace.
    pub(crate) namespace: String,
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) resource_version: i64,
    pub(crate) send_initial_state: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct WatchEvent<K> {
    pub(crate) kind: WatchEventType,
    pub(crate) object: Option<K>,
    pub(crate) revision: Revision,
}

/// Ends with an error, never silently.
pub(crate) type WatchStream<K> = BoxStream<'static, Result<WatchEvent<K>, ApiError>>;

impl Registry {
    pub(crate) async fn watch<K: Kind>(
        &self,
        scope: &Scope,
        request: &WatchRequest,
    ) -> Result<WatchStream<K>, ApiError> {
        let start = Start::parse(request)?;
        let prefix = prefix::<K>(&request.namespace)?;
        let filter = Filter::<K>::parse(&request.label_selector, &request.field_selector, scope)?;
        let phase = match start {
            Start::After(revision) => self.follow(&prefix, revision).await?,
            Start::Now => {
                let (_, now) = self.store.get(&prefix).await?;
                self.follow(&prefix, now).await?
            }
            Start::State => Phase::State {
                pending: VecDeque::new(),
                next: Some(Page {
                    limit: Some(CHUNK),
                    after: None,
                }),
                revision: None,
            },
        };
        let watcher = Watcher {
            registry: self.clone(),
            shutdown: self.shutdown.clone(),
            prefix,
            filter,
            phase,
        };
        Ok(stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            let shutdown = watcher.shutdown.clone();
            let next = {
                let next = pin!(watcher.next());
                // Before what is next, so that a stream with a lot to say ends too.
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => Err(ApiError::Stopping),
                    next = next => next,
                }
            };
            let watcher = next.is_ok().then_some(watcher);
            Some((next, watcher))
        })
        .boxed())
    }

    async fn follow(&self, prefix: &str, after: Revision) -> Result<Phase, ApiError> {
        let changes = self.store.watch(prefix, after).await?;
        Ok(Phase::Changes {
            changes,
            told: after,
            seen: after,
            bookmark_at: Instant::now() + self.bookmark_interval,
        })
    }
}

/// Where a watch starts.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    State,
    Now,
    After(Revision),
}

impl Start {
    fn parse(request: &WatchRequest) -> Result<Self, ApiError> {
        let bad = |description: String| Err(ApiError::field("the watch", "resource_version", description));
        match (request.resource_version, request.send_initial_state) {
            (0, true) => Ok(Self::State),
            (0, false) => Ok(Self::Now),
            (after, false) if after > 0 => Ok(Self::After(Revision(after))),
            (after, false) => bad(format!("is {after}; it must be 0 or more")),
            (after, true) => bad(format!("is {after}; with send_initial_state it must be 0")),
        }
    }
}

struct Watcher<K: Kind> {
    registry: Registry,
    shutdown: Shutdown,
    prefix: String,
    filter: Filter<K>,
    phase: Phase,
}

enum Phase {
    /// Sending what there is.
    State {
        pending: VecDeque<KeyValue>,
        /// What to ask the store for once nothing is pending.
        next: Option<Page>,
        revision: Option<Revision>,
    },
    /// Sending what happens.
    Changes {
        changes: Watch,
        /// The last revision that the watcher was told of.
        told: Revision,
        /// The last revision that the store has told of.
        seen: Revision,
        bookmark_at: Instant,
    },
}

impl<K: Kind> Watcher<K> {
    async fn next(&mut self) -> Result<WatchEvent<K>, ApiError> {
        loop {
            match &mut self.phase {
                Phase::State {
                    pending,
                    next,
                    revision,
                } => {
                    while let Some(stored) = pending.pop_front() {
                        let object: K = decode(&stored)?;
                        if self.filter.admits(&object) {
                            return Ok(WatchEvent {
                                kind: WatchEventType::Added,
                                revision: stored.revision,
                                object: Some(object),
                            });
                        }
                    }
                    if let Some(page) = next.take() {
                        let listing = self.registry.store.list(&self.prefix, page, *revision).await?;
                        revision.get_or_insert(listing.revision);
                        if let Some(last) = listing.items.last().filter(|_| listing.more) {
                            *next = Some(Page {
                                limit: Some(CHUNK),
                                after: Some(last.key.clone()),
                            });
                        }
                        pending.extend(listing.items);
                    } else {
                        let revision = revision.unwrap_or(Revision(0));
                        self.phase = self.registry.follow(&self.prefix, revision).await?;
                        return Ok(WatchEvent {
                            kind: WatchEventType::Synced,
                            object: None,
                            revision,
                        });
                    }
                }
                Phase::Changes {
                    changes,
                    told,
                    seen,
                    bookmark_at,
                } => {
                    let item = tokio::select! {
                        biased;
                        item = changes.next() => item,
                        // While no change is waiting, all that the store has told of is told.
                        () = sleep_until(*bookmark_at), if seen > told => {
                            *told = *seen;
                            *bookmark_at = Instant::now() + self.registry.bookmark_interval;
                            return Ok(bookmark(*told));
                        }
                    };
                    match item {
                        None => {
                            let closed = std::io::Error::other("the store ended the watch");
                            return Err(ApiError::StoreUnavailable(closed.into()));
                        }
                        Some(Err(error)) => return Err(error.into()),
                        Some(Ok(WatchItem::Progress(revision))) => *seen = revision.max(*seen),
                        Some(Ok(WatchItem::Change(change))) => {
                            *seen = change.revision;
                            if let Some(event) = seen_through(&self.filter, &change)? {
                                *told = change.revision;
                                return Ok(event);
                            }
                            // Many changes of which none matches: the watcher learns how far it is nonetheless. The
                            // revision itself may have more changes to come.
                            let before = Revision(change.revision.0 - 1);
                            if before > *told && Instant::now() >= *bookmark_at {
                                *told = before;
                                *bookmark_at = Instant::now() + self.registry.bookmark_interval;
                                return Ok(bookmark(before));
                            }
                        }
                    }
                }
            }
        }
    }
}

fn bookmark<K>(revision: Revision) -> WatchEvent<K> {
    WatchEvent {
        kind: WatchEventType::Bookmark,
        object: None,
        revision,
    }
}

/// A change as a watcher with selectors sees it: what comes into the selection is added, what leaves it is
/// deleted, as it was last seen.
fn seen_through<K: Kind>(filter: &Filter<K>, change: &Change) -> Result<Option<WatchEvent<K>>, ApiError> {
    let selected = |object: K| Some(object).filter(|object| filter.admits(object));
    let before = match &change.previous {
        Some(previous) => selected(decode(previous)?),
        None => None,
    };
    let after = match &change.value {
        Some(value) => selected(decode(&KeyValue {
            key: change.key.clone(),
            value: value.clone(),
            revision: change.revision,
        })?),
        None => None,
    };
    let (kind, object) = match (before, after) {
        (None, None) => return Ok(None),
        (None, Some(object)) => (WatchEventType::Added, object),
        (Some(_), Some(object)) => (WatchEventType::Modified, object),
        (Some(mut last), None) => {
            last.metadata_mut().resource_version = change.revision.0;
            (WatchEventType::Deleted, last)
        }
    };
    Ok(Some(WatchEvent {
        kind,
        object: Some(object),
        revision: change.revision,
    }))
}
