//! Backups: all that the store holds at one revision, as one file, and back into a store of either kind.
//!
//! ```text
//! store ─► dump at one revision ─► records ─► file            (the cluster goes on)
//! file ─► checked to its end ─► store that is not in use      (nothing changes before the whole file was checked)
//! store ─► dump ─► store of the other kind                    (a migration)
//! ```
//! A store that is filled shows itself whole or not at all: a file takes its place when it is complete, and etcd holds
//! a mark, which no apiserver starts on, until it is. What is filled goes on at revisions that are [`GAP`] above all
//! that it comes from and all that was there, and has no history: a watch or a list from before is answered with
//! OUT_OF_RANGE, and never with a part of what happened.

mod file;
mod records;
mod stream;

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};

pub use self::file::{BackupError, BackupFile};
pub(crate) use self::stream::stream;
use crate::{
    config::StoreConfig,
    store::{
        Dump, EVERYTHING, Revision, StoreError,
        embedded::{self, EmbeddedStore, OpenError},
        etcd::{self, ConfigError, EtcdStore},
    },
};

/// How far above all earlier revisions a store goes on once it was filled: more writes than a cluster makes between a
/// backup and the loss of what came after it.
pub(crate) const GAP: i64 = 100_000_000_000;

/// What is to become of what a store holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the store is refused.
    Refuse,
    /// It is removed.
    Replace,
}

/// Why a store was not filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error("{store} holds objects already: choose an empty one, or replace what is there with --replace")]
    NotEmpty { store: String },
    #[error("{store} is in use by an apiserver: stop every one of them first")]
    InUse { store: String },
    #[error(
        "{store}: another restore or migration has begun to fill it: see that there is one alone, then run it again"
    )]
    Overtaken { store: String },
    #[error("cannot open the embedded store")]
    Open(#[from] OpenError),
    #[error("cannot use etcd")]
    Config(#[from] ConfigError),
    #[error("cannot read what the store is filled from")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot fill the store")]
    Store(#[from] StoreError),
}

/// What a store is filled with: keys and values, some at a time.
pub type Entries = BoxStream<'static, Result<Vec<(String, Bytes)>, Box<dyn std::error::Error + Send + Sync>>>;

/// What was put into a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    pub entries: u64,
    /// Where the store goes on.
    pub revision: Revision,
}

/// A store that may be filled, of which nothing has changed yet.
#[derive(Debug)]
pub struct Target(Kind);

#[derive(Debug)]
enum Kind {
    Embedded(embedded::Filling),
    Etcd(etcd::Filling),
}

impl Target {
    /// Looks at a store without changing it, and keeps others from using it where that can be done.
    pub async fn open(config: &StoreConfig, existing: Existing) -> Result<Self, FillError> {
        Ok(Self(match config {
            StoreConfig::Embedded { path } => Kind::Embedded(embedded::Filling::open(path, existing).await?),
            StoreConfig::Etcd(config) => {
                let store = EtcdStore::connect(config).await?;
                Kind::Etcd(etcd::Filling::open(store, existing).await?)
            }
        }))
    }

    /// Puts everything in, at revisions above those of where it comes from.
    pub async fn fill(self, entries: Entries, above: Revision) -> Result<Filled, FillError> {
        match self.0 {
            Kind::Embedded(filling) => filling.fill(entries, above).await,
            Kind::Etcd(filling) => filling.fill(entries, above).await,
        }
    }
}

/// What an embedded store holds, for another store. As long as the entries live, nobody else can open the file.
pub async fn entries_of(store: EmbeddedStore) -> Result<(Entries, Revision), StoreError> {
    use crate::store::Store as _;

    let Dump { revision, parts } = store.dump(EVERYTHING).await?;
    let entries = parts.map(move |part| {
        // The file is this process's for as long as it is read.
        let _ = &store;
        let part = part.map_err(Box::new)?;
        Ok(part.into_iter().map(|item| (item.key, item.value)).collect())
    });
    Ok((entries.boxed(), revision))
}
