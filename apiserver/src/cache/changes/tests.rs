use std::sync::atomic::Ordering;

use bytes::Bytes;
use clone8s::{
    object::{Object as _, store_key},
    v1::{ConfigMap, ObjectMeta, Pod},
};
use futures::FutureExt as _;
use prost::Message as _;

use super::*;
use crate::{
    cache::tests::{Breaking, kept},
    store::{Precondition, Record, Store, embedded::Options},
};

/// A megabyte, of which four are more than memory keeps of what happened.
const LARGE: usize = 1 << 20;

async fn write_map(store: &Breaking, name: &str, bytes: usize) -> Revision {
    let map = ConfigMap {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            ..ObjectMeta::default()
        }),
        data: [("text".to_owned(), "x".repeat(bytes))].into(),
        ..ConfigMap::default()
    };
    let (key, value) = (map.store_key(), map.encode_to_vec().into());
    store.put(&key, value, Precondition::Any).await.unwrap()
}

/// Of each change what it is of, its revision, whether the object is there, and of when it was before.
type Told = (String, i64, bool, Option<i64>);

fn told(change: &Change) -> Told {
    let before = change.previous.as_ref().map(|before| before.revision.0);
    (
        change.key.clone(),
        change.revision.0,
        change.value.is_some(),
        before,
    )
}

/// The changes up to the one of a revision; of two of one revision, the one with the lesser key comes first.
async fn up_to(changes: &mut Watch, last: Revision) -> Vec<Told> {
    let mut seen: Vec<Told> = Vec::new();
    while seen.last().is_none_or(|(_, latest, ..)| *latest < last.0) {
        let WatchItem::Change(change) = changes.next().await.unwrap().unwrap() else {
            continue;
        };
        let in_order = seen
            .last()
            .is_none_or(|(_, latest, ..)| *latest <= change.revision.0);
        assert!(in_order, "{change:?} after {:?}", seen.last());
        seen.push(told(&change));
    }
    seen.sort_by_key(|(key, revision, ..)| (*revision, key.clone()));
    seen
}

/// Writes pods and config maps over and over, deletes some, and writes what is no object. Gives the last revision.
async fn write_much(store: &Breaking, rounds: usize) -> Revision {
    for round in 0..rounds {
        let pod = format!("web-{}", round % 7);
        let written = store.write(&pod).await;
        if round % 5 == 0 {
            write_map(store, &format!("map-{}", round % 3), 10).await;
        }
        if round % 11 == 0 {
            let record = Record {
                key: store_key::<ConfigMap>("default", &format!("record-{written}")),
                value: Bytes::new(),
            };
            let key = store_key::<Pod>("default", &pod);
            let deleted = store.delete_while(&[], Some(record), &key, Precondition::Any);
            deleted.await.unwrap();
        }
        let (key, value) = ("/clone8s/system/other", Bytes::new());
        store.put(key, value, Precondition::Any).await.unwrap();
    }
    write_map(store, "last", 10).await;
    store.write("last").await
}

#[tokio::test]
async fn changes_come_as_from_the_store_wherever_memory_begins_and_whichever_are_asked_for() {
    let store = Breaking::new(usize::MAX, &Options::default());
    let middle = write_much(&store, 100).await;
    let (registry, _running) = kept(&store);
    registry.caches().reach(middle).await;
    let last = write_much(&store, 200).await;
    registry.caches().reach(last).await;
    for after in [1, middle.0 - 40, middle.0, middle.0 + 1, last.0 - 10, last.0 - 1] {
        let after = Revision(after);
        let mut of_store = store.watch(OBJECTS_PREFIX, after).await.unwrap();
        let expected = up_to(&mut of_store, last).await;
        assert!(!expected.is_empty());
        let mut changes = registry.caches().changes(after);
        assert_eq!(up_to(&mut changes, last).await, expected, "{after}");
    }
}

#[tokio::test]
async fn what_is_in_memory_is_not_asked_of_the_store() {
    let store = Breaking::new(usize::MAX, &Options::default());
    let (registry, _running) = kept(&store);
    let first = store.write("first").await;
    registry.caches().reach(first).await;
    let mut changes = registry.caches().changes(first);
    let last = write_much(&store, 200).await;
    assert!(!up_to(&mut changes, last).await.is_empty());
    assert_eq!(store.watches.load(Ordering::SeqCst), 1, "the caches' own");
}

#[tokio::test]
async fn who_falls_behind_memory_gets_the_rest_from_the_stores_history() {
    let store = Breaking::new(usize::MAX, &Options::default());
    let (registry, _running) = kept(&store);
    let first = write_map(&store, "large", LARGE).await;
    registry.caches().reach(first).await;
    let mut changes = registry.caches().changes(first);
    let second = write_map(&store, "large", LARGE).await;
    assert_eq!(up_to(&mut changes, second).await.len(), 1);
    let mut last = second;
    for _ in 0..8 {
        last = write_map(&store, "large", LARGE).await;
    }
    registry.caches().reach(last).await;
    assert!(!registry.caches().reach_back_to(second));
    assert_eq!(up_to(&mut changes, last).await.len(), 8);
}

#[tokio::test]
async fn what_the_store_has_forgotten_or_never_had_is_an_error() {
    let options = Options::keeping(10);
    let store = Breaking::new(usize::MAX, &options);
    let last = write_much(&store, 40).await;
    let (registry, _running) = kept(&store);
    registry.caches().reach(last).await;
    let forgotten = registry.caches().changes(Revision(1)).next().await.unwrap();
    assert!(
        matches!(forgotten, Err(StoreError::Compacted { .. })),
        "{forgotten:?}"
    );
    let never = registry
        .caches()
        .changes(Revision(last.0 + 100))
        .next()
        .await
        .unwrap();
    assert!(matches!(never, Err(StoreError::Future { .. })), "{never:?}");
}

#[tokio::test]
async fn nothing_is_told_before_all_that_is_stored_was_read() {
    let store = Breaking::new(usize::MAX, &Options::default());
    let first = store.write("first").await;
    let caches = Arc::new(Caches::new(Arc::clone(&store) as Arc<dyn Store>));
    let mut changes = caches.changes(Revision(1));
    assert!(changes.next().now_or_never().is_none());
    caches.fill(&*store).await.unwrap();
    let item = changes.next().await.unwrap().unwrap();
    assert!(
        matches!(&item, WatchItem::Change(change) if change.revision == first),
        "{item:?}"
    );
}
