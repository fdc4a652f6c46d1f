//! Writes with a request_id: sent again, because the answer was lost, they are not done again.
//!
//! ```text
//! a write that leaves the object ─► the id goes into its metadata, in the same write of the store
//! a write that removes the object ─► its metadata go aside under the id, in the same write of the store
//! a deletion of what selectors choose ─► what they chose is kept aside under the id, then each of it is deleted
//! ```
//! So a repeated write is known after a restart and on another apiserver too. Of each object the last
//! [`REMEMBERED`] ids are known, and what was removed for [`KEPT`].

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clone8s::v1::HandledRequest;
use clone8s_daemon::{Shutdown, clock};
use pbjson_types::Timestamp;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::{Key, Registry};
use crate::{
    error::ApiError,
    kind::Kind,
    pki::hex,
    store::{Page, Precondition, Record, Revision, Store, StoreError},
    time::{system_time, timestamp},
};

/// Ids that an object remembers. Clients repeat a call within moments, not after so many others.
const REMEMBERED: usize = 8;

const LONGEST_ID: usize = 64;

/// What was removed is kept aside under this prefix.
const REMOVED_PREFIX: &str = "/clone8s/system/removed/";

/// How long it is known that a request removed an object.
const KEPT: Duration = Duration::from_hours(1);
const SWEEP_EVERY: Duration = Duration::from_mins(10);
const SWEEP_PAGE: usize = 100;

/// The name that a client gave to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId {
    id: String,
    /// "Create", "Update" and so on.
    call: &'static str,
}

impl RequestId {
    /// None for an empty id.
    pub(crate) fn parse(id: &str, call: &'static str) -> Result<Option<Self>, ApiError> {
        if id.is_empty() {
            return Ok(None);
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if id.len() > LONGEST_ID || !id.chars().all(fits) {
            return Err(ApiError::field(
                "the request",
                "request_id",
                format!("must be a UUID, or 1 to {LONGEST_ID} letters, digits, \"-\", \"_\" and \".\""),
            ));
        }
        Ok(Some(Self {
            id: id.to_owned(),
            call,
        }))
    }

    /// The same call on one of several objects.
    pub(super) fn on(&self, uid: &str) -> Self {
        let digest = Sha256::digest(format!("{}/{uid}", self.id));
        Self {
            id: hex(&digest[..16]),
            call: self.call,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether this object, as it is, has seen the request done.
    pub(super) fn is_done<K: Kind>(&self, object: &K) -> Result<bool, ApiError> {
        let handled = object.metadata().map_or(&[][..], |meta| &meta.handled_requests);
        let Some(known) = handled.iter().find(|known| known.request_id == self.id) else {
            return Ok(false);
        };
        if known.call == self.call {
            return Ok(true);
        }
        Err(self.used_otherwise(&known.call))
    }

    pub(super) fn record<K: Kind>(&self, object: &mut K) {
        let handled = &mut object.metadata_mut().handled_requests;
        handled.push(HandledRequest {
            request_id: self.id.clone(),
            call: self.call.to_owned(),
        });
        let forgotten = handled.len().saturating_sub(REMEMBERED);
        handled.drain(..forgotten);
    }

    pub(super) fn used_otherwise(&self, what: &str) -> ApiError {
        ApiError::field(
            "the request",
            "request_id",
            format!("{:?} has named another write before: {what}", self.id),
        )
    }

    fn removed_key<K: Kind>(&self) -> String {
        format!("{REMOVED_PREFIX}{}/{}", K::PLURAL, self.id)
    }

    /// What is kept of an object that the request removes.
    pub(super) fn removal<K: Kind>(&self, object: &K) -> Record {
        let removed = Removed {
            time: Some(timestamp(clock::now())),
            object: object.metadata_alone().encode_to_vec().into(),
        };
        Record {
            key: self.removed_key::<K>(),
            value: removed.encode_to_vec().into(),
        }
    }

    /// Where it is kept what the request has chosen to delete.
    pub(super) fn chosen_key<K: Kind>(&self) -> String {
        format!("{REMOVED_PREFIX}{}/{}/chosen", K::PLURAL, self.id)
    }
}

/// An object that a request removed.
#[derive(Clone, PartialEq, prost::Message)]
struct Removed {
    #[prost(message, optional, tag = "1")]
    time: Option<Timestamp>,
    /// Its metadata alone: what it held is to be gone.
    #[prost(bytes = "bytes", tag = "2")]
    object: Bytes,
}

impl Registry {
    /// The object that the request has removed before, by its metadata.
    pub(super) async fn removed_by<K: Kind>(
        &self,
        request: &RequestId,
        key: &Key<K>,
    ) -> Result<Option<K>, ApiError> {
        let path = request.removed_key::<K>();
        let Some(kept) = self.store.get(&path).await?.0 else {
            return Ok(None);
        };
        let broken = |cause| ApiError::internal(format!("{path}: not a removed object"), cause);
        let removed = Removed::decode(kept.value).map_err(broken)?;
        let object = K::decode(removed.object).map_err(broken)?;
        if Key::of(&object)? != *key {
            return Err(request.used_otherwise(&format!("the end of {}", object.name())));
        }
        Ok(Some(object))
    }
}

/// Forgets what was removed long ago, until shutdown. Several apiservers may do it side by side.
pub(crate) async fn sweep(registry: Registry, shutdown: Shutdown) -> Result<(), ApiError> {
    loop {
        let swept = async {
            sleep(SWEEP_EVERY).await;
            sweep_once(registry.store.as_ref(), clock::now()).await
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            swept = swept => if let Err(error) = swept {
                // The next sweep tries again, and nothing depends on it.
                tracing::warn!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "cannot forget requests of long ago"
                );
            }
        }
    }
}

async fn sweep_once(store: &dyn Store, now: SystemTime) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = Page {
            limit: Some(SWEEP_PAGE),
            after: after.take(),
        };
        let listing = store.list(REMOVED_PREFIX, page, None).await?;
        for kept in &listing.items {
            if is_old(&kept.value, now) {
                forget(store, &kept.key, kept.revision).await?;
            }
        }
        match listing.items.last() {
            Some(last) if listing.more => after = Some(last.key.clone()),
            _ => return Ok(()),
        }
    }
}

/// One that was written again meanwhile stays.
async fn forget(store: &dyn Store, key: &str, revision: Revision) -> Result<(), StoreError> {
    match store.delete(key, Precondition::Revision(revision)).await {
        Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Stale { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What cannot be read tells nothing, and goes too.
fn is_old(value: &Bytes, now: SystemTime) -> bool {
    let removed = Removed::decode(value.clone())
        .ok()
        .and_then(|removed| removed.time);
    removed
        .and_then(|time| system_time(&time))
        .and_then(|time| now.duration_since(time).ok())
        .is_none_or(|age| age > KEPT)
}

#[cfg(test)]
mod tests;
