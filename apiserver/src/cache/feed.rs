//! Keeps the caches: reads everything once, then follows the store's one watch.
//!
//! ```text
//! reading ──► following ──(the watch ended)──► waiting ──► following, from where it was
//!    ▲            │
//!    └────────────┴── the store no longer has what comes next: everything is read again, and watchers that are behind
//!                     it are told so
//! ```
//! A store that went back is another one, and all that the apiserver knows is of the one before: it ends.

use std::{convert::Infallible, sync::Arc, time::Duration};

use clone8s_daemon::{Shutdown, backoff, supervisor::chain};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;

use super::Caches;
use crate::store::{EVERYTHING, Revision, Store, StoreError, WatchItem};

/// The store was restored, or another has taken its place.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store went back from revision {reached} to {newest}: it was restored or replaced while this apiserver ran; \
     start the apiserver again"
)]
pub(crate) struct WentBack {
    reached: Revision,
    newest: Revision,
}

/// Runs until shutdown.
pub(crate) async fn feed(
    caches: Arc<Caches>,
    store: Arc<dyn Store>,
    shutdown: Shutdown,
) -> Result<(), WentBack> {
    let mut feed = Feed {
        position: caches.complete(),
        caches,
        store,
    };
    let mut retries = backoff::reconnect();
    loop {
        let position = feed.position;
        let Err(ended) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ended = feed.follow() => ended,
        };
        if feed.position != position {
            retries = backoff::reconnect();
        }
        match ended {
            StoreError::Compacted { .. } => {
                tracing::warn!("the store has forgotten what comes next: reading everything again");
                feed.position = None;
            }
            StoreError::Future { asked, newest } => {
                return Err(WentBack {
                    reached: asked,
                    newest,
                });
            }
            ended => tracing::warn!(error = chain(&ended), "the store's watch ended: trying again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(retries.next().unwrap_or(Duration::from_secs(5))) => {}
        }
    }
}

struct Feed {
    caches: Arc<Caches>,
    store: Arc<dyn Store>,
    /// Every write up to here is in the caches; None where everything is to be read.
    position: Option<Revision>,
}

impl Feed {
    async fn follow(&mut self) -> Result<Infallible, StoreError> {
        let complete = match self.position {
            Some(position) => position,
            None => self.caches.load(self.store.as_ref()).await?,
        };
        self.caches.publish(complete);
        self.position = Some(complete);
        let mut items = self.store.watch(EVERYTHING, complete).await?;
        // The revision of the last change that came, of which more may come.
        let mut latest = complete;
        loop {
            let item = if let Some(waiting) = items.next().now_or_never() {
                waiting
            } else {
                // Nothing waits, so what came is whole.
                self.reached(latest);
                items.next().await
            };
            match item {
                None => return Err(StoreError::Unavailable("the store ended the watch".into())),
                Some(Err(error)) => return Err(error),
                Some(Ok(WatchItem::Progress(revision))) => latest = latest.max(revision),
                Some(Ok(WatchItem::Change(change))) => {
                    if change.revision > latest {
                        self.reached(latest);
                    }
                    latest = latest.max(change.revision);
                    self.caches.apply(&change);
                }
            }
        }
    }

    fn reached(&mut self, complete: Revision) {
        self.position = Some(complete);
        self.caches.publish(complete);
    }
}
