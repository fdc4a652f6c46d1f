//! Resource quotas: a new object is admitted while what the namespace has, and the object, stay within every quota.
//!
//! What there is is counted from the objects themselves, at a revision that is current. Within one apiserver the
//! writes to a namespace with quotas take turns, so that none is decided on a count that another is about to change.
//! Another apiserver may write between the count and the write: an object that turns out to be too much goes again.

mod ledger;
mod status;
mod usage;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use clone8s::{quantity::Quantity, v1::ResourceQuota};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use self::ledger::Ledger;
pub(crate) use self::{status::keep_statuses, usage::Usage};
use super::present;
use crate::{
    cache::{Cached as _, Caches},
    error::ApiError,
    kind::Kind,
    registry::Key,
};

/// What quotas are counted with.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    ledger: Turn<Ledger>,
    /// By namespace, for as long as somebody writes there.
    turns: Mutex<HashMap<String, Weak<Turn<()>>>>,
}

/// What a namespace's quotas leave, for as long as it is one's turn to write there.
#[derive(Debug)]
pub(crate) struct Room {
    quotas: Vec<ResourceQuota>,
    used: Usage,
    _turn: OwnedMutexGuard<()>,
}

impl Quotas {
    /// None where the namespace has no quotas.
    pub(crate) async fn room<K: Kind>(
        &self,
        caches: &Caches,
        namespace: &str,
    ) -> Result<Option<Room>, ApiError> {
        if !K::NAMESPACED || ResourceQuota::cache(caches).count(namespace) == 0 {
            return Ok(None);
        }
        let turn = self.turn(namespace).lock_owned().await;
        let used = self.used::<K>(caches, namespace).await?;
        Ok(Some(Room {
            quotas: present(caches, namespace)?,
            used,
            _turn: turn,
        }))
    }

    /// What a namespace has now of pods, and of the objects of a kind.
    async fn used<K: Kind>(&self, caches: &Caches, namespace: &str) -> Result<Usage, ApiError> {
        let now = caches.reach(caches.newest().await?).await;
        let mut used = self.ledger.lock().await.used(caches, namespace, now);
        if used.of_kind.0 != K::PLURAL {
            used.of_kind = (K::PLURAL, K::cache(caches).count(namespace));
        }
        Ok(used)
    }

    fn turn(&self, namespace: &str) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(namespace).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::new(()));
        turns.insert(namespace.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

impl Room {
    /// Whether it has room for what the object takes beyond what it took.
    pub(super) fn check<K: Kind>(&self, key: &Key<K>, old: Option<&K>, new: &K) -> Result<(), ApiError> {
        let (before, after) = (old.map(Kind::usage).unwrap_or_default(), new.usage());
        // What was there before the quota may be changed in all else.
        if before == after {
            return Ok(());
        }
        self.check_beside(&self.used, key, &before, &after)
    }

    /// Whether an object that was just written is too much beside what others have written meanwhile.
    pub(super) async fn check_again<K: Kind>(
        &self,
        quotas: &Quotas,
        caches: &Caches,
        key: &Key<K>,
        object: &K,
    ) -> Result<(), ApiError> {
        let mut others = quotas.used::<K>(caches, key.namespace()).await?;
        others -= &object.usage();
        self.check_beside(&others, key, &Usage::default(), &object.usage())
    }

    fn check_beside<K: Kind>(
        &self,
        used: &Usage,
        key: &Key<K>,
        before: &Usage,
        after: &Usage,
    ) -> Result<(), ApiError> {
        let mut exceeded = BTreeMap::new();
        for quota in &self.quotas {
            let hard = quota.spec.iter().flat_map(|spec| &spec.hard);
            let over: Vec<String> = hard
                .filter_map(|(name, hard)| excess(name, hard.parse().ok()?, used, before, after))
                .collect();
            if !over.is_empty() {
                exceeded.insert(clone8s::object::Object::name(quota).to_owned(), over.join("; "));
            }
        }
        if exceeded.is_empty() {
            return Ok(());
        }
        Err(ApiError::QuotaExceeded {
            object: key.name(),
            quotas: exceeded,
        })
    }
}

/// A sentence, where one more of something is too much.
fn excess(name: &str, hard: Quantity, used: &Usage, before: &Usage, after: &Usage) -> Option<String> {
    if after.leaves_out(name) {
        return Some(format!("every container must say its {name}"));
    }
    let (used, takes) = (used.of(name)?, after.of(name)?);
    let took = before.of(name).unwrap_or(Quantity::ZERO);
    (takes > took && used + takes > hard + took)
        .then(|| format!("{name}: {used} used, {takes} asked for, {hard} is the most"))
}
