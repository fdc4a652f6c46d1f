//! Puts that wait for etcd together go in one transaction.
//!
//! A transaction costs etcd a message, an entry of its log and a turn of its one writer, whatever it holds. So while one
//! is on its way, the puts that come are gathered, and follow as the next: a transaction of transactions, each with its
//! own conditions and its own outcome. A put that finds none on its way goes at once.
//!
//! etcd looks at all conditions of a transaction before it writes anything. A put joins others only where none of them
//! writes what it writes or asks for, so that it is as if each had come alone, one after the other.

use std::{
    collections::HashSet,
    fmt,
    iter::once,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clone8s_daemon::etcd::value::{MOST_PUTS, stored};
use etcd_client::{Txn, TxnOp, TxnOpResponse};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, join_all},
};
use tokio::{sync::oneshot, time::timeout};
use tonic::Code;

use super::{
    EtcdStore,
    base::Base,
    changed, conditions,
    error::{Asked, map_error, timed_out, unavailable},
    found, look, refused, require, revision,
};
use crate::store::{Precondition, Revision, StoreError, Unchanged};

/// After so long the next transaction goes though one is on its way still: an etcd that hangs holds up no put by more.
const LATE: Duration = Duration::from_secs(1);
/// etcd takes 1.5 MiB.
const BYTES: usize = 1 << 20;
/// Keys that a put that shares has conditions on, with its own: of etcd's 128 operations the most puts of a transaction are
/// counted for each of them, and a key has three conditions at most.
const KEYS: usize = (128 - MOST_PUTS as usize) / 3;
/// Names nothing that is ever written.
const NOWHERE: &str = "/clone8s-store/";

/// A put, and what it is made under.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) key: String,
    pub(super) value: Bytes,
    pub(super) precondition: Precondition,
    pub(super) unchanged: Vec<Unchanged>,
}

/// The puts of a store.
#[derive(Default)]
pub(super) struct Groups {
    /// A group is its callers': where all of them have gone, so has the group.
    newest: Mutex<Weak<Group>>,
    beside: AtomicI64,
}

/// Puts of one transaction.
struct Group {
    gathering: Arc<Mutex<Gathering>>,
    /// Made by whoever awaits it.
    outcome: Shared<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Gathering {
    /// None once they are on their way.
    puts: Option<Vec<Asking>>,
    bytes: usize,
    written: HashSet<String>,
}

struct Asking {
    put: Put,
    outcome: oneshot::Sender<Result<Revision, StoreError>>,
}

/// Why a put is not in a group that gathers.
enum Apart {
    /// Another one may follow.
    Full(Asking),
    /// It would not be as if each had come alone.
    Entangled(Asking),
}

impl Groups {
    /// How many puts were made beside another, not counting that one.
    pub(super) fn beside(&self) -> i64 {
        self.beside.load(Ordering::Relaxed)
    }

    pub(super) async fn put(&self, store: &EtcdStore, base: Base, put: Put) -> Result<Revision, StoreError> {
        if !put.may_share() {
            return put.alone(store, base).await;
        }
        let (sender, mut outcome) = oneshot::channel();
        match self.join(store, base, Asking { put, outcome: sender }) {
            Ok(group) => group.outcome.clone().await,
            Err(entangled) => return entangled.put.alone(store, base).await,
        }
        outcome.try_recv().unwrap_or_else(|_| {
            let cause = "its transaction was given up".to_owned();
            Err(unavailable(&store.endpoints, "put", cause))
        })
    }

    fn join(&self, store: &EtcdStore, base: Base, mut asking: Asking) -> Result<Arc<Group>, Asking> {
        let mut newest = lock(&self.newest);
        if let Some(group) = newest.upgrade() {
            let added = lock(&group.gathering).add(asking);
            match added {
                Ok(()) => return Ok(group),
                Err(Apart::Full(back)) => asking = back,
                Err(Apart::Entangled(back)) => return Err(back),
            }
        }
        let before = std::mem::take(&mut *newest);
        let group = Arc::new(Group::new(store.clone(), base, asking, before));
        *newest = Arc::downgrade(&group);
        Ok(group)
    }
}

impl Group {
    /// Goes on its way when the one before is back, or late.
    fn new(store: EtcdStore, base: Base, first: Asking, before: Weak<Self>) -> Self {
        let gathering = Arc::new(Mutex::new(Gathering::of(first)));
        let gathered = Arc::clone(&gathering);
        let outcome = async move {
            if let Some(before) = before.upgrade() {
                let _ = timeout(LATE, before.outcome.clone()).await;
            }
            let puts = lock(&gathered).puts.take().unwrap_or_default();
            commit(&store, base, puts).await;
        };
        Self {
            gathering,
            outcome: outcome.boxed().shared(),
        }
    }
}

impl Gathering {
    fn of(first: Asking) -> Self {
        let mut gathering = Self {
            puts: Some(Vec::new()),
            ..Self::default()
        };
        gathering.take_in(first);
        gathering
    }

    fn add(&mut self, asking: Asking) -> Result<(), Apart> {
        let Some(puts) = &mut self.puts else {
            return Err(Apart::Full(asking));
        };
        // Who does not wait any more is not written for.
        if puts.iter().any(|asking| asking.outcome.is_closed()) {
            puts.retain(|asking| !asking.outcome.is_closed());
            self.bytes = puts.iter().map(|asking| asking.put.bytes()).sum();
            self.written = puts.iter().map(|asking| asking.put.key.clone()).collect();
        }
        let is_full = puts.len() >= usize::from(MOST_PUTS) || self.bytes + asking.put.bytes() > BYTES;
        if is_full {
            return Err(Apart::Full(asking));
        }
        if self.is_entangled_with(&asking.put) {
            return Err(Apart::Entangled(asking));
        }
        self.take_in(asking);
        Ok(())
    }

    fn is_entangled_with(&self, put: &Put) -> bool {
        let asked_for = put.unchanged.iter().map(|unchanged| &unchanged.key);
        once(&put.key)
            .chain(asked_for)
            .any(|key| self.written.contains(key))
    }

    fn take_in(&mut self, asking: Asking) {
        self.bytes += asking.put.bytes();
        self.written.insert(asking.put.key.clone());
        self.puts.get_or_insert_default().push(asking);
    }
}

impl Put {
    fn may_share(&self) -> bool {
        !self.value.is_empty() && self.bytes() <= BYTES && self.unchanged.len() < KEYS
    }

    /// Roughly, of its message.
    fn bytes(&self) -> usize {
        let conditions: usize = self.unchanged.iter().map(|unchanged| unchanged.key.len()).sum();
        // A key is in a condition, in the put and in the look for where the condition does not hold.
        self.value.len() + 3 * (self.key.len() + conditions) + 64 * (1 + self.unchanged.len())
    }

    /// With so many puts after it in its transaction.
    fn transaction(&self, base: Base, distance: u8) -> Txn {
        let mut conditions = conditions(&self.key, self.precondition, base);
        let mut looks = vec![look(&self.key)];
        require(&self.unchanged, &mut conditions, &mut looks, base);
        let write = TxnOp::put(self.key.as_str(), stored(&self.value, distance), None);
        Txn::new().when(conditions).and_then([write]).or_else(looks)
    }

    async fn alone(&self, store: &EtcdStore, base: Base) -> Result<Revision, StoreError> {
        let asked = Asked::key("put", &self.key);
        let outcome = store.write(asked, self.transaction(base, 0), base).await?;
        self.outcome(outcome, base)
    }

    /// By the revision of its write, or else what was found of its key and of those that it is made under.
    fn outcome(
        &self,
        outcome: Result<Revision, Vec<Option<i64>>>,
        base: Base,
    ) -> Result<Revision, StoreError> {
        outcome.map_err(|found| {
            let of_key = found.first().copied().flatten();
            changed(&self.unchanged, found.get(1..), base)
                .unwrap_or_else(|| refused(&self.key, self.precondition, of_key))
        })
    }
}

async fn commit(store: &EtcdStore, base: Base, mut puts: Vec<Asking>) {
    puts.retain(|asking| !asking.outcome.is_closed());
    if puts.len() > 1 {
        puts = together(store, base, puts).await;
    }
    // One alone, or all of them where etcd takes less at a time than it does unless told otherwise.
    join_all(puts.into_iter().map(|Asking { put, outcome }| async move {
        let _ = outcome.send(put.alone(store, base).await);
    }))
    .await;
}

/// Returns those that have no outcome, because etcd does not take so many.
async fn together(store: &EtcdStore, base: Base, puts: Vec<Asking>) -> Vec<Asking> {
    // No more than a step.
    let distances = (0..u8::try_from(puts.len()).unwrap_or(u8::MAX)).rev();
    let parts = puts.iter().zip(distances.clone());
    let parts = parts.map(|(asking, distance)| TxnOp::txn(asking.put.transaction(base, distance)));
    // etcd holds a transaction to its space by its own puts alone, so that it needs one: which is not done, since there is
    // no condition that does not hold.
    let never = TxnOp::put(NOWHERE, "", None);
    let txn = Txn::new().and_then(parts.collect::<Vec<_>>()).or_else([never]);
    let reply = match store.transact(&txn).await {
        Some(Ok(reply)) => reply,
        Some(Err(error)) if is_too_much(&error) => return puts,
        Some(Err(etcd_client::Error::GRpcStatus(status))) => {
            return fail(puts, |put| {
                let error = etcd_client::Error::GRpcStatus(status.clone());
                map_error(&store.endpoints, &Asked::key("put", &put.key), error)
            });
        }
        Some(Err(other)) => {
            return fail(puts, |_| unavailable(&store.endpoints, "put", other.to_string()));
        }
        None => return fail(puts, |_| timed_out(&store.endpoints, "put", store.timeout)),
    };
    let Ok(end) = revision(reply.header(), base) else {
        return fail(puts, |_| {
            unavailable(&store.endpoints, "put", "the reply has no header".to_owned())
        });
    };
    let mut made = 0;
    for ((asking, distance), part) in puts.into_iter().zip(distances).zip(reply.op_responses()) {
        let outcome = match part {
            TxnOpResponse::Txn(part) if part.succeeded() => {
                made += 1;
                Ok(Revision(end.0 - i64::from(distance)))
            }
            TxnOpResponse::Txn(part) => Err(found(&part)),
            _ => Err(Vec::new()),
        };
        let _ = asking.outcome.send(asking.put.outcome(outcome, base));
    }
    store
        .groups
        .beside
        .fetch_add((made - 1).max(0), Ordering::Relaxed);
    Vec::new()
}

/// Leaves none without an outcome.
fn fail(puts: Vec<Asking>, error: impl Fn(&Put) -> StoreError) -> Vec<Asking> {
    for asking in puts {
        let _ = asking.outcome.send(Err(error(&asking.put)));
    }
    Vec::new()
}

/// Sizes and numbers beyond what etcd is set to take.
fn is_too_much(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    // The second is gRPC's own, before etcd sees the call; a full etcd has the same code.
    status.code() == Code::InvalidArgument
        || (status.code() == Code::ResourceExhausted && status.message().contains("larger than max"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}
