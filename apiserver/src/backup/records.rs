//! The form of a backup file: a first line, then records of the contract, each after its length.

use bytes::Bytes;
use clone8s::v1::{BackupEnd, BackupEntry, BackupHeader, BackupRecord, backup_record::Record};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::store::KeyValue;

/// Says what the file is, and in which form.
pub(super) const FIRST_LINE: &[u8] = b"clone8s backup 1\n";
/// What every version's first line begins with.
pub(super) const ANY_FIRST_LINE: &[u8] = b"clone8s backup ";

/// Bytes that a record may have: more than any value of a store.
pub(super) const LARGEST: u64 = 8 << 20;

/// Writes the records of one file.
#[derive(Debug)]
pub(super) struct Encoder {
    digest: Sha256,
    entries: i64,
}

impl Encoder {
    /// With the first bytes of the file.
    pub(super) fn begin(header: BackupHeader) -> (Self, Bytes) {
        let mut encoder = Self {
            digest: Sha256::new(),
            entries: 0,
        };
        let mut bytes = FIRST_LINE.to_vec();
        append(&mut bytes, Record::Header(header));
        encoder.digest.update(&bytes);
        (encoder, bytes.into())
    }

    pub(super) fn entries(&mut self, items: Vec<KeyValue>) -> Bytes {
        let mut bytes = Vec::new();
        for KeyValue { key, value, .. } in items {
            self.entries += 1;
            append(&mut bytes, Record::Entry(BackupEntry { key, value }));
        }
        self.digest.update(&bytes);
        bytes.into()
    }

    pub(super) fn end(self) -> Bytes {
        let mut bytes = Vec::new();
        let end = BackupEnd {
            entry_count: self.entries,
            sha256: self.digest.finalize().to_vec().into(),
        };
        append(&mut bytes, Record::End(end));
        bytes.into()
    }
}

fn append(bytes: &mut Vec<u8>, record: Record) {
    let record = BackupRecord { record: Some(record) };
    bytes.extend(record.encode_length_delimited_to_vec());
}
