//! The tables of the file, and what can be read from a snapshot of them.
//!
//! Every write is a version of its key and a line of the log. A list at a revision takes each key's latest version
//! up to it; a watch replays the log. Compaction up to a revision removes the log's lines up to it and, of each
//! key, every version but the latest up to it.

use std::ops::Bound;

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase as _, ReadableTable, TableDefinition, TableError};

use crate::store::{Change, KeyValue, Listing, Page, Revision, StoreError};

/// The version of this layout.
pub(super) const FORMAT: i64 = 1;

/// (key, revision) → the value, or None where the write was a delete.
pub(super) const VERSIONS: TableDefinition<(&str, i64), Option<&[u8]>> = TableDefinition::new("versions");
/// revision → (seconds since 1970 at the write, key).
pub(super) const LOG: TableDefinition<i64, (u64, &str)> = TableDefinition::new("log");
pub(super) const META: TableDefinition<&str, i64> = TableDefinition::new("meta");

pub(super) const META_REVISION: &str = "revision";
pub(super) const META_COMPACTED: &str = "compacted";
const META_FORMAT: &str = "format";

/// Of an empty store.
const FIRST: Revision = Revision(1);

#[derive(Debug)]
pub(super) enum PrepareError {
    Format(i64),
    File(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for PrepareError {
    fn from(error: E) -> Self {
        Self::File(error.into())
    }
}

/// Makes the tables of a new file, checks the format of an old one, and returns the newest revision.
pub(super) fn prepare(file: &Database) -> Result<Revision, PrepareError> {
    let transaction = file.begin_write()?;
    let newest;
    {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get(META_FORMAT)?.map(|value| value.value());
        match format {
            Some(FORMAT) => {}
            Some(other) => return Err(PrepareError::Format(other)),
            None => {
                meta.insert(META_FORMAT, FORMAT)?;
                meta.insert(META_REVISION, FIRST.0)?;
                meta.insert(META_COMPACTED, FIRST.0)?;
            }
        }
        newest = read_meta(&meta, META_REVISION)?;
        transaction.open_table(VERSIONS)?;
        transaction.open_table(LOG)?;
    }
    transaction.commit()?;
    Ok(newest)
}

pub(super) fn read_meta(
    meta: &impl ReadableTable<&'static str, i64>,
    name: &str,
) -> Result<Revision, redb::StorageError> {
    Ok(meta.get(name)?.map_or(FIRST, |value| Revision(value.value())))
}

/// The key's last version before or at a revision, deletes included.
pub(super) fn version_up_to(
    versions: &impl ReadableTable<(&'static str, i64), Option<&'static [u8]>>,
    key: &str,
    at: Revision,
) -> Result<Option<(Revision, Option<Bytes>)>, redb::StorageError> {
    let Some(found) = versions.range((key, i64::MIN)..=(key, at.0))?.next_back() else {
        return Ok(None);
    };
    let (version, value) = found?;
    Ok(Some((
        Revision(version.value().1),
        value.value().map(Bytes::copy_from_slice),
    )))
}

/// The committed state at one instant.
pub(super) struct Snapshot {
    versions: ReadOnlyTable<(&'static str, i64), Option<&'static [u8]>>,
    log: ReadOnlyTable<i64, (u64, &'static str)>,
    revision: Revision,
    compacted: Revision,
}

impl Snapshot {
    pub(super) fn new(file: &Database) -> Result<Self, redb::Error> {
        let transaction = file.begin_read()?;
        let open = |error: TableError| redb::Error::from(error);
        let meta = transaction.open_table(META).map_err(open)?;
        Ok(Self {
            versions: transaction.open_table(VERSIONS).map_err(open)?,
            log: transaction.open_table(LOG).map_err(open)?,
            revision: read_meta(&meta, META_REVISION)?,
            compacted: read_meta(&meta, META_COMPACTED)?,
        })
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Refuses a revision whose state, or whose following changes, are not known here.
    pub(super) fn must_know(&self, asked: Revision) -> Result<(), StoreError> {
        if asked < self.compacted {
            return Err(StoreError::Compacted {
                asked,
                oldest: self.compacted,
            });
        }
        if asked > self.revision {
            return Err(StoreError::Future {
                asked,
                newest: self.revision,
            });
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, redb::Error> {
        let found = version_up_to(&self.versions, key, self.revision)?;
        Ok(found.and_then(|(revision, value)| {
            Some(KeyValue {
                key: key.to_owned(),
                value: value?,
                revision,
            })
        }))
    }

    /// One pass over the versions: their number is that of the keys plus the bounded history.
    pub(super) fn list(&self, prefix: &str, page: &Page, at: Revision) -> Result<Listing, redb::Error> {
        let limit = page.limit.map_or(usize::MAX, |limit| limit.max(1));
        let start = match page.after.as_deref() {
            Some(after) if after >= prefix => Bound::Excluded((after, i64::MAX)),
            _ => Bound::Included((prefix, i64::MIN)),
        };
        let mut listing = Listing {
            items: Vec::new(),
            more: false,
            revision: at,
        };
        // The latest version so far of the key that the pass is at; it counts once the next key begins.
        let mut latest: Option<KeyValue> = None;
        for entry in self.versions.range((start, Bound::Unbounded))? {
            let (version, value) = entry?;
            let (key, revision) = version.value();
            if !key.starts_with(prefix) {
                break;
            }
            if revision > at.0 {
                continue;
            }
            if latest.as_ref().is_some_and(|latest| latest.key != key) {
                listing.items.extend(latest.take());
            }
            if listing.items.len() > limit {
                break;
            }
            latest = value.value().map(|value| KeyValue {
                key: key.to_owned(),
                value: Bytes::copy_from_slice(value),
                revision: Revision(revision),
            });
        }
        listing.items.extend(latest);
        listing.more = listing.items.len() > limit;
        listing.items.truncate(limit);
        Ok(listing)
    }

    /// The writes after a revision that this snapshot knows, under a prefix, and the revision up to which they are
    /// complete. Looks at no more than `at_most` writes.
    pub(super) fn changes(
        &self,
        prefix: &str,
        after: Revision,
        at_most: usize,
    ) -> Result<(Vec<Change>, Revision), redb::Error> {
        let mut changes = Vec::new();
        let mut up_to = after;
        for entry in self.log.range(after.0 + 1..)?.take(at_most) {
            let (revision, line) = entry?;
            up_to = Revision(revision.value());
            let (_, key) = line.value();
            if !key.starts_with(prefix) {
                continue;
            }
            let value = version_up_to(&self.versions, key, up_to)?.and_then(|(_, value)| value);
            let before = version_up_to(&self.versions, key, Revision(up_to.0 - 1))?;
            changes.push(Change {
                key: key.to_owned(),
                value,
                previous: before.and_then(|(revision, value)| {
                    Some(KeyValue {
                        key: key.to_owned(),
                        value: value?,
                        revision,
                    })
                }),
                revision: up_to,
            });
        }
        Ok((changes, up_to))
    }
}
