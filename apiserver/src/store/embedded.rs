//! A store in one file, for a cluster of one machine.
//!
//! ```text
//! put, delete ──► bounded queue ──► writer thread ──► one synced commit for many writes ──► replies
//!                                        │
//!                                        └──► recent changes (memory) ──► watches
//! get, list ──► a snapshot of the file         history (file) ──────────► watches that are behind
//! ```
//!
//! After an error of the disk, such as one that is full, the writes answer [`StoreError::Unavailable`] until the file can
//! be written again.
//!
//! The file belongs to one process: a second one is refused. Memory holds a small page cache and the most recent
//! changes, whatever the size of the data. History is bounded by [`Options::history`]; what is older answers
//! [`StoreError::Compacted`].

mod file;
mod filling;
mod recent;
mod schema;
mod watch;
mod writer;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::filling::Filling;
use self::{
    file::{File, broken},
    recent::Recent,
    writer::{Action, Write, Writer},
};
use super::{
    DUMP_PART, Dump, History, KeyValue, Listing, Page, Precondition, Record, Revision, Size, Store,
    StoreError, Unchanged, Watch, check_size,
};

/// Writes wait here for the next commit; when it is full, writers wait.
const WRITE_QUEUE: usize = 1_024;

/// What may be chosen about an embedded store.
#[derive(Debug, Clone)]
pub struct Options {
    pub history: History,
    /// Bytes of memory for pages of the file.
    pub cache_bytes: usize,
    /// At most how often a watch without changes of its own tells its progress.
    pub progress_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            history: History::default(),
            cache_bytes: 8 << 20,
            progress_every: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
impl Options {
    /// With a history of so many changes.
    pub(crate) fn keeping(changes: u32) -> Self {
        Self {
            history: History {
                changes,
                ..History::default()
            },
            ..Self::default()
        }
    }
}

/// Why a file cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: another process has this store open; stop it or choose another file", path = .0.display())]
    InUse(PathBuf),
    #[error("{path}: this file is not a store of Clone8s; move it away or choose another file", path = .0.display())]
    NotAStore(PathBuf),
    #[error(
        "{path}: this store has format {found} and this program knows format {known}; run a program of its version",
        path = .path.display()
    )]
    Format { path: PathBuf, found: i64, known: i64 },
    #[error("cannot open the store {path}", path = .path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path}: the store is damaged; restore it from a backup", path = .path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The store. Dropping it closes the file; open watches then end with an error.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    file: Arc<File>,
    recent: Arc<Recent>,
    progress_every: Duration,
    /// None only while dropping.
    writes: Option<mpsc::Sender<Write>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens a store, making the file (mode 0600) and its folder (mode 0700) where they are missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(path, &Options::default())
    }

    pub fn open_with(path: impl AsRef<Path>, options: &Options) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let (file, newest) = File::open(path, options.cache_bytes)?;
        let file = Arc::new(file);
        let recent = Arc::new(Recent::new(newest));
        let (writes, queue) = mpsc::channel(WRITE_QUEUE);
        let writer = Writer {
            file: Arc::clone(&file),
            recent: Arc::clone(&recent),
            path: path.to_owned(),
            history: options.history,
            mend_at: None,
        };
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|cause| OpenError::Io {
                path: path.to_owned(),
                cause,
            })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            recent,
            progress_every: options.progress_every,
            writes: Some(writes),
            writer: Some(writer),
        })
    }

    async fn write(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        precondition: Precondition,
        action: Action,
    ) -> Result<Revision, StoreError> {
        let (reply, answer) = oneshot::channel();
        let write = Write {
            unchanged: unchanged.to_vec(),
            key: key.to_owned(),
            precondition,
            action,
            reply,
        };
        let gone = || StoreError::Broken("the store's writer has ended".into());
        let queue = self.writes.as_ref().ok_or_else(gone)?;
        queue.send(write).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.writes = None;
        // What is queued is still committed: it takes one sync. Without the wait, the file could not be opened
        // again right after.
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
        self.recent.close();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        // Read in place: a lookup touches a few pages, which costs less than a change of threads.
        let snapshot = self.file.snapshot()?;
        Ok((snapshot.get(key).map_err(broken)?, snapshot.revision()))
    }

    async fn list(&self, prefix: &str, page: Page, at: Option<Revision>) -> Result<Listing, StoreError> {
        let file = Arc::clone(&self.file);
        let prefix = prefix.to_owned();
        let listing = tokio::task::spawn_blocking(move || {
            let snapshot = file.snapshot()?;
            let at = at.unwrap_or(snapshot.revision());
            snapshot.must_know(at)?;
            snapshot.list(&prefix, &page, at).map_err(broken)
        });
        listing.await.map_err(|error| StoreError::Broken(error.into()))?
    }

    async fn dump(&self, prefix: &str) -> Result<Dump, StoreError> {
        let snapshot = self.file.snapshot()?;
        let revision = snapshot.revision();
        let prefix = prefix.to_owned();
        let first = Page {
            limit: Some(DUMP_PART),
            after: None,
        };
        // The snapshot stays the same, and what it shows is not compacted, for as long as it lives.
        let parts = stream::try_unfold(Some((snapshot, first)), move |rest| {
            let prefix = prefix.clone();
            async move {
                let Some((snapshot, mut page)) = rest else {
                    return Ok(None);
                };
                let read = tokio::task::spawn_blocking(move || {
                    let listing = snapshot.list(&prefix, &page, revision).map_err(broken)?;
                    page.after = listing.items.last().map(|item| item.key.clone());
                    let rest = listing.more.then_some((snapshot, page));
                    Ok(Some((listing.items, rest)))
                });
                read.await.map_err(|error| StoreError::Broken(error.into()))?
            }
        });
        Ok(Dump {
            revision,
            parts: parts.boxed(),
        })
    }

    async fn put_while(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        check_size(key, &value)?;
        self.write(unchanged, key, precondition, Action::Put { value })
            .await
    }

    async fn delete_while(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        if let Some(record) = &record {
            check_size(&record.key, &record.value)?;
        }
        self.write(unchanged, key, precondition, Action::Delete { record })
            .await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.file.snapshot()?.must_know(after)?;
        Ok(watch::watch(
            Arc::downgrade(&self.file),
            Arc::clone(&self.recent),
            prefix.to_owned(),
            after,
            self.progress_every,
        ))
    }

    async fn size(&self) -> Result<Size, StoreError> {
        let file = fs::metadata(&self.path).map_err(|error| StoreError::Broken(error.into()))?;
        let snapshot = self.file.snapshot()?;
        Ok(Size {
            bytes: file.len(),
            revision: snapshot.revision(),
        })
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn newest_known(&self) -> Option<Revision> {
        self.recent.newest()
    }
}
