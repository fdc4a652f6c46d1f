//! Carries each change of the store to the bus, at least once and in order per object.
//!
//! The store's own log is the outbox: there is nothing to write twice. One apiserver at a time tails it, in its caches,
//! which follow the store anyway, and from the store itself where they do not reach back:
//!
//! ```text
//! follower ──(the lease is free, its holder silent, or our own from before)──► leader
//!    ▲                                                                           │
//!    └──(the lease is another's, or could not be renewed in time; store down)────┘
//!
//! leader: changes after the cursor ─► route (pure) ─► window: publish, confirmed ─► cursor moves ─► saved from time to time
//!              │
//!              └─(the cursor is older than the history: a gap)─► publish what there is now, go on from there
//! ```
//!
//! A crash anywhere publishes some changes again and skips none, because the cursor follows the confirms. A leader
//! that lost the lease without knowing it can repeat messages, which consumers drop by their revision, but cannot
//! move the cursor: each leader begins by writing it, and a write needs the revision of the one before.

mod lease;
mod publish;
mod route;
mod tail;
mod window;

use std::{convert::Infallible, sync::Arc, time::Duration};

use clone8s_bus::EventBus;
use clone8s_daemon::{Shutdown, backoff, supervisor::chain};
use tokio::{sync::watch, time::timeout};

use self::{lease::Lease, publish::Publisher, tail::Tail};
use crate::{
    cache::Caches,
    store::{Store, StoreError},
};

pub(crate) const LEADER_KEY: &str = "/clone8s/system/outbox/leader";
const CURSOR_KEY: &str = "/clone8s/system/outbox/cursor";
/// How long a leader that stops waits for the store to know it.
const LEAVE: Duration = Duration::from_secs(4);

/// How quickly leaders renew, give up and follow each other, and save how far they are.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// Between renewals of the lease by its holder, and looks at it by the others.
    renew: Duration,
    /// A lease that did not change for so long, by the clock of who looks at it, is free.
    expire: Duration,
    /// Between saves of a cursor that moved.
    save: Duration,
    /// Without changes of objects the cursor is saved only when it fell so many revisions behind the store, whose own
    /// bookkeeping goes on: it must not leave the history, of which a thousand changes are kept at least.
    idle: i64,
    /// Nobody else can use the store: who holds the lease is a process that is gone.
    alone: bool,
}

impl Timing {
    fn of(store: &dyn Store) -> Self {
        let save = Duration::from_secs(1);
        if store.is_exclusive() {
            // Nobody can follow, so nobody has to be told often, and each time would wake the disk.
            return Self {
                renew: Duration::from_mins(1),
                expire: Duration::from_mins(10),
                save,
                idle: 500,
                alone: true,
            };
        }
        Self {
            renew: Duration::from_secs(3),
            expire: Duration::from_secs(10),
            save,
            // etcd's transactions are a hundred apart.
            idle: 50_000,
            alone: false,
        }
    }
}

/// Publishes the store's changes whenever this is the one to do so, until shutdown. Waits out every failure of the
/// store and the bus.
///
/// `identity` names this apiserver among those of the same store. After a restart under the same identity it goes
/// on at once; no two that run may share one. `takes` is told whether the bus takes messages, as far as it is given any.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    bus: Arc<dyn EventBus>,
    identity: String,
    takes: watch::Sender<bool>,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let outbox = Outbox {
        timing: Timing::of(&*store),
        store,
        caches,
        publisher: Publisher::new(bus, takes),
        identity,
    };
    outbox.run(shutdown).await;
    Ok(())
}

struct Outbox {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    publisher: Publisher,
    identity: String,
    timing: Timing,
}

impl Outbox {
    async fn run(self, shutdown: Shutdown) {
        let mut delays = backoff::reconnect();
        while !shutdown.is_cancelled() {
            let led = self.lead_once(&shutdown).await;
            let pause = match led {
                Ok(()) => {
                    delays = backoff::reconnect();
                    self.timing.renew
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the outbox waits for the store");
                    delays.next().unwrap_or(self.timing.renew)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Waits for the lease and publishes for as long as it holds.
    async fn lead_once(&self, shutdown: &Shutdown) -> Result<(), StoreError> {
        let mut lease = tokio::select! {
            lease = Lease::acquire(&*self.store, &self.identity, self.timing) => lease?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let (store, caches) = (&*self.store, &self.caches);
        let mut tail = Tail::start(store, caches, &self.publisher, lease.term(), self.timing).await?;
        tracing::info!(
            term = lease.term(),
            cursor = tail.cursor().0,
            "publishing the store's changes"
        );
        let outcome = tokio::select! {
            // First, so that nothing more is published once it is lost.
            biased;
            lost = lease.hold() => lost,
            () = shutdown.cancelled() => {
                // The successor need not wait, nor publish again what was confirmed; if the store does not answer, it does.
                let leave = async {
                    tail.save().await?;
                    lease.release().await
                };
                return timeout(LEAVE, leave).await.unwrap_or(Ok(()));
            }
            Err(error) = tail.run() => Err(error),
        };
        tracing::info!(
            term = lease.term(),
            cursor = tail.cursor().0,
            "no longer publishing the store's changes"
        );
        outcome
    }
}

#[cfg(test)]
mod tests;
