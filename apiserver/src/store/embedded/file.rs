//! The open file, and how it is opened again after an error of the disk, such as one that is full.
//!
//! ```text
//! open ──a read or a write fails──► of no more use ──reopen──► closed ──opens──► open
//!                                                    ▲            │
//!                                                    └───fails────┘
//! ```

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use redb::{Database, DatabaseError};

use super::{
    OpenError,
    schema::{self, Snapshot},
};
use crate::store::{Revision, StoreError};

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// Bytes of memory for pages of the file.
    cache_bytes: usize,
    /// None from a reopening that failed to one that succeeds.
    database: RwLock<Option<Database>>,
}

impl File {
    /// Opens the file, or makes one; with its newest revision.
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<(Self, Revision), OpenError> {
        create_private(path).map_err(|cause| OpenError::Io {
            path: path.to_owned(),
            cause,
        })?;
        let (database, newest) = open(path, cache_bytes)?;
        let file = Self {
            path: path.to_owned(),
            cache_bytes,
            database: RwLock::new(Some(database)),
        };
        Ok((file, newest))
    }

    /// Opens it again: redb does nothing more with a file of which a read or a write has failed. What a failed write
    /// did all the same is then there.
    pub(super) fn reopen(&self) -> Result<Revision, OpenError> {
        // It holds the lock of the file.
        self.replace(None);
        // Nobody waits meanwhile: the check of a large file takes its time.
        let (opened, newest) = open(&self.path, self.cache_bytes)?;
        self.replace(Some(opened));
        Ok(newest)
    }

    fn replace(&self, database: Option<Database>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.with(Snapshot::new).map_err(broken)
    }

    pub(super) fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        act(database.as_ref().ok_or(redb::Error::PreviousIo)?)
    }
}

/// Whether it is the disk that failed, after which the file can be opened again.
pub(super) fn is_of_the_disk(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
}

pub(super) fn broken(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    if is_of_the_disk(&error) {
        StoreError::Unavailable(Box::new(error))
    } else {
        StoreError::Broken(Box::new(error))
    }
}

fn open(path: &Path, cache_bytes: usize) -> Result<(Database, Revision), OpenError> {
    let told = path.to_owned();
    let database = Database::builder()
        .set_cache_size(cache_bytes)
        .set_repair_callback(move |session| {
            tracing::info!(path = %told.display(), progress = session.progress(), "checking the store after a crash");
        })
        .create(path)
        .map_err(|error| open_error(path, error))?;
    let newest = schema::prepare(&database).map_err(|error| match error {
        schema::PrepareError::Format(found) => OpenError::Format {
            path: path.to_owned(),
            found,
            known: schema::FORMAT,
        },
        schema::PrepareError::File(redb::Error::Io(cause)) => OpenError::Io {
            path: path.to_owned(),
            cause,
        },
        schema::PrepareError::File(cause) => OpenError::Damaged {
            path: path.to_owned(),
            cause: Box::new(cause),
        },
    })?;
    Ok((database, newest))
}

/// Makes the file before the database does: it will hold secrets, and its name must survive a power loss too.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let options = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .clone();
    match options.open(path) {
        Ok(_) => fs::File::open(folder)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path),
        DatabaseError::Storage(redb::StorageError::Io(cause))
            if cause.kind() == io::ErrorKind::InvalidData =>
        {
            OpenError::NotAStore(path)
        }
        DatabaseError::Storage(redb::StorageError::Io(cause)) => OpenError::Io { path, cause },
        cause => OpenError::Damaged {
            path,
            cause: Box::new(cause),
        },
    }
}
