//! The sandboxes and containers that there are, in memory. Short locks, never held across an await.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    container::Container,
    error::{Error, Result},
    ids::{ContainerId, SandboxId},
    sandbox::Sandbox,
};

#[derive(Debug, Default)]
pub(crate) struct Table {
    sandboxes: Mutex<BTreeMap<SandboxId, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
    claims: Arc<Mutex<HashSet<String>>>,
    making: Arc<Mutex<HashSet<String>>>,
}

/// An id whose sandbox or container is being made, and that nobody else may take up or clear away meanwhile.
#[derive(Debug)]
pub(crate) struct Making {
    making: Arc<Mutex<HashSet<String>>>,
    id: String,
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.making).remove(&self.id);
    }
}

/// A name that is being created; free again when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Mutex<HashSet<String>>>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims).remove(&self.name);
    }
}

/// Data behind these locks is whole between any two statements, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// By id or by a beginning of it that no other has, as people type it.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        find(&lock(&self.sandboxes), &SandboxId::from(id), SandboxId::as_str).ok_or_else(|| Error::NotFound {
            kind: "sandbox",
            id: id.to_owned(),
        })
    }

    /// By id or by a beginning of it that no other has, as people type it.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(
            &lock(&self.containers),
            &ContainerId::from(id),
            ContainerId::as_str,
        )
        .ok_or_else(|| Error::NotFound {
            kind: "container",
            id: id.to_owned(),
        })
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        lock(&self.sandboxes).values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    pub(crate) fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        let containers = lock(&self.containers);
        containers
            .values()
            .filter(|container| container.sandbox == *sandbox)
            .cloned()
            .collect()
    }

    pub(crate) fn insert_sandbox(&self, sandbox: Arc<Sandbox>) {
        lock(&self.sandboxes).insert(sandbox.id.clone(), sandbox);
    }

    pub(crate) fn insert_container(&self, container: Arc<Container>) {
        lock(&self.containers).insert(container.id.clone(), container);
    }

    pub(crate) fn remove_sandbox(&self, id: &SandboxId) {
        lock(&self.sandboxes).remove(id);
    }

    /// Whether it was there.
    pub(crate) fn remove_container(&self, id: &ContainerId) -> bool {
        lock(&self.containers).remove(id).is_some()
    }

    /// Marks an id as being made until the mark is dropped: after the sandbox or container is in this table.
    pub(crate) fn making(&self, id: &str) -> Making {
        lock(&self.making).insert(id.to_owned());
        Making {
            making: Arc::clone(&self.making),
            id: id.to_owned(),
        }
    }

    /// Whether an id is someone's already, or about to be.
    pub(crate) fn is_taken(&self, id: &str) -> bool {
        // In this order: what is made goes into the tables before its mark goes.
        lock(&self.making).contains(id)
            || lock(&self.sandboxes).contains_key(&SandboxId::from(id))
            || lock(&self.containers).contains_key(&ContainerId::from(id))
    }

    /// Takes a name for something that is about to be created, so that two calls do not create it twice.
    pub(crate) fn claim(&self, kind: &'static str, name: String) -> Result<Claim> {
        let key = format!("{kind} {name}");
        if !lock(&self.claims).insert(key.clone()) {
            return Err(Error::WrongState {
                kind,
                id: name,
                state: "being created by another call",
                next_step: "list to see its outcome",
            });
        }
        Ok(Claim {
            claims: Arc::clone(&self.claims),
            name: key,
        })
    }
}

fn find<K: Ord, V>(map: &BTreeMap<K, Arc<V>>, id: &K, text: impl Fn(&K) -> &str) -> Option<Arc<V>> {
    if let Some(exact) = map.get(id) {
        return Some(Arc::clone(exact));
    }
    let start = text(id);
    if start.is_empty() {
        return None;
    }
    let mut matches = map
        .range((Bound::Included(id), Bound::Unbounded))
        .take_while(|(key, _)| text(key).starts_with(start));
    let (_, first) = matches.next()?;
    matches.next().is_none().then(|| Arc::clone(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_by_a_beginning_that_is_its_own() {
        let map: BTreeMap<_, _> = ["abc1", "abd2", "b"]
            .map(|id| (SandboxId::from(id), Arc::new(id)))
            .into();
        let find = |id: &str| find(&map, &SandboxId::from(id), SandboxId::as_str).map(|found| *found);
        assert_eq!(find("abc1"), Some("abc1"));
        assert_eq!(find("abc"), Some("abc1"));
        assert_eq!(find("ab"), None, "two begin so");
        assert_eq!(find("b"), Some("b"));
        assert_eq!(find(""), None);
        assert_eq!(find("c"), None);
    }

    #[test]
    fn a_name_is_created_by_one_call_at_a_time() {
        let table = Table::default();
        let claim = table.claim("sandbox", "a".into()).unwrap();
        assert!(table.claim("sandbox", "a".into()).is_err());
        assert!(table.claim("container", "a".into()).is_ok());
        drop(claim);
        assert!(table.claim("sandbox", "a".into()).is_ok());
    }
}
