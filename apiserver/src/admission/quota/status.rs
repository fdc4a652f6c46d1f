//! What quotas say of themselves: how much of each there is.
//!
//! Level, not edge: each round writes what there is now. Several apiservers may do it side by side.

use std::{collections::BTreeMap, time::Duration};

use clone8s::{
    for_each_kind,
    object::Object as _,
    v1::{Pod, ResourceQuota, ResourceQuotaStatus},
};
use clone8s_daemon::{Shutdown, supervisor::chain};
use tokio::time::sleep;

use super::Usage;
use crate::{
    access::Scope,
    admission::present,
    cache::{Cached as _, Caches},
    error::ApiError,
    registry::{Key, Registry, Seen, WriteOptions},
};

/// However much is written, a round comes no sooner after the one before.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub(crate) async fn keep_statuses(registry: Registry, shutdown: Shutdown) -> Result<(), ApiError> {
    let mut written = registry.caches().subscribe();
    loop {
        let told = async {
            // The sender lives as long as the registry.
            let _ = written.changed().await;
            let done = round(&registry).await;
            sleep(SETTLE).await;
            done
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            done = told => {
                if let Err(error) = done {
                    tracing::warn!(error = chain(&error), "cannot count for quotas now");
                }
            }
        }
    }
}

async fn round(registry: &Registry) -> Result<(), ApiError> {
    let caches = registry.caches();
    for quota in present::<ResourceQuota>(caches, "")? {
        let namespace = quota.namespace();
        let of_pods = registry.quotas().used::<Pod>(caches, namespace).await?;
        let hard = quota.spec.clone().unwrap_or_default().hard;
        let counts = counts(caches, namespace, &hard);
        let used: BTreeMap<String, String> = hard
            .keys()
            .filter_map(|name| {
                let used = counts.iter().chain([&of_pods]).find_map(|usage| usage.of(name))?;
                Some((name.clone(), used.to_string()))
            })
            .collect();
        let status = ResourceQuotaStatus { hard, used };
        if quota.status.as_ref() != Some(&status) {
            write(registry, &quota, status).await?;
        }
    }
    Ok(())
}

macro_rules! counts {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        /// How many there are of each kind but pods that is counted.
        fn counts(caches: &Caches, namespace: &str, hard: &BTreeMap<String, String>) -> Vec<Usage> {
            let mut counts = Vec::new();
            $(if $namespaced
                && stringify!($kind) != Pod::KIND
                && hard.contains_key(concat!("count/", stringify!($plural)))
            {
                let count = clone8s::v1::$kind::cache(caches).count(namespace);
                counts.push(Usage::one_of(stringify!($plural), count));
            })*
            counts
        }
    };
}
for_each_kind!(counts);

async fn write(
    registry: &Registry,
    quota: &ResourceQuota,
    status: ResourceQuotaStatus,
) -> Result<(), ApiError> {
    let key = Key::<ResourceQuota>::of(quota)?;
    let seen = Seen {
        uid: quota.uid().to_owned(),
        resource_version: quota.resource_version(),
    };
    let with_status = |current: &ResourceQuota| {
        let mut next = current.clone();
        next.status = Some(status.clone());
        Ok(next)
    };
    let written = registry
        .modify(
            &Scope::Cluster,
            &key,
            &seen,
            &WriteOptions::default(),
            with_status,
        )
        .await;
    match written {
        // Whoever was faster has changed it, which the next round sees.
        Ok(_) | Err(ApiError::NotFound(_) | ApiError::Stale { .. } | ApiError::WrongState { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
