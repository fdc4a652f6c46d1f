//! What happens to the embedded store's file.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use bytes::Bytes;
use clone8s_apiserver::store::{
    History, Page, Precondition, Revision, Store as _, StoreError,
    embedded::{EmbeddedStore, OpenError, Options},
};

use super::suite;

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[tokio::test]
async fn a_reopened_file_has_its_keys_its_history_and_its_revision() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/for/it/store.db");
    let store = EmbeddedStore::open(&path).unwrap();
    let first = store.put("k/a", value("1"), Precondition::Absent).await.unwrap();
    let second = store.put("k/a", value("2"), Precondition::Any).await.unwrap();
    let third = store.delete("k/a", Precondition::Any).await.unwrap();
    drop(store);

    let store = EmbeddedStore::open(&path).unwrap();
    let (found, revision) = store.get("k/a").await.unwrap();
    assert_eq!((found, revision), (None, third));
    let then = store.list("k/", Page::default(), Some(second)).await.unwrap();
    assert_eq!(then.items[0].value, value("2"));
    let mut watch = store.watch("k/", first).await.unwrap();
    let change = suite::next_change(&mut watch).await;
    assert_eq!((change.revision, change.value), (second, Some(value("2"))));
    let change = suite::next_change(&mut watch).await;
    assert_eq!((change.revision, change.value), (third, None));
    assert_eq!(change.previous.unwrap().value, value("2"));
    let fourth = store.put("k/b", value("3"), Precondition::Absent).await.unwrap();
    assert_eq!(suite::next_change(&mut watch).await.revision, fourth);
}

#[tokio::test]
async fn an_open_file_is_refused_by_its_path_and_free_again_once_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let first = EmbeddedStore::open(&path).unwrap();
    // A watch that nobody dropped does not keep the file either.
    let _watch = first.watch("k/", first.get("k/").await.unwrap().1).await.unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains("store.db"), "{error}");
    drop(first);
    EmbeddedStore::open(&path).unwrap();
}

#[tokio::test]
async fn closing_the_store_ends_its_watches_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path().join("store.db")).unwrap();
    let newest = store.get("k").await.unwrap().1;
    let mut watch = store.watch("k/", newest).await.unwrap();
    drop(store);
    let error = suite::next_item(&mut watch).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[test]
fn the_file_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/store.db");
    let _store = EmbeddedStore::open(&path).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn a_file_of_another_kind_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    let notes = "not a store\n".repeat(1_000);
    std::fs::write(&path, &notes).unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore(_)), "{error:?}");
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
    let error = EmbeddedStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
}

#[tokio::test]
async fn history_is_bounded_by_age_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        history: History {
            age: Duration::ZERO,
            ..History::default()
        },
        ..Options::default()
    };
    let store = EmbeddedStore::open_with(dir.path().join("store.db"), &options).unwrap();
    let first = store.put("k/a", value("1"), Precondition::Any).await.unwrap();
    // The clock of the history counts whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    store.put("k/b", value("2"), Precondition::Any).await.unwrap();
    let last = store.put("k/b", value("3"), Precondition::Any).await.unwrap();
    let before = Revision(first.0 - 1);
    let error = store.list("k/", Page::default(), Some(before)).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
    let now = store.list("k/", Page::default(), None).await.unwrap();
    assert_eq!((now.items.len(), now.revision), (2, last));
}

#[tokio::test]
async fn a_reader_that_fell_behind_the_history_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        history: History {
            changes: 2_000,
            ..History::default()
        },
        ..Options::default()
    };
    let store = EmbeddedStore::open_with(dir.path().join("store.db"), &options).unwrap();
    let start = store.put("k/a", value("1"), Precondition::Any).await.unwrap();
    let mut slow = store.watch("k/", start).await.unwrap();
    let puts = (0..2_500).map(|_| store.put("k/a", value("x"), Precondition::Any));
    futures::future::try_join_all(puts).await.unwrap();
    let error = suite::next_item(&mut slow).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Compacted { asked, .. } if asked == start),
        "{error:?}"
    );
}
