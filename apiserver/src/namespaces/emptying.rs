//! Empties the namespaces that end, then lets them go.
//!
//! Level, not edge: each round looks at what there is. Several apiservers may do it side by side.

use std::time::Duration;

use clone8s::{
    for_each_kind,
    object::Object,
    v1::{self, Namespace},
    wire::{ListRequest, WatchRequest},
};
use clone8s_daemon::{Shutdown, backoff};
use futures::StreamExt as _;
use tokio::time::sleep;

use crate::{
    access::Scope,
    error::ApiError,
    kind::{Kind, TERMINATING},
    registry::{DeleteOptions, Key, Registry},
    store::{Precondition, Revision, StoreError},
};

/// How often to look whether what is in an ending namespace has gone.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs until shutdown.
pub(crate) async fn empty_ending(registry: Registry, shutdown: Shutdown) -> Result<(), ApiError> {
    let mut retries = backoff::reconnect();
    loop {
        let round = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            round = round(&registry) => round,
        };
        let pause = match round {
            Ok(()) => {
                retries = backoff::reconnect();
                Duration::ZERO
            }
            Err(ApiError::Stopping) => return Ok(()),
            Err(error) => {
                tracing::warn!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "cannot empty namespaces now"
                );
                retries.next().unwrap_or(AGAIN)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(pause) => {}
        }
    }
}

/// Empties what ends, until nothing does; then waits until a namespace changes.
async fn round(registry: &Registry) -> Result<(), ApiError> {
    // Before the look, so that no change falls between the look and the wait.
    let request = WatchRequest::default();
    let mut changes = registry.watch::<Namespace>(&Scope::Cluster, &request).await?;
    loop {
        let ending = ending(registry).await?;
        if ending.is_empty() {
            return match changes.next().await {
                Some(Err(error)) => Err(error),
                Some(Ok(_)) | None => Ok(()),
            };
        }
        for namespace in &ending {
            let name = namespace.name();
            let left = empty_of_all(registry, name).await?;
            let held = namespace
                .metadata()
                .is_some_and(|meta| !meta.finalizers.is_empty());
            if left == 0 && !held {
                release(registry, namespace).await?;
            }
        }
        sleep(AGAIN).await;
    }
}

async fn ending(registry: &Registry) -> Result<Vec<Namespace>, ApiError> {
    let mut ending = Vec::new();
    let mut request = ListRequest::default();
    loop {
        let page = registry.list::<Namespace>(&Scope::Cluster, &request).await?;
        ending.extend(page.objects::<Namespace>()?.into_iter().filter(|namespace| {
            namespace
                .status
                .as_ref()
                .is_some_and(|status| status.phase == TERMINATING)
        }));
        if page.next_page_token.is_empty() {
            return Ok(ending);
        }
        request.page_token = page.next_page_token;
    }
}

macro_rules! empty_of_all {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        /// Deletes what is there of every kind, and tells how many objects were.
        async fn empty_of_all(registry: &Registry, namespace: &str) -> Result<usize, ApiError> {
            let mut count = 0;
            $(if $namespaced {
                count += empty::<v1::$kind>(registry, namespace).await?;
            })*
            Ok(count)
        }
    };
}
for_each_kind!(empty_of_all);

/// Deletes what is there, and tells how many objects were.
async fn empty<K: Kind>(registry: &Registry, namespace: &str) -> Result<usize, ApiError> {
    let mut count = 0;
    let mut request = ListRequest {
        namespace: namespace.to_owned(),
        ..ListRequest::default()
    };
    loop {
        let page = registry.list::<K>(&Scope::Cluster, &request).await?;
        count += page.items.len();
        let objects = page.objects::<K>()?;
        let not_yet_asked = objects.iter().filter(|object| {
            object
                .metadata()
                .is_none_or(|meta| meta.deletion_timestamp.is_none())
        });
        for object in not_yet_asked {
            match registry
                .delete(&Scope::Cluster, &Key::<K>::of(object)?, &DeleteOptions::default())
                .await
            {
                Ok(_) | Err(ApiError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(count);
        }
        request.page_token = page.next_page_token;
    }
}

async fn release(registry: &Registry, namespace: &Namespace) -> Result<(), ApiError> {
    let precondition = Precondition::Revision(Revision(namespace.resource_version()));
    match registry
        .store()
        .delete(&namespace.store_key(), precondition)
        .await
    {
        // Whoever was faster has either done it or changed it, and the next look shows which.
        Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Stale { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
