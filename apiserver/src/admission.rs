//! What the cluster and its namespace have to say about an object that is to be written: its priority, the range of
//! its limits, and whether the namespace's quotas have room for it.
//!
//! The policies are read first; what they mean for an object is decided without waiting.

mod limits;
mod priority;
pub(crate) mod quota;

use clone8s::{
    object::Object as _,
    rules::Violation,
    v1::{LimitRange, LimitRangeItem, Pod, PriorityClass},
};

use self::quota::Room;
use crate::{
    cache::{Caches, Entry},
    error::ApiError,
    kind::Kind,
    registry::{Key, Registry},
};

/// What is to be held against an object.
#[derive(Debug)]
pub(crate) struct Admission {
    policy: Policy,
    room: Option<Room>,
}

/// What pods are held to beside their rules.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    classes: Vec<PriorityClass>,
    limits: Vec<LimitRangeItem>,
}

impl Admission {
    /// Reads what matters for a new object. While it lives, no other object of a namespace with quotas is admitted here.
    pub(crate) async fn of_new<K: Kind>(registry: &Registry, key: &Key<K>) -> Result<Self, ApiError> {
        let caches = registry.caches();
        Ok(Self {
            policy: Policy::of::<K>(caches, key.namespace())?,
            room: registry.quotas().room::<K>(caches, key.namespace()).await?,
        })
    }

    /// The same for an object that changes. One that counts as itself, and nothing more, takes no other room by that.
    pub(crate) async fn of_change<K: Kind>(registry: &Registry, key: &Key<K>) -> Result<Self, ApiError> {
        if K::KIND == Pod::KIND {
            return Self::of_new(registry, key).await;
        }
        Ok(Self {
            policy: Policy::of::<K>(registry.caches(), key.namespace())?,
            room: None,
        })
    }

    /// Fills in what the policies give, and says what they forbid.
    pub(crate) fn complete<K: Kind>(&self, object: &mut K, old: Option<&K>) -> Vec<Violation> {
        object.admit(old, &self.policy)
    }

    /// Whether the namespace has room for what the object takes beyond what it took.
    pub(crate) fn check_room<K: Kind>(&self, key: &Key<K>, old: Option<&K>, new: &K) -> Result<(), ApiError> {
        match &self.room {
            Some(room) => room.check(key, old, new),
            None => Ok(()),
        }
    }

    /// As [`Self::check_room`], for an object that was just written, beside what other apiservers have written.
    pub(crate) async fn check_room_again<K: Kind>(
        &self,
        registry: &Registry,
        key: &Key<K>,
        object: &K,
    ) -> Result<(), ApiError> {
        match &self.room {
            Some(room) if !registry.store().is_exclusive() => {
                let quotas = registry.quotas();
                room.check_again(quotas, registry.caches(), key, object).await
            }
            _ => Ok(()),
        }
    }
}

impl Policy {
    fn of<K: Kind>(caches: &Caches, namespace: &str) -> Result<Self, ApiError> {
        if K::KIND == Pod::KIND {
            Self::read(caches, namespace)
        } else {
            Ok(Self::default())
        }
    }

    fn read(caches: &Caches, namespace: &str) -> Result<Self, ApiError> {
        let ranges: Vec<LimitRange> = present(caches, namespace)?;
        Ok(Self {
            classes: present(caches, "")?,
            limits: ranges
                .into_iter()
                .filter_map(|range| range.spec)
                .flat_map(|spec| spec.limits)
                .collect(),
        })
    }

    /// Holds a pod to the policies.
    pub(crate) fn hold(&self, pod: &mut Pod, old: Option<&Pod>) -> Vec<Violation> {
        limits::set_defaults(pod, &self.limits);
        let mut violations = priority::resolve(pod, old, &self.classes);
        violations.extend(limits::check(pod, &self.limits));
        violations
    }
}

/// The objects of a kind in a namespace, as memory has them.
fn present<K: Kind>(caches: &Caches, namespace: &str) -> Result<Vec<K>, ApiError> {
    K::cache(caches)
        .all(namespace)
        .iter()
        .map(Entry::decode)
        .collect()
}
