//! Namespaces: the default one and that of nodes' leases exist from the start, nothing is created in one that ends, and
//! one that ends is emptied first.

mod emptying;

use clone8s::{object::Object as _, rules::NODE_LEASE_NAMESPACE, v1::Namespace};

pub(crate) use self::emptying::empty_ending;
use crate::{
    access::Scope,
    error::ApiError,
    kind::{DEFAULT_NAMESPACE, Kind, TERMINATING},
    registry::{Key, Registry, WriteOptions},
    store::{Revision, Unchanged},
};

/// Makes the namespaces that are always there, where they are missing.
pub(crate) async fn ensure_own(registry: &Registry) -> Result<(), ApiError> {
    for name in [DEFAULT_NAMESPACE, NODE_LEASE_NAMESPACE] {
        let mut namespace = Namespace::default();
        namespace.metadata.get_or_insert_default().name = name.into();
        match registry
            .create(&Scope::Cluster, Some(namespace), &WriteOptions::default())
            .await
        {
            Ok(_) | Err(ApiError::Exists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The state of an object's namespace in which the object may be created; None for a kind that has none. It is what
/// memory has, or the store where memory has no such state, and has to hold when the object is written.
pub(crate) async fn open<K: Kind>(registry: &Registry, key: &Key<K>) -> Result<Option<Unchanged>, ApiError> {
    if K::NAMESPACED {
        let namespace_key = Key::<Namespace>::parse("", key.namespace())?;
        let remembered = registry.remembered(&namespace_key);
        if let Some(namespace) = remembered.filter(|namespace| !is_ending(namespace)) {
            return Ok(Some(as_it_is(&namespace_key, &namespace)));
        }
    }
    open_in_store(registry, key).await
}

/// As [`open`], from the store alone.
pub(crate) async fn open_in_store<K: Kind>(
    registry: &Registry,
    key: &Key<K>,
) -> Result<Option<Unchanged>, ApiError> {
    if !K::NAMESPACED {
        return Ok(None);
    }
    let namespace_key = Key::<Namespace>::parse("", key.namespace())?;
    let namespace = registry.read(&namespace_key).await?;
    if is_ending(&namespace) {
        return Err(ApiError::WrongState {
            object: namespace_key.name(),
            reason: "NAMESPACE_TERMINATING",
            description: format!("it is being deleted, so {} cannot be created in it", key.name()),
        });
    }
    Ok(Some(as_it_is(&namespace_key, &namespace)))
}

fn as_it_is(key: &Key<Namespace>, namespace: &Namespace) -> Unchanged {
    Unchanged {
        key: key.path(),
        revision: Revision(namespace.resource_version()),
    }
}

fn is_ending(namespace: &Namespace) -> bool {
    let status = namespace.status.as_ref();
    status.is_some_and(|status| status.phase == TERMINATING)
}
