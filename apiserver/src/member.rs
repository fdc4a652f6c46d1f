//! This apiserver as one of those that write to the same store, and what it knows while it is alone.
//!
//! ```text
//! joining ──(no other is alone)──► writes ◄───────────────────────────► alone: reads ask nobody
//!    ▲                               │    (no other is there / another came)   │
//!    └──(its membership was taken: others saw no sign of life)─────────────────┘
//! ```
//! Each has two keys: its membership, and a lease that it writes again and again and that says whether it is alone.
//! While it is, every acknowledged write is its own, so it knows the newest without asking the store. What keeps that true:
//! - Every write is made while the writer's membership stands. Who is taken for dead loses it first, and nothing that it has
//!   under way is written afterwards.
//! - Who comes writes nothing until no other says that it is alone, or until that one has shown no sign of life for
//!   [`EXPIRE`] and lost its membership. Who is alone and sees another come stops to be before it says so.
//! - Who says that it is alone looks for others afterwards, and who comes looks afterwards too: one of the two sees the other.
//! - Who is alone stays so for less than [`EXPIRE`] after its last lease was sent. Nobody compares clocks, but they must go
//!   equally fast: a machine that is frozen may for a moment answer from before when it goes on.

mod session;
mod view;

use std::{
    fmt, slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

pub(crate) use self::session::{Session, keep};
use crate::store::{
    Dump, KeyValue, Listing, Page, Precondition, Record, Revision, Size, Store, StoreError, Unchanged, Watch,
};

const PREFIX: &str = "/clone8s/system/apiservers/";
const MEMBERSHIP: &str = "membership";
const LEASE: &str = "lease";

/// Between two leases.
const RENEW: Duration = Duration::from_secs(3);
/// Who has not written its lease for so long, by the clock of who looks at it, is gone.
const EXPIRE: Duration = Duration::from_secs(10);
/// Who is alone may believe it for so long after its lease was sent: a third of the time is for what is on its way.
const BELIEVE: Duration = Duration::from_millis(6_600);

/// The store as one apiserver of several writes to it.
pub(crate) struct Member {
    store: Arc<dyn Store>,
    identity: String,
    place: Mutex<Place>,
    /// The newest write that was acknowledged: of this apiserver, and of all when it began to be alone.
    written: AtomicI64,
}

/// Where a member stands with the others.
#[derive(Debug, Default)]
struct Place {
    /// What every write is made under; None while it may not write.
    membership: Option<Unchanged>,
    alone_until: Option<Instant>,
}

impl Member {
    /// `identity` names this apiserver among those of the same store; no two that run may share one.
    pub(crate) fn new(store: Arc<dyn Store>, identity: String) -> Self {
        Self {
            store,
            identity,
            place: Mutex::default(),
            written: AtomicI64::new(0),
        }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn membership(&self) -> Result<Unchanged, StoreError> {
        self.place().membership.clone().ok_or_else(joining)
    }

    /// Lets writes be made under a membership.
    fn admit(&self, membership: Unchanged) {
        self.place().membership = Some(membership);
    }

    /// Nothing is written under a membership any more, nor known without asking.
    fn expel(&self, lost: &Unchanged) {
        let mut place = self.place();
        if place.membership.as_ref() == Some(lost) {
            *place = Place::default();
        }
    }

    /// From now on and for a while all that will be acknowledged is this apiserver's own.
    fn be_alone(&self, since: Instant, newest: Revision) {
        self.written.fetch_max(newest.0, Ordering::AcqRel);
        self.place().alone_until = Some(since + BELIEVE);
    }

    fn be_among_others(&self) {
        self.place().alone_until = None;
    }

    /// Takes in what came of a write.
    fn wrote(
        &self,
        membership: &Unchanged,
        outcome: Result<Revision, StoreError>,
    ) -> Result<Revision, StoreError> {
        match outcome {
            Ok(revision) => {
                self.written.fetch_max(revision.0, Ordering::AcqRel);
                Ok(revision)
            }
            Err(StoreError::Stale { key } | StoreError::NotFound { key }) if key == membership.key => {
                self.expel(membership);
                Err(joining())
            }
            Err(error) => Err(error),
        }
    }

    /// Gives up the membership, so that who stays need not wait for it to expire. The last thing that a member does.
    pub(crate) async fn leave(&self) {
        let place = std::mem::take(&mut *self.place());
        let Some(Unchanged { key, revision }) = place.membership else {
            return;
        };
        let left = self.store.delete(&key, Precondition::Revision(revision)).await;
        let left = match left {
            Ok(_) => self.store.delete(&self.own(LEASE), Precondition::Any).await,
            Err(error) => Err(error),
        };
        if let Err(error) = left {
            tracing::debug!(
                error = clone8s_daemon::supervisor::chain(&error),
                "the other apiservers will find out that this one is gone"
            );
        }
    }

    fn own(&self, what: &str) -> String {
        key(&self.identity, what)
    }
}

fn key(identity: &str, what: &str) -> String {
    format!("{PREFIX}{identity}/{what}")
}

fn joining() -> StoreError {
    StoreError::Unavailable("this apiserver is joining the others of its store; try again".into())
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("store", &self.store)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Member {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str, page: Page, at: Option<Revision>) -> Result<Listing, StoreError> {
        self.store.list(prefix, page, at).await
    }

    async fn dump(&self, prefix: &str) -> Result<Dump, StoreError> {
        self.store.dump(prefix).await
    }

    async fn put_while(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let membership = self.membership()?;
        let conditions = [slice::from_ref(&membership), unchanged].concat();
        let outcome = self.store.put_while(&conditions, key, value, precondition).await;
        self.wrote(&membership, outcome)
    }

    async fn delete_while(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let membership = self.membership()?;
        let conditions = [slice::from_ref(&membership), unchanged].concat();
        let outcome = self
            .store
            .delete_while(&conditions, record, key, precondition)
            .await;
        self.wrote(&membership, outcome)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, after).await
    }

    async fn size(&self) -> Result<Size, StoreError> {
        self.store.size().await
    }

    fn newest_known(&self) -> Option<Revision> {
        // Before the number is read: a write that is acknowledged in between may be in it or not.
        let alone = self
            .place()
            .alone_until
            .is_some_and(|until| Instant::now() < until);
        alone.then(|| Revision(self.written.load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests;
