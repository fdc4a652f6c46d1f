use bytes::Bytes;

use super::*;
use crate::{
    backup::records::Encoder,
    store::{KeyValue, Revision},
};

fn file_of(count: usize) -> Vec<u8> {
    let header = BackupHeader {
        revision: 41,
        ..BackupHeader::default()
    };
    let (mut encoder, first) = Encoder::begin(header);
    let items = (0..count).map(|number| KeyValue {
        key: format!("/clone8s/{number:03}"),
        value: Bytes::from(vec![7; number]),
        revision: Revision(1),
    });
    [first, encoder.entries(items.collect()), encoder.end()].concat()
}

fn open(bytes: &[u8]) -> Result<BackupFile, BackupError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    BackupFile::open(file.path())
}

#[tokio::test]
async fn a_file_reads_as_it_was_written() {
    let file = open(&file_of(250)).unwrap();
    assert_eq!((file.header().revision, file.entry_count()), (41, 250));
    let parts: Vec<_> = file.entries().unwrap().collect().await;
    let entries: Vec<_> = parts.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(entries.len(), 250);
    assert_eq!(
        entries[249],
        ("/clone8s/249".to_owned(), Bytes::from(vec![7; 249]))
    );
    assert_eq!(open(&file_of(0)).unwrap().entry_count(), 0);
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    let whole = file_of(5);
    for length in 0..whole.len() {
        open(&whole[..length]).unwrap_err();
    }
    let error = open(&whole[..whole.len() - 1]).unwrap_err();
    assert!(matches!(error, BackupError::CutOff { entries: 5, .. }), "{error}");
}

#[test]
fn a_file_with_any_byte_altered_is_refused() {
    let whole = file_of(5);
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        open(&altered).unwrap_err();
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(matches!(open(&longer), Err(BackupError::Damaged { .. })));
}

#[test]
fn what_is_no_backup_is_told_from_what_is_one_of_another_version() {
    assert!(matches!(open(b"hello"), Err(BackupError::NotABackup(_))));
    assert!(matches!(open(b""), Err(BackupError::NotABackup(_))));
    assert!(matches!(
        open(b"clone8s backup 2\nwhatever"),
        Err(BackupError::Version(_))
    ));
    // No record of this length is read into memory.
    let endless = [FIRST_LINE, &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    assert!(matches!(open(&endless), Err(BackupError::Damaged { .. })));
}
