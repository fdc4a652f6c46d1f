//! Store: the seam to what keeps the objects. Real: etcd. Embedded: one file.
//!
//! Both give the same promises (one contract suite runs on both):
//! - Revisions are positive, grow with each write, and are shared by all keys.
//! - An acknowledged write survives kill -9 and power loss.
//! - `list` at a revision shows exactly the writes up to it; `watch` gives exactly the writes after it, in order,
//!   each once, or fails with [`StoreError::Compacted`]; it is never silently short.

pub mod embedded;
pub mod etcd;
pub mod far;
pub(crate) mod traced;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// All that Clone8s writes is below this, but for what is a store's own. The caches follow it, so that the store's revision
/// shows up there soon after each write; where others write to the same etcd, a read may have to ask etcd itself.
pub(crate) const EVERYTHING: &str = "/clone8s/";

/// The most bytes that a value may have. Under etcd's default request limit (1.5 MiB), with room for the key.
pub const VALUE_LIMIT: usize = 1_310_720;

/// A point in the store's history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key as it stands at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    /// The write that gave the key this value.
    pub revision: Revision,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The key does not exist.
    Absent,
    /// The key's last write is this one. On etcd, it may also be one that shares a transaction with this one and came before
    /// it: the key has not changed between the two.
    Revision(Revision),
    /// Whatever there is; a delete still needs the key to exist.
    Any,
}

/// A key whose last write must still be this one for another key to be written or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchanged {
    pub key: String,
    pub revision: Revision,
}

/// A key that is written in the commit that deletes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: String,
    pub value: Bytes,
}

/// A part of a listing.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// At most this many items, and at least one; None means all.
    pub limit: Option<usize>,
    /// Only keys greater than this one.
    pub after: Option<String>,
}

/// Some keys of one consistent state.
#[derive(Debug, Clone)]
pub struct Listing {
    /// In the order of their keys.
    pub items: Vec<KeyValue>,
    /// There are more keys after the last.
    pub more: bool,
    /// The revision of the state.
    pub revision: Revision,
}

/// One write, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    /// None for a delete.
    pub value: Option<Bytes>,
    /// What the write replaced or deleted.
    pub previous: Option<KeyValue>,
    pub revision: Revision,
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    Change(Change),
    /// Nothing up to this revision is outstanding. Sent from time to time while no change under the prefix says so.
    Progress(Revision),
}

impl WatchItem {
    /// Every change up to here has come before this: of a change's own revision more may follow.
    pub(crate) fn complete(&self) -> Revision {
        match self {
            Self::Progress(revision) => *revision,
            Self::Change(change) => Revision(change.revision.0 - 1),
        }
    }
}

/// How much of its past a store keeps: for watches that resume, lists at earlier revisions, and changes that the bus
/// has not taken yet. What is older by either is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    pub changes: u32,
    pub age: Duration,
}

impl Default for History {
    /// What a file takes without growing much beyond its objects.
    fn default() -> Self {
        Self {
            changes: 10_000,
            age: Duration::from_hours(2),
        }
    }
}

/// What a store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// On disk, of one copy.
    pub bytes: u64,
    /// The newest revision.
    pub revision: Revision,
}

/// Ends with an error or with the store, never silently.
pub type Watch = BoxStream<'static, Result<WatchItem, StoreError>>;

/// Everything under a prefix at one revision, whatever is written meanwhile.
pub struct Dump {
    pub revision: Revision,
    /// In the order of the keys, some at a time. They do not outlive what the store is kept in.
    pub parts: BoxStream<'static, Result<Vec<KeyValue>, StoreError>>,
}

impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump")
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// Keys of one part of a [`Dump`]: of the largest values they still fit into memory.
const DUMP_PART: usize = 100;

#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The key as of now (linearizable), and the store's revision.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError>;
    /// The keys under a prefix, now (linearizable) or at an earlier revision.
    async fn list(&self, prefix: &str, page: Page, at: Option<Revision>) -> Result<Listing, StoreError>;
    /// The keys under a prefix, now (linearizable), however many there are.
    async fn dump(&self, prefix: &str) -> Result<Dump, StoreError>;
    /// Returns the revision of the write once it is durable.
    async fn put(&self, key: &str, value: Bytes, precondition: Precondition) -> Result<Revision, StoreError> {
        self.put_while(&[], key, value, precondition).await
    }
    /// [`Store::put`] while other keys are unchanged; where one is not, [`StoreError::Stale`] or
    /// [`StoreError::NotFound`] with the first such key, whatever the precondition.
    async fn put_while(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError>;
    /// Returns the revision of the delete once it is durable.
    async fn delete(&self, key: &str, precondition: Precondition) -> Result<Revision, StoreError> {
        self.delete_while(&[], None, key, precondition).await
    }
    /// [`Store::delete`] while other keys are unchanged, as for [`Store::put_while`], that leaves a record, if one is given:
    /// both are done or neither, and watches tell of the delete first. The record's key must not exist; where it does,
    /// [`StoreError::Exists`] with that key, whatever the precondition.
    async fn delete_while(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError>;
    /// The writes under a prefix after a revision.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;
    /// What the store takes now; an answer shows too that the store can be read.
    async fn size(&self) -> Result<Size, StoreError>;
    /// True when no other process can use the store while this one has it open.
    fn is_exclusive(&self) -> bool {
        false
    }
    /// A revision that no acknowledged write is after, whoever made it, where that is known without asking anybody.
    fn newest_known(&self) -> Option<Revision> {
        None
    }
}

/// Refuses a value over [`VALUE_LIMIT`] before it costs anything.
fn check_size(key: &str, value: &[u8]) -> Result<(), StoreError> {
    if value.len() <= VALUE_LIMIT {
        return Ok(());
    }
    Err(StoreError::TooLarge {
        key: key.to_owned(),
        bytes: value.len(),
        limit: VALUE_LIMIT,
    })
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{key}: exists already")]
    Exists { key: String },
    #[error("{key}: not found")]
    NotFound { key: String },
    /// The precondition's revision is not the key's last.
    #[error("{key}: changed in the meantime")]
    Stale { key: String },
    /// What was asked for is older than the history that is kept.
    #[error("revision {asked} is no longer kept; the oldest is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    /// A revision that has not happened yet.
    #[error("revision {asked} is in the future; the newest is {newest}")]
    Future { asked: Revision, newest: Revision },
    #[error("{key}: {bytes} bytes are more than the store takes ({limit})")]
    TooLarge { key: String, bytes: usize, limit: usize },
    /// The store cannot be reached, has no quorum, or its disk has failed or is full; the write may or may not have happened.
    #[error("the store is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the store is broken")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}
