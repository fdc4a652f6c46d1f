//! A backup file, read: it is whole and unaltered, or it is refused.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _},
    path::{Path, PathBuf},
};

use clone8s::v1::{BackupEnd, BackupHeader, BackupRecord, backup_record::Record};
use futures::{StreamExt as _, stream};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{
    Entries,
    records::{ANY_FIRST_LINE, FIRST_LINE, LARGEST},
};

/// Entries that go into a store together.
const PART: usize = 100;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot read {path}", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path}: not a backup of Clone8s", path = .0.display())]
    NotABackup(PathBuf),
    #[error("{path}: a backup in a form that this version does not know; use the version that made it, or a newer one", path = .0.display())]
    Version(PathBuf),
    #[error("{path}: this backup is cut off after {entries} entries; take another", path = .path.display())]
    CutOff { path: PathBuf, entries: i64 },
    #[error("{path}: this backup is damaged ({what}); take another", path = .path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

/// A file that was read to its end and found whole.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    file: File,
    header: BackupHeader,
    entry_count: u64,
}

impl BackupFile {
    /// Reads and checks all of it.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let read = |cause| BackupError::Read {
            path: path.to_owned(),
            cause,
        };
        let mut file = File::open(path).map_err(read)?;
        let mut records = Records::begin(path, &mut file)?;
        let header = records.header()?;
        let mut entry_count = 0;
        for entry in records {
            entry?;
            entry_count += 1;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            entry_count,
        })
    }

    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    pub fn entry_count(&self) -> u64 {
        self.entry_count
    }

    /// What the file holds, read and checked once more as it goes. It blocks its thread on the file.
    pub fn entries(self) -> Result<Entries, BackupError> {
        let Self { path, mut file, .. } = self;
        file.rewind().map_err(|cause| BackupError::Read {
            path: path.clone(),
            cause,
        })?;
        let mut records = Records::begin(&path, file)?;
        records.header()?;
        let entries = stream::iter(records).chunks(PART).map(|part| {
            let part: Result<Vec<_>, BackupError> = part.into_iter().collect();
            Ok(part?)
        });
        Ok(entries.boxed())
    }
}

/// The records of a file, checked as they are read: the last entry is not the last item unless the end is right.
#[derive(Debug)]
struct Records<R> {
    path: PathBuf,
    input: BufReader<R>,
    digest: Sha256,
    entries: i64,
    is_done: bool,
}

impl<R: Read> Records<R> {
    fn begin(path: &Path, input: R) -> Result<Self, BackupError> {
        let mut records = Self {
            path: path.to_owned(),
            input: BufReader::new(input),
            digest: Sha256::new(),
            entries: 0,
            is_done: false,
        };
        let mut line = Vec::new();
        let limit = u64::try_from(FIRST_LINE.len()).unwrap_or_default();
        let read = (&mut records.input).take(limit).read_to_end(&mut line);
        read.map_err(|cause| records.unreadable(cause))?;
        if line != FIRST_LINE {
            return Err(
                if line.starts_with(ANY_FIRST_LINE) && line.len() == FIRST_LINE.len() {
                    BackupError::Version(records.path)
                } else {
                    BackupError::NotABackup(records.path)
                },
            );
        }
        records.digest.update(FIRST_LINE);
        Ok(records)
    }

    fn header(&mut self) -> Result<BackupHeader, BackupError> {
        match self.record()? {
            (Record::Header(header), bytes) => {
                self.digest.update(bytes);
                Ok(header)
            }
            _ => Err(self.damaged("it does not begin with its header")),
        }
    }

    fn next_entry(&mut self) -> Result<Option<(String, bytes::Bytes)>, BackupError> {
        match self.record()? {
            (Record::Entry(entry), bytes) => {
                self.digest.update(bytes);
                self.entries += 1;
                Ok(Some((entry.key, entry.value)))
            }
            (Record::End(end), _) => self.finish(&end).map(|()| None),
            (Record::Header(_), _) => Err(self.damaged("it has a second header")),
        }
    }

    fn finish(&mut self, end: &BackupEnd) -> Result<(), BackupError> {
        if self.digest.finalize_reset().as_slice() != &end.sha256[..] {
            return Err(self.damaged("its checksum is another"));
        }
        if self.entries != end.entry_count {
            return Err(self.damaged("the number of its entries is another"));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("something stands behind its end")),
            Err(cause) => Err(self.unreadable(cause)),
        }
    }

    /// The next record, and the bytes of the file that it is.
    fn record(&mut self) -> Result<(Record, Vec<u8>), BackupError> {
        let mut bytes = Vec::new();
        let mut length = 0_u64;
        for shift in (0..).step_by(7) {
            let byte = self.byte()?;
            if shift > 28 {
                return Err(self.damaged("the length of a record is not a number"));
            }
            bytes.push(byte);
            length |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        if length > LARGEST {
            return Err(self.damaged("a record is longer than any can be"));
        }
        let start = bytes.len();
        let read = (&mut self.input).take(length).read_to_end(&mut bytes);
        let read = read.map_err(|cause| self.unreadable(cause))?;
        if u64::try_from(read).is_ok_and(|read| read < length) {
            return Err(self.cut_off());
        }
        let record = BackupRecord::decode(&bytes[start..])
            .ok()
            .and_then(|record| record.record)
            .ok_or_else(|| self.damaged("a record cannot be read"))?;
        Ok((record, bytes))
    }

    fn byte(&mut self) -> Result<u8, BackupError> {
        let mut byte = [0];
        match self.input.read_exact(&mut byte) {
            Ok(()) => Ok(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.cut_off()),
            Err(cause) => Err(self.unreadable(cause)),
        }
    }

    fn unreadable(&self, cause: io::Error) -> BackupError {
        BackupError::Read {
            path: self.path.clone(),
            cause,
        }
    }

    fn cut_off(&self) -> BackupError {
        BackupError::CutOff {
            path: self.path.clone(),
            entries: self.entries,
        }
    }

    fn damaged(&self, what: &'static str) -> BackupError {
        BackupError::Damaged {
            path: self.path.clone(),
            what,
        }
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Result<(String, bytes::Bytes), BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let next = self.next_entry().transpose();
        self.is_done = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests;
