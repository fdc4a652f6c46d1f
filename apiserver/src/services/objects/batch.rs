//! Several writes in one call.

use clone8s::{
    v1::ApplyOutcome,
    wire::{BatchRequest, BatchResponse, Write, WriteResult},
};
use futures::{StreamExt as _, stream};

use super::{apply, create, delete, update};
use crate::{access::Scope, error::ApiError, kind::Kind, registry::Registry};

/// Writes that one call may have.
const MOST: usize = 500;

/// Those that are under way at a time: the store takes them in one commit, and other callers come in between.
const AT_ONCE: usize = 16;

pub(super) async fn write<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: BatchRequest<K>,
) -> Result<BatchResponse<K>, ApiError> {
    let count = request.writes.len();
    if count > MOST {
        return Err(ApiError::field(
            "the batch",
            "writes",
            format!("are {count}, but {MOST} is the most"),
        ));
    }
    let results = stream::iter(request.writes)
        .map(|write| async {
            one::<K>(registry.clone(), scope.clone(), write)
                .await
                .unwrap_or_else(|error| WriteResult {
                    error: Some(error.into()),
                    ..WriteResult::default()
                })
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    Ok(BatchResponse { results })
}

async fn one<K: Kind>(registry: Registry, scope: Scope, write: Write<K>) -> Result<WriteResult<K>, ApiError> {
    let mut outcome = ApplyOutcome::Unspecified;
    let object = match write {
        Write {
            create: Some(request),
            ..
        } => create(registry, scope, request).await?.object,
        Write {
            update: Some(request),
            ..
        } => update(registry, scope, request).await?.object,
        Write {
            delete: Some(request),
            ..
        } => {
            // Together the objects may be more than a message holds.
            let deleted = delete::<K>(registry, scope, request).await?.object;
            deleted.as_ref().map(K::metadata_alone)
        }
        Write {
            apply: Some(request), ..
        } => {
            let applied = apply(registry, scope, request).await?;
            outcome = applied.outcome();
            applied.object
        }
        Write { .. } => return Err(ApiError::field("the batch", "write", "is missing")),
    };
    Ok(WriteResult {
        object,
        outcome: outcome.into(),
        error: None,
    })
}
