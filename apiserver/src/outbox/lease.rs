//! The lease that makes one apiserver the leader: a key that its holder writes again and again.
//!
//! Nobody compares clocks: a follower takes the lease when it has not seen the key change for a while by its own
//! monotonic clock, and a holder stops before that while can be over.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{LEADER_KEY, Timing};
use crate::store::{KeyValue, Precondition, Revision, Store, StoreError};

/// The key's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    holder: String,
    /// Counts the holders, from 1.
    term: u64,
}

/// The lease, held.
pub(super) struct Lease<'s> {
    store: &'s dyn Store,
    timing: Timing,
    record: Record,
    /// Our last write of the key.
    revision: Revision,
    /// Before that write was sent: what the others see is never older.
    renewed: Instant,
}

impl<'s> Lease<'s> {
    /// Waits until the lease is free and takes it.
    pub(super) async fn acquire(
        store: &'s dyn Store,
        identity: &str,
        timing: Timing,
    ) -> Result<Self, StoreError> {
        let mut seen: Option<(Revision, Instant)> = None;
        loop {
            let (found, _) = store.get(LEADER_KEY).await?;
            let now = Instant::now();
            let (since, precondition) = match &found {
                None => (None, Precondition::Absent),
                Some(found) => {
                    let since = match seen {
                        Some((revision, since)) if revision == found.revision => since,
                        _ => now,
                    };
                    seen = Some((found.revision, since));
                    (Some(since), Precondition::Revision(found.revision))
                }
            };
            let last = found.as_ref().and_then(record);
            let free = since.is_none_or(|since| now.duration_since(since) >= timing.expire);
            let ours = last.as_ref().is_some_and(|last| last.holder == identity);
            if free || ours || timing.alone {
                let record = Record {
                    holder: identity.to_owned(),
                    term: last.map_or(0, |last| last.term) + 1,
                };
                match store.put(LEADER_KEY, encode(&record), precondition).await {
                    Ok(revision) => {
                        return Ok(Self {
                            store,
                            timing,
                            record,
                            revision,
                            renewed: now,
                        });
                    }
                    // Another was quicker.
                    Err(
                        StoreError::Exists { .. } | StoreError::Stale { .. } | StoreError::NotFound { .. },
                    ) => {}
                    Err(error) => return Err(error),
                }
            }
            tokio::time::sleep(timing.renew).await;
        }
    }

    pub(super) fn term(&self) -> u64 {
        self.record.term
    }

    /// Renews the lease, and returns once it is lost.
    pub(super) async fn hold(&mut self) -> Result<(), StoreError> {
        // The others may take it `expire` after our last write; a third of that is for what is on its way.
        let deadline = self.timing.expire * 2 / 3;
        loop {
            tokio::time::sleep(self.timing.renew).await;
            let until = self.renewed + deadline;
            match tokio::time::timeout_at(until, self.renew()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(()),
                Ok(Err(error)) if Instant::now() >= until => return Err(error),
                Ok(Err(error)) => {
                    tracing::debug!(
                        error = clone8s_daemon::supervisor::chain(&error),
                        "lease not renewed yet"
                    );
                }
                Err(_) => {
                    let silent = format!("the outbox's lease could not be renewed within {deadline:?}");
                    return Err(StoreError::Unavailable(silent.into()));
                }
            }
        }
    }

    /// False when the lease is another's.
    async fn renew(&mut self) -> Result<bool, StoreError> {
        let now = Instant::now();
        let value = encode(&self.record);
        match self
            .store
            .put(LEADER_KEY, value, Precondition::Revision(self.revision))
            .await
        {
            Ok(revision) => self.revision = revision,
            Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => {
                // An earlier renewal whose answer was lost may have been ours.
                let (found, _) = self.store.get(LEADER_KEY).await?;
                match found {
                    Some(found) if record(&found).as_ref() == Some(&self.record) => {
                        self.revision = found.revision;
                        // It says nothing about when: only the next renewal does.
                        return Ok(true);
                    }
                    _ => return Ok(false),
                }
            }
            Err(error) => return Err(error),
        }
        self.renewed = now;
        Ok(true)
    }

    /// Lets the next leader follow at once.
    pub(super) async fn release(self) -> Result<(), StoreError> {
        match self
            .store
            .delete(LEADER_KEY, Precondition::Revision(self.revision))
            .await
        {
            Ok(_) | Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn encode(record: &Record) -> bytes::Bytes {
    format!("holder: {:?}\nterm: {}\n", record.holder, record.term).into()
}

/// None for a value that nobody of ours wrote: whoever takes the lease writes it anew.
fn record(found: &KeyValue) -> Option<Record> {
    serde_yaml::from_slice(&found.value).ok()
}
