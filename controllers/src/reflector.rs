//! Keeps a consumer's picture of one kind of object equal to the apiserver's, over every break.
//!
//! ```text
//!            ┌────────────── history gone (OUT_OF_RANGE) ──────────────┐
//!            ▼                                                         │
//! initial state ──SYNCED: Replaced(all)──► following ──stream ends──► resume after the last revision seen
//!                                          Changed / Deleted
//! ```
//! What a consumer gets is level-based: [`Update::Replaced`] is the whole truth, and the updates after it can be
//! applied any number of times.

use std::time::Duration;

use clone8s::{
    client::{From, Query, Resource, Watch},
    v1::WatchEventType,
};
use clone8s_daemon::{Shutdown, backoff, channel::Channel};
use tokio::{sync::mpsc, time::sleep};
use tonic::{Code, Status};

/// A step of a consumer's picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Update<O> {
    /// Everything that there is: what is not in here is gone.
    Replaced(Vec<O>),
    /// An object is new or has changed.
    Changed(O),
    /// An object is gone; this is its last state.
    Deleted(O),
}

/// Follows every object that the query lets through and tells `updates`, until shutdown or until nobody listens.
///
/// A consumer that is slow slows the stream down (HTTP/2 flow control): nothing is dropped.
pub async fn reflect<O: Resource>(
    channel: Channel,
    query: Query,
    updates: mpsc::Sender<Update<O>>,
    shutdown: Shutdown,
) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = updates.closed() => {}
        () = follow_for_ever(&channel, &query, &updates) => {}
    }
}

async fn follow_for_ever<O: Resource>(channel: &Channel, query: &Query, updates: &mpsc::Sender<Update<O>>) {
    let mut seen: Option<i64> = None;
    let mut delays = backoff::reconnect();
    loop {
        let before = seen;
        let from = seen.map_or(From::InitialState, From::Revision);
        let ended = match O::watch(channel, query, from).await {
            Ok(watch) => follow(watch, &mut seen, updates).await,
            Err(status) => Ended::Broken(status),
        };
        if seen != before {
            delays = backoff::reconnect();
        }
        match ended {
            Ended::NobodyListens => return,
            // One that was to begin with the present state cannot be too late: asked again at once, it would be told the same.
            Ended::Broken(status) if status.code() == Code::OutOfRange && seen.is_some() => {
                tracing::info!(
                    kind = O::KIND,
                    "the watch fell out of the server's history: listing again"
                );
                seen = None;
            }
            Ended::Broken(status) => {
                let delay = delays.next().unwrap_or(Duration::from_secs(5));
                tracing::warn!(
                    kind = O::KIND,
                    code = ?status.code(),
                    reason = status.message(),
                    ?delay,
                    "the watch broke: trying again"
                );
                sleep(delay).await;
            }
            // A server that stops ends its streams in good order: ask again, but not in a tight loop.
            Ended::Finished => sleep(delays.next().unwrap_or(Duration::from_secs(5))).await,
        }
    }
}

enum Ended {
    NobodyListens,
    Finished,
    Broken(Status),
}

async fn follow<O: Resource>(
    mut watch: Watch<O>,
    seen: &mut Option<i64>,
    updates: &mpsc::Sender<Update<O>>,
) -> Ended {
    // Some while the present state is being sent.
    let mut initial = seen.is_none().then(Vec::new);
    loop {
        let event = match watch.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ended::Finished,
            Err(status) => return Ended::Broken(status),
        };
        let update = match (event.kind, event.object) {
            (WatchEventType::Added | WatchEventType::Modified, Some(object)) => match &mut initial {
                Some(objects) => {
                    objects.push(object);
                    continue;
                }
                None => Some(Update::Changed(object)),
            },
            (WatchEventType::Deleted, Some(object)) => Some(Update::Deleted(object)),
            (WatchEventType::Synced, _) => initial.take().map(Update::Replaced),
            // A bookmark, or something that a newer server knows: the revision still counts.
            _ => None,
        };
        if let Some(update) = update
            && updates.send(update).await.is_err()
        {
            return Ended::NobodyListens;
        }
        // Before the sync, a break must start from nothing: half a state is none.
        if initial.is_none() {
            *seen = Some(event.revision);
        }
    }
}

#[cfg(test)]
mod tests;
