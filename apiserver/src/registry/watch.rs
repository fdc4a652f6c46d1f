//! Watches: every change after a revision, in order, each once, or an error that says why not.
//!
//! ```text
//! state (ADDED … SYNCED) ─────────────┐
//!                                     ▼
//! history (the store's, where the     live (the cache's events, BOOKMARKs while nothing matches) ──► an error
//!  cache does not reach back) ────────▲
//! ```
//! A stream is pulled by its reader, so one that reads slowly holds up itself alone. One for which the cache's events
//! no longer suffice is ended with OUT_OF_RANGE; watching again from the revision that it has come to, it gets the
//! rest from the store's history, or OUT_OF_RANGE where that ends too.

mod live;

use std::{pin::Pin, vec};

use clone8s::{
    v1::WatchEventType,
    wire::{Encoded, WatchRequest, WatchResponse},
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::live::Live;
use super::{Registry, filter::Filter, key::prefix};
use crate::{
    access::Scope,
    cache::{Entry, ObjectEvent, Part},
    error::ApiError,
    kind::Kind,
    store::{EVERYTHING, Revision, Watch, WatchItem},
};

pub(crate) type WatchEvent = WatchResponse<Encoded>;

/// Ends with an error, never silently.
pub(crate) type WatchStream = BoxStream<'static, Result<WatchEvent, ApiError>>;

impl Registry {
    pub(crate) async fn watch<K: Kind>(
        &self,
        scope: &Scope,
        request: &WatchRequest,
    ) -> Result<WatchStream, ApiError> {
        let start = Start::parse(request)?;
        let filter = Filter::<K>::parse(&request.label_selector, &request.field_selector, scope)?;
        let part = filter.part(prefix::<K>(&request.namespace)?);
        let phase = tokio::select! {
            () = self.shutdown.cancelled() => return Err(ApiError::Stopping),
            phase = self.begin(start, &part) => phase?,
        };
        // Boxed, because the stream moves it with every event.
        let watcher = Box::new(Watcher {
            registry: self.clone(),
            stopping: Box::pin(self.shutdown.clone().cancelled_owned()),
            view: View {
                part,
                filter,
                previous: Previous::asked_for(request.include_previous),
            },
            phase,
        });
        Ok(stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            let next = watcher.next_or_stopping().await;
            let watcher = next.is_ok().then_some(watcher);
            Some((next, watcher))
        })
        .boxed())
    }

    async fn begin<K: Kind>(&self, start: Start, part: &Part) -> Result<Phase<K>, ApiError> {
        // Until all that is stored was read.
        self.caches.reach(Revision(0)).await;
        match start {
            Start::Now => Ok(Phase::Live(self.live(self.caches.newest().await?))),
            Start::State => loop {
                let at = self.caches.reach(self.caches.newest().await?).await;
                // A page may miss its revision when very much is written at that moment.
                if let Some(entries) = K::cache(&self.caches).page(part, "", usize::MAX, at) {
                    return Ok(Phase::State {
                        entries: entries.into_iter(),
                        at,
                    });
                }
            },
            Start::After(revision) => {
                let newest = self.caches.newest().await?;
                if revision > newest {
                    return Err(ApiError::Future {
                        asked: revision,
                        newest,
                    });
                }
                if K::cache(&self.caches).reaches_back_to(revision) {
                    return Ok(Phase::Live(self.live(revision)));
                }
                // Of all keys: some are written often, so that it soon shows how far it is.
                Ok(Phase::History {
                    changes: self.store.watch(EVERYTHING, revision).await?,
                    latest: revision,
                })
            }
        }
    }

    fn live<K: Kind>(&self, position: Revision) -> Live<K> {
        Live::new(
            K::cache(&self.caches).subscribe(),
            position,
            self.bookmark_interval,
        )
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
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    view: View<K>,
    phase: Phase<K>,
}

/// What a watcher sees.
struct View<K: Kind> {
    part: Part,
    filter: Filter<K>,
    previous: Previous,
}

/// Whether events tell what an object was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Previous {
    LeftOut,
    Included,
}

impl Previous {
    fn asked_for(include: bool) -> Self {
        if include { Self::Included } else { Self::LeftOut }
    }
}

enum Phase<K> {
    /// Sending what there was at a revision.
    State {
        entries: vec::IntoIter<Entry>,
        at: Revision,
    },
    /// Sending what happened before the cache's events begin.
    History { changes: Watch, latest: Revision },
    /// Sending what happens.
    Live(Live<K>),
}

impl<K: Kind> Watcher<K> {
    async fn next_or_stopping(&mut self) -> Result<WatchEvent, ApiError> {
        // Before what is next, so that a stream with a lot to say ends too.
        tokio::select! {
            biased;
            () = &mut self.stopping => Err(ApiError::Stopping),
            next = next(&self.registry, &self.view, &mut self.phase) => next,
        }
    }
}

async fn next<K: Kind>(
    registry: &Registry,
    view: &View<K>,
    phase: &mut Phase<K>,
) -> Result<WatchEvent, ApiError> {
    loop {
        match phase {
            Phase::State { entries, at } => {
                for entry in entries.by_ref() {
                    if view.filter.admits(&entry)? {
                        return Ok(WatchEvent {
                            r#type: WatchEventType::Added.into(),
                            object: Some(entry.encoded::<K>()?),
                            resource_version: entry.revision().0,
                            previous: None,
                        });
                    }
                }
                let at = *at;
                *phase = Phase::Live(registry.live(at));
                return Ok(without_object(WatchEventType::Synced, at));
            }
            Phase::History { changes, latest } => {
                let item = next_item(changes).await?;
                let complete = item.complete();
                let known = registry.caches.complete().is_some_and(|known| complete <= known);
                if known && complete >= *latest && K::cache(&registry.caches).reaches_back_to(complete) {
                    *phase = Phase::Live(registry.live(complete));
                    continue;
                }
                let WatchItem::Change(change) = item else {
                    continue;
                };
                *latest = change.revision;
                if change.key.starts_with(&view.part.prefix)
                    && let Some(event) = view.of(&ObjectEvent::of(&change))?
                {
                    return Ok(event);
                }
            }
            Phase::Live(live) => return live.next(&registry.caches, view).await,
        }
    }
}

async fn next_item(changes: &mut Watch) -> Result<WatchItem, ApiError> {
    let closed = || ApiError::StoreUnavailable("the store ended the watch".into());
    Ok(changes.next().await.ok_or_else(closed)??)
}

fn without_object(kind: WatchEventType, revision: Revision) -> WatchEvent {
    WatchEvent {
        r#type: kind.into(),
        object: None,
        resource_version: revision.0,
        previous: None,
    }
}

impl<K: Kind> View<K> {
    /// An event as a watcher with selectors sees it: what comes into the selection is added, what leaves it is
    /// deleted, as it was last seen.
    fn of(&self, event: &ObjectEvent<K>) -> Result<Option<WatchEvent>, ApiError> {
        if !event.key().starts_with(&self.part.prefix) {
            return Ok(None);
        }
        let (kind, object) = match self.filter.admits_sides(event)? {
            (false, false) => return Ok(None),
            (false, true) => (WatchEventType::Added, event.state()?),
            (true, true) => (WatchEventType::Modified, event.state()?),
            (true, false) => (WatchEventType::Deleted, event.last_state()?),
        };
        // What comes into the selection was not seen before.
        let previous = match self.previous {
            Previous::Included if kind != WatchEventType::Added => event.before(),
            Previous::Included | Previous::LeftOut => None,
        };
        Ok(Some(WatchEvent {
            r#type: kind.into(),
            object,
            resource_version: event.revision().0,
            previous: previous.map(Entry::encoded::<K>).transpose()?,
        }))
    }
}
