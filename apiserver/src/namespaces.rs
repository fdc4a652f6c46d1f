//! Namespaces: the default one exists from the start, nothing is created in one that ends, and one that ends is
//! emptied first.

mod emptying;

use clone8s::v1::Namespace;

pub(crate) use self::emptying::empty_ending;
use crate::{
    access::Scope,
    error::ApiError,
    kind::{DEFAULT_NAMESPACE, Kind, TERMINATING},
    registry::{Key, Registry, WriteOptions},
    store::Store,
};

/// Makes the default namespace where it is missing.
pub(crate) async fn ensure_default(registry: &Registry) -> Result<(), ApiError> {
    let mut namespace = Namespace::default();
    namespace.metadata.get_or_insert_default().name = DEFAULT_NAMESPACE.into();
    match registry
        .create(&Scope::Cluster, Some(namespace), &WriteOptions::default())
        .await
    {
        Ok(_) | Err(ApiError::Exists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether an object may be created in its namespace now.
pub(crate) async fn check_open<K: Kind>(store: &dyn Store, key: &Key<K>) -> Result<(), ApiError> {
    if !K::NAMESPACED {
        return Ok(());
    }
    let namespace_key = Key::<Namespace>::parse("", key.namespace())?;
    let (found, _) = store.get(&namespace_key.path()).await?;
    let Some(found) = found else {
        return Err(ApiError::NotFound(namespace_key.name()));
    };
    let namespace: Namespace = crate::registry::decode(&found)?;
    if namespace
        .status
        .as_ref()
        .is_some_and(|status| status.phase == TERMINATING)
    {
        return Err(ApiError::WrongState {
            object: namespace_key.name(),
            reason: "NAMESPACE_TERMINATING",
            description: format!("it is being deleted, so {} cannot be created in it", key.name()),
        });
    }
    Ok(())
}
