//! A file that becomes the store once it is whole: it is written beside the store and takes its place in one step.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::StreamExt as _;
use redb::Database;

use super::{
    EmbeddedStore, OpenError,
    file::{broken, create_private, folder_of, open_error},
    schema::{META, META_COMPACTED, META_REVISION, PrepareError, VERSIONS, prepare},
};
use crate::{
    backup::{Entries, Existing, FillError, Filled, GAP},
    store::{Page, Revision, Store as _, StoreError},
};

/// A place for a store. What is there is kept open until it is replaced, so that nobody else uses it meanwhile.
#[derive(Debug)]
pub(crate) struct Filling {
    path: PathBuf,
    present: Option<Present>,
}

#[derive(Debug)]
struct Present {
    _store: EmbeddedStore,
    newest: Revision,
}

impl Filling {
    pub(crate) async fn open(path: &Path, existing: Existing) -> Result<Self, FillError> {
        let present = if path.try_exists().map_err(|cause| io_failed(path, cause))? {
            let store = EmbeddedStore::open(path)?;
            let any = Page {
                limit: Some(1),
                after: None,
            };
            let listing = store.list("", any, None).await?;
            if existing == Existing::Refuse && !listing.items.is_empty() {
                return Err(FillError::NotEmpty {
                    store: path.display().to_string(),
                });
            }
            Some(Present {
                _store: store,
                newest: listing.revision,
            })
        } else {
            None
        };
        Ok(Self {
            path: path.to_owned(),
            present,
        })
    }

    pub(crate) async fn fill(self, mut entries: Entries, above: Revision) -> Result<Filled, FillError> {
        let beside = beside(&self.path);
        // What was begun before and not ended.
        match fs::remove_file(&beside) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(io_failed(&beside, cause).into());
            }
            _ => {}
        }
        create_private(&beside).map_err(|cause| io_failed(&beside, cause))?;
        let file = Database::create(&beside).map_err(|error| open_error(&beside, error))?;
        prepare(&file).map_err(|error| match error {
            PrepareError::File(cause) => broken(cause),
            PrepareError::Format(_) => StoreError::Broken("the new file is not new".into()),
        })?;
        let newest = self
            .present
            .as_ref()
            .map_or(above, |present| present.newest.max(above));
        let mut filled = Filled {
            entries: 0,
            revision: Revision(newest.0 + GAP),
        };
        while let Some(part) = entries.next().await {
            insert(&file, &part.map_err(FillError::Source)?, &mut filled).map_err(broken)?;
        }
        finish(&file, filled.revision).map_err(broken)?;
        drop(file);
        self.put_in_place(&beside)
            .map_err(|cause| io_failed(&self.path, cause))?;
        Ok(filled)
    }

    fn put_in_place(&self, beside: &Path) -> io::Result<()> {
        if self.present.is_some() {
            fs::rename(beside, &self.path)?;
        } else {
            // Unlike a rename this fails where an apiserver has made a store meanwhile.
            fs::hard_link(beside, &self.path)?;
            fs::remove_file(beside)?;
        }
        fs::File::open(folder_of(&self.path))?.sync_all()
    }
}

/// One commit for all of them, each at a revision of its own.
fn insert(file: &Database, part: &[(String, Bytes)], filled: &mut Filled) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut versions = transaction.open_table(VERSIONS)?;
        for (key, value) in part {
            filled.revision.0 += 1;
            filled.entries += 1;
            versions.insert((key.as_str(), filled.revision.0), Some(&value[..]))?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// The history begins here: what was before is another store's.
fn finish(file: &Database, revision: Revision) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_REVISION, revision.0)?;
        meta.insert(META_COMPACTED, revision.0)?;
    }
    transaction.commit()?;
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".filling");
    name.into()
}

fn io_failed(path: &Path, cause: io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_owned(),
        cause,
    }
}
