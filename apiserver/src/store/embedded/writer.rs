//! The one writer of the file: gathers what is queued, commits it with one sync, then answers.

use std::{
    iter,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use bytes::Bytes;
use clone8s_daemon::supervisor::chain;
use redb::{Database, ReadableTable as _, Table};
use tokio::sync::{mpsc, oneshot};

use super::{
    file::{File, broken},
    recent::Recent,
    schema::{LOG, META, META_COMPACTED, META_REVISION, VERSIONS, read_meta, version_up_to},
};
use crate::store::{Change, History, KeyValue, Precondition, Record, Revision, StoreError, Unchanged};

/// One commit takes this many writes at most, or the first that pass this many bytes: it bounds the memory of a
/// commit and the wait of the first writer in it.
const BATCH_WRITES: usize = 512;
const BATCH_BYTES: usize = 8 << 20;
/// A commit removes this many old writes at least, and twice as many as it adds, so that the history shrinks
/// steadily and never all at once.
const COMPACT_AT_LEAST: usize = 64;
/// After an error of the disk the file is opened anew at most so often: it is checked as after a crash.
const MEND_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Write {
    pub(super) unchanged: Vec<Unchanged>,
    pub(super) key: String,
    pub(super) precondition: Precondition,
    pub(super) action: Action,
    pub(super) reply: oneshot::Sender<Result<Revision, StoreError>>,
}

#[derive(Debug)]
pub(super) enum Action {
    Put { value: Bytes },
    Delete { record: Option<Record> },
}

impl Write {
    fn bytes(&self) -> usize {
        let written = match &self.action {
            Action::Put { value } => value.len(),
            Action::Delete { record } => record
                .as_ref()
                .map_or(0, |record| record.key.len() + record.value.len()),
        };
        self.key.len() + written
    }

    /// The other keys of which something must hold too.
    fn others(&self) -> impl Iterator<Item = (&str, Precondition)> {
        let unchanged = self.unchanged.iter();
        let unchanged = unchanged.map(|other| (other.key.as_str(), Precondition::Revision(other.revision)));
        let record = match &self.action {
            Action::Delete { record } => record.as_ref(),
            Action::Put { .. } => None,
        };
        unchanged.chain(record.map(|record| (record.key.as_str(), Precondition::Absent)))
    }

    /// What the key is to have; None where it is to go.
    fn value(&self) -> Option<&Bytes> {
        match &self.action {
            Action::Put { value } => Some(value),
            Action::Delete { .. } => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) file: Arc<File>,
    pub(super) recent: Arc<Recent>,
    pub(super) path: PathBuf,
    pub(super) history: History,
    /// When the file is to be opened anew, after an error of the disk.
    pub(super) mend_at: Option<Instant>,
}

/// The failure of a commit, which concerns each of its writers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot write {path}: {cause}; see that the disk is well and has room")]
struct CommitFailed {
    path: String,
    cause: String,
}

/// Why a file that was opened anew is not the one that it was.
#[derive(Debug, thiserror::Error)]
#[error("the file is at revision {found}, but {known} was acknowledged")]
struct WentBack {
    found: Revision,
    known: Revision,
}

impl Writer {
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = 0;
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(write) = next {
                bytes += write.bytes();
                batch.push(write);
                let room = batch.len() < BATCH_WRITES && bytes < BATCH_BYTES;
                next = room.then(|| queue.try_recv().ok()).flatten();
            }
            self.commit_and_answer(batch);
        }
    }

    fn commit_and_answer(&mut self, batch: Vec<Write>) {
        let committed = self.mend().and_then(|()| {
            self.file
                .with(|database| self.commit(database, &batch))
                .map_err(broken)
        });
        match committed {
            Ok((changes, outcomes)) => {
                // Before the answers: who writes and then watches finds the write.
                self.recent.extend(changes);
                for (write, outcome) in batch.into_iter().zip(outcomes) {
                    // A writer that no longer waits has made its write all the same.
                    let _ = write.reply.send(outcome);
                }
            }
            Err(error) => {
                let is_of_the_disk = matches!(error, StoreError::Unavailable(_));
                if is_of_the_disk && self.mend_at.is_none() {
                    self.mend_at = Some(Instant::now() + MEND_EVERY);
                }
                let failure = CommitFailed {
                    path: self.path.display().to_string(),
                    cause: chain(&error),
                };
                tracing::error!(
                    path = failure.path,
                    error = failure.cause,
                    "the store cannot write its file"
                );
                for write in batch {
                    let failure = Box::new(failure.clone());
                    let _ = write.reply.send(Err(if is_of_the_disk {
                        StoreError::Unavailable(failure)
                    } else {
                        StoreError::Broken(failure)
                    }));
                }
            }
        }
    }

    /// Opens the file anew after an error of the disk, and tells the watches of what a write that failed did all the same.
    fn mend(&mut self) -> Result<(), StoreError> {
        let Some(mend_at) = self.mend_at else {
            return Ok(());
        };
        let now = Instant::now();
        if now < mend_at {
            return Err(StoreError::Unavailable("the disk failed a moment ago".into()));
        }
        self.mend_at = Some(now + MEND_EVERY);
        let newest = self
            .file
            .reopen()
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let mut known = self.recent.newest().unwrap_or(newest);
        if newest < known {
            return Err(StoreError::Broken(Box::new(WentBack { found: newest, known })));
        }
        let snapshot = self.file.snapshot()?;
        while known < newest {
            let (changes, up_to) = snapshot.changes("", known, BATCH_WRITES).map_err(broken)?;
            self.recent.extend(changes);
            known = up_to;
        }
        self.mend_at = None;
        tracing::info!(path = %self.path.display(), "the store writes its file again");
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "one caller, a few lines above")]
    fn commit(
        &self,
        database: &Database,
        batch: &[Write],
    ) -> Result<(Vec<Change>, Vec<Result<Revision, StoreError>>), redb::Error> {
        let now = clone8s_daemon::clock::now();
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let transaction = database.begin_write()?;
        let mut changes = Vec::new();
        let mut outcomes = Vec::with_capacity(batch.len());
        {
            let mut meta = transaction.open_table(META)?;
            let mut versions = transaction.open_table(VERSIONS)?;
            let mut log = transaction.open_table(LOG)?;
            let mut newest = read_meta(&meta, META_REVISION)?;
            for write in batch {
                let outcome = apply(write, Revision(newest.0 + 1), &mut versions)?;
                outcomes.push(match outcome {
                    Ok((change, recorded)) => {
                        let written = change.revision;
                        for change in iter::once(change).chain(recorded) {
                            newest = change.revision;
                            log.insert(newest.0, (now.as_secs(), change.key.as_str()))?;
                            changes.push(change);
                        }
                        Ok(written)
                    }
                    Err(error) => Err(error),
                });
            }
            if changes.is_empty() {
                // Nothing to make durable: the transaction is given up when it goes out of scope.
                return Ok((changes, outcomes));
            }
            meta.insert(META_REVISION, newest.0)?;

            let compacted = read_meta(&meta, META_COMPACTED)?;
            let keep = Keep {
                after: Revision(newest.0 - i64::from(self.history.changes)),
                since: now.saturating_sub(self.history.age).as_secs(),
            };
            let at_most = COMPACT_AT_LEAST.max(2 * changes.len());
            let compacted_to = compact(&mut versions, &mut log, &keep, at_most)?;
            if let Some(revision) = compacted_to.filter(|revision| *revision > compacted) {
                meta.insert(META_COMPACTED, revision.0)?;
            }
        }
        transaction.commit()?;
        Ok((changes, outcomes))
    }
}

type Versions<'t> = Table<'t, (&'static str, i64), Option<&'static [u8]>>;
type Log<'t> = Table<'t, i64, (u64, &'static str)>;

/// Makes the write at the given revision, and the record of a delete at the one after it, if what must hold does.
fn apply(
    write: &Write,
    revision: Revision,
    versions: &mut Versions<'_>,
) -> Result<Result<(Change, Option<Change>), StoreError>, redb::StorageError> {
    for (other, precondition) in write.others() {
        if let Err(refused) = check(other, precondition, last(versions, other, revision)?.as_ref()) {
            return Ok(Err(refused));
        }
    }
    let previous = last(versions, &write.key, revision)?;
    let value = write.value();
    if let Err(refused) = check(&write.key, write.precondition, previous.as_ref()) {
        return Ok(Err(refused));
    }
    if value.is_none() && previous.is_none() {
        let key = write.key.clone();
        return Ok(Err(StoreError::NotFound { key }));
    }
    let change = insert(versions, &write.key, value, previous, revision)?;
    let recorded = match &write.action {
        Action::Delete {
            record: Some(Record { key, value }),
        } => Some(insert(
            versions,
            key,
            Some(value),
            None,
            Revision(revision.0 + 1),
        )?),
        _ => None,
    };
    Ok(Ok((change, recorded)))
}

fn insert(
    versions: &mut Versions<'_>,
    key: &str,
    value: Option<&Bytes>,
    previous: Option<KeyValue>,
    revision: Revision,
) -> Result<Change, redb::StorageError> {
    versions.insert((key, revision.0), value.map(Bytes::as_ref))?;
    Ok(Change {
        key: key.to_owned(),
        value: value.cloned(),
        previous,
        revision,
    })
}

fn last(versions: &Versions<'_>, key: &str, now: Revision) -> Result<Option<KeyValue>, redb::StorageError> {
    let last = version_up_to(versions, key, now)?;
    Ok(last.and_then(|(revision, value)| {
        Some(KeyValue {
            key: key.to_owned(),
            value: value?,
            revision,
        })
    }))
}

fn check(key: &str, precondition: Precondition, existing: Option<&KeyValue>) -> Result<(), StoreError> {
    let key = || key.to_owned();
    match (precondition, existing) {
        (Precondition::Absent, Some(_)) => Err(StoreError::Exists { key: key() }),
        (Precondition::Revision(_), None) => Err(StoreError::NotFound { key: key() }),
        (Precondition::Revision(seen), Some(existing)) if existing.revision != seen => {
            Err(StoreError::Stale { key: key() })
        }
        _ => Ok(()),
    }
}

/// The history that stays: writes that are both recent in number and recent in time.
struct Keep {
    after: Revision,
    since: u64,
}

/// Removes the oldest writes from the history and returns the last that it removed.
fn compact(
    versions: &mut Versions<'_>,
    log: &mut Log<'_>,
    keep: &Keep,
    at_most: usize,
) -> Result<Option<Revision>, redb::StorageError> {
    let mut compacted = None;
    for _ in 0..at_most {
        let Some((revision, key)) = oldest_outside(log, keep)? else {
            break;
        };
        // What this write replaced is no longer anyone's latest version…
        while let Some((replaced, _)) = version_up_to(versions, &key, Revision(revision.0 - 1))? {
            versions.remove((key.as_str(), replaced.0))?;
        }
        // …and a delete needs no version to say that there is nothing.
        let is_delete = versions
            .get((key.as_str(), revision.0))?
            .is_some_and(|version| version.value().is_none());
        if is_delete {
            versions.remove((key.as_str(), revision.0))?;
        }
        log.remove(revision.0)?;
        compacted = Some(revision);
    }
    Ok(compacted)
}

fn oldest_outside(log: &Log<'_>, keep: &Keep) -> Result<Option<(Revision, String)>, redb::StorageError> {
    let Some((revision, line)) = log.first()? else {
        return Ok(None);
    };
    let (time, key) = line.value();
    let outside = revision.value() <= keep.after.0 || time < keep.since;
    Ok(outside.then(|| (Revision(revision.value()), key.to_owned())))
}
