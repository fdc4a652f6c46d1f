//! The claims.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use clone8s_apiserver::store::{
    Change, KeyValue, Page, Precondition, Record, Revision, Store, StoreError, Unchanged, VALUE_LIMIT, Watch,
    WatchItem,
};
use futures::{StreamExt as _, future::join_all};
use tokio::time::timeout;

use super::subject::Subject;

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn next_item(watch: &mut Watch) -> Result<WatchItem, StoreError> {
    let item = timeout(SOON, watch.next()).await.expect("the watch is silent");
    item.expect("the watch ended without an error")
}

pub(crate) async fn next_change(watch: &mut Watch) -> Change {
    loop {
        if let WatchItem::Change(change) = next_item(watch).await.unwrap() {
            return change;
        }
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.put(key, text(value), Precondition::Any).await.unwrap()
}

async fn read(store: &dyn Store, key: &str) -> Option<(String, Revision)> {
    let (found, _) = store.get(key).await.unwrap();
    found.map(|found| {
        assert_eq!(found.key, key);
        (String::from_utf8(found.value.to_vec()).unwrap(), found.revision)
    })
}

fn names<'k>(prefix: &str, items: &'k [KeyValue]) -> Vec<&'k str> {
    let names = items.iter().map(|item| item.key.strip_prefix(prefix));
    names.map(|name| name.expect("under the prefix")).collect()
}

pub(crate) async fn a_key_that_was_never_written_reads_as_nothing(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let (found, revision) = store.get(&format!("{prefix}a")).await.unwrap();
    assert_eq!(found, None);
    assert!(revision >= Revision(1), "{revision}");
    let listing = store.list(&prefix, Page::default(), None).await.unwrap();
    assert!(listing.items.is_empty() && !listing.more);
    assert!(listing.revision >= revision);
}

pub(crate) async fn a_write_is_read_back_at_its_revision(subject: &Subject) {
    let store = &*subject.store;
    let key = format!("{}a", subject.fresh_prefix());
    let before = store.get(&key).await.unwrap().1;
    let first = put(store, &key, "1").await;
    assert!(first > before);
    assert_eq!(read(store, &key).await, Some(("1".to_owned(), first)));
    let second = put(store, &key, "2").await;
    assert!(second > first);
    assert_eq!(read(store, &key).await, Some(("2".to_owned(), second)));
    assert!(store.get(&key).await.unwrap().1 >= second);
    // Empty and binary values are values.
    for value in [Bytes::new(), Bytes::from_static(b"\0\xff\xfe")] {
        store.put(&key, value.clone(), Precondition::Any).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().0.unwrap().value, value);
    }
}

pub(crate) async fn a_put_that_needs_absence_creates_once(subject: &Subject) {
    let store = &*subject.store;
    let key = format!("{}a", subject.fresh_prefix());
    let first = store.put(&key, text("1"), Precondition::Absent).await.unwrap();
    let error = store
        .put(&key, text("2"), Precondition::Absent)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Exists { key: named } if *named == key),
        "{error:?}"
    );
    assert_eq!(read(store, &key).await, Some(("1".to_owned(), first)));
    store.delete(&key, Precondition::Any).await.unwrap();
    store.put(&key, text("3"), Precondition::Absent).await.unwrap();
}

pub(crate) async fn a_put_at_a_revision_needs_that_very_revision(subject: &Subject) {
    let store = &*subject.store;
    let key = format!("{}a", subject.fresh_prefix());
    let never = Precondition::Revision(Revision(1));
    let error = store.put(&key, text("0"), never).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    let first = put(store, &key, "1").await;
    let second = store
        .put(&key, text("2"), Precondition::Revision(first))
        .await
        .unwrap();
    for wrong in [first, Revision(second.0 + 1)] {
        let error = store
            .put(&key, text("3"), Precondition::Revision(wrong))
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Stale { .. }), "{error:?}");
    }
    assert_eq!(read(store, &key).await, Some(("2".to_owned(), second)));
    store.delete(&key, Precondition::Any).await.unwrap();
    let error = store
        .put(&key, text("4"), Precondition::Revision(second))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
}

pub(crate) async fn a_put_while_another_key_is_unchanged_needs_that_too(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let (door, key) = (format!("{prefix}door"), format!("{prefix}key"));
    let while_at = async |revision, precondition| {
        let unchanged = [Unchanged {
            key: door.clone(),
            revision,
        }];
        store.put_while(&unchanged, &key, text("1"), precondition).await
    };
    // The other key's answer comes first, whatever there is to say of the key.
    for precondition in [Precondition::Any, Precondition::Absent] {
        let error = while_at(Revision(1), precondition).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::NotFound { key } if *key == door),
            "{error:?}"
        );
    }
    let opened = put(store, &door, "open").await;
    let written = while_at(opened, Precondition::Absent).await.unwrap();
    assert_eq!(read(store, &key).await, Some(("1".to_owned(), written)));
    let error = while_at(opened, Precondition::Absent).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Exists { key: named } if *named == key),
        "{error:?}"
    );
    let again = while_at(opened, Precondition::Revision(written)).await.unwrap();
    put(store, &door, "closed").await;
    for precondition in [
        Precondition::Any,
        Precondition::Absent,
        Precondition::Revision(again),
    ] {
        let error = while_at(opened, precondition).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Stale { key } if *key == door),
            "{error:?}"
        );
    }
    store.delete(&door, Precondition::Any).await.unwrap();
    let error = while_at(opened, Precondition::Any).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::NotFound { key } if *key == door),
        "{error:?}"
    );
    assert_eq!(read(store, &key).await, Some(("1".to_owned(), again)));
}

pub(crate) async fn a_delete_while_other_keys_are_unchanged_needs_them_too(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let (door, window, key) = (
        format!("{prefix}door"),
        format!("{prefix}window"),
        format!("{prefix}key"),
    );
    let delete_while = async |at: [Revision; 2]| {
        let unchanged = [&door, &window].into_iter().zip(at);
        let unchanged: Vec<_> = unchanged
            .map(|(key, revision)| Unchanged {
                key: key.clone(),
                revision,
            })
            .collect();
        let record = Record {
            key: format!("{prefix}record"),
            value: text("gone"),
        };
        store
            .delete_while(&unchanged, Some(record), &key, Precondition::Any)
            .await
    };
    let door_at = put(store, &door, "open").await;
    let error = delete_while([door_at, door_at]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::NotFound { key } if *key == window),
        "{error:?}"
    );
    let window_at = put(store, &window, "open").await;
    // There is nothing to delete, but that is not what is said first.
    let error = delete_while([window_at, door_at]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Stale { key } if *key == door),
        "{error:?}"
    );
    let error = delete_while([door_at, window_at]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::NotFound { key: named } if *named == key),
        "{error:?}"
    );
    put(store, &key, "1").await;
    let error = delete_while([door_at, door_at]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Stale { key } if *key == window),
        "{error:?}"
    );
    delete_while([door_at, window_at]).await.unwrap();
    assert_eq!(read(store, &key).await, None);
    put(store, &key, "2").await;
    let error = delete_while([door_at, window_at]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Exists { key } if key.ends_with("record")),
        "{error:?}"
    );
}

pub(crate) async fn the_size_is_at_the_newest_revision(subject: &Subject) {
    let store = &*subject.store;
    let key = format!("{}a", subject.fresh_prefix());
    let written = put(store, &key, "1").await;
    let size = store.size().await.unwrap();
    assert!(size.revision >= written, "{size:?}");
    assert!(size.bytes > 0, "{size:?}");
}

pub(crate) async fn a_delete_keeps_its_precondition_and_needs_the_key(subject: &Subject) {
    let store = &*subject.store;
    let key = format!("{}a", subject.fresh_prefix());
    for precondition in [
        Precondition::Any,
        Precondition::Absent,
        Precondition::Revision(Revision(1)),
    ] {
        let error = store.delete(&key, precondition).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::NotFound { key: named } if *named == key),
            "{error:?}"
        );
    }
    let first = put(store, &key, "1").await;
    let second = put(store, &key, "2").await;
    let error = store
        .delete(&key, Precondition::Revision(first))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Stale { .. }), "{error:?}");
    let error = store.delete(&key, Precondition::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error:?}");
    let gone = store.delete(&key, Precondition::Revision(second)).await.unwrap();
    assert!(gone > second);
    let (found, revision) = store.get(&key).await.unwrap();
    assert_eq!(found, None);
    assert!(revision >= gone);
}

pub(crate) async fn a_delete_leaves_its_record_or_neither_is_done(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let (key, record) = (format!("{prefix}key"), format!("{prefix}record"));
    let delete = async |precondition| {
        let record = Record {
            key: record.clone(),
            value: text("gone"),
        };
        store.delete_while(&[], Some(record), &key, precondition).await
    };
    let error = delete(Precondition::Any).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::NotFound { key: named } if *named == key),
        "{error:?}"
    );
    let first = put(store, &key, "1").await;
    let second = put(store, &key, "2").await;
    let mut watch = store.watch(&prefix, second).await.unwrap();
    let error = delete(Precondition::Revision(first)).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Stale { key: named } if *named == key),
        "{error:?}"
    );
    assert_eq!(read(store, &record).await, None);
    let gone = delete(Precondition::Revision(second)).await.unwrap();
    assert_eq!(read(store, &key).await, None);
    let (left, recorded) = read(store, &record).await.unwrap();
    assert_eq!(left, "gone");

    // The delete comes first, so that who has come to its revision has seen it.
    let told = next_change(&mut watch).await;
    assert_eq!((told.key, told.value, told.revision), (key.clone(), None, gone));
    let told = next_change(&mut watch).await;
    assert_eq!(
        (told.key, told.value, told.previous, told.revision),
        (record.clone(), Some(text("gone")), None, recorded)
    );
    assert!(recorded >= gone);

    // A record that is there says that it was done, whatever there is to say of the key.
    let again = put(store, &key, "3").await;
    for precondition in [
        Precondition::Any,
        Precondition::Revision(again),
        Precondition::Revision(first),
    ] {
        let error = delete(precondition).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Exists { key } if *key == record),
            "{error:?}"
        );
    }
    assert_eq!(read(store, &key).await, Some(("3".to_owned(), again)));
    store.delete(&key, Precondition::Any).await.unwrap();
    let error = delete(Precondition::Any).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Exists { key } if *key == record),
        "{error:?}"
    );
}

pub(crate) async fn a_refused_write_changes_nothing(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let key = format!("{prefix}a");
    let start = put(store, &key, "1").await;
    let mut watch = store.watch(&prefix, start).await.unwrap();
    store
        .put(&key, text("2"), Precondition::Absent)
        .await
        .unwrap_err();
    store
        .delete(&key, Precondition::Revision(Revision(1)))
        .await
        .unwrap_err();
    store
        .delete(&format!("{prefix}b"), Precondition::Any)
        .await
        .unwrap_err();
    let next = put(store, &key, "3").await;
    assert_eq!(next_change(&mut watch).await.revision, next);
}

pub(crate) async fn of_racing_writers_with_one_precondition_one_wins(subject: &Subject) {
    let store = &subject.store;
    let key = format!("{}a", subject.fresh_prefix());
    let mut seen = None;
    for round in 0..5 {
        let precondition = seen.map_or(Precondition::Absent, Precondition::Revision);
        let writers = (0..16).map(|writer| {
            let value = Bytes::from(format!("{round}-{writer}"));
            let (store, key) = (Arc::clone(store), key.clone());
            async move { store.put(&key, value, precondition).await }
        });
        let outcomes = join_all(writers).await;
        let winners: Vec<_> = outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().ok())
            .collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        seen = Some(*winners[0]);
        assert_eq!(read(&**store, &key).await.unwrap().1, *winners[0]);
    }
}

/// Whether they go one by one or together, nobody sees anything but one write after the other.
pub(crate) async fn puts_at_once_are_writes_one_after_the_other(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let mut all = Vec::new();
    let start = put(store, &format!("{prefix}there"), "1").await;
    for round in 0..4 {
        // Some of them are refused, also those that would be the last.
        let puts = (0..150).map(|number| {
            let (key, precondition) = match number % 5 {
                0 | 4 => (format!("{prefix}there"), Precondition::Absent),
                1 => (format!("{prefix}{}", number % 30), Precondition::Any),
                _ => (format!("{prefix}{round}-{number}"), Precondition::Absent),
            };
            async move {
                let value = Bytes::from(vec![u8::try_from(number % 3).unwrap(); 20]);
                let revision = store.put(&key, value.clone(), precondition).await.ok()?;
                Some((revision, key, value))
            }
        });
        all.extend(join_all(puts).await.into_iter().flatten());
    }
    assert_eq!(all.len(), 4 * 90);
    all.sort_unstable();

    let mut watch = store.watch(&prefix, start).await.unwrap();
    let mut state = BTreeMap::from([(format!("{prefix}there"), (text("1"), start))]);
    for (number, (revision, key, value)) in all.iter().enumerate() {
        let previous = state.insert(key.clone(), (value.clone(), *revision));
        let change = next_change(&mut watch).await;
        assert_eq!((change.revision, &change.key), (*revision, key));
        assert_eq!(change.value.as_ref(), Some(value));
        let before = change.previous.map(|before| (before.value, before.revision));
        assert_eq!(before, previous);
        if number % 7 != 0 {
            continue;
        }
        // The state at each, and what comes after each, wherever it lies among those that went with it.
        for limit in [None, Some(40)] {
            let mut page = Page { limit, after: None };
            let mut listed = BTreeMap::new();
            loop {
                let listing = store.list(&prefix, page.clone(), Some(*revision)).await.unwrap();
                page.after = listing.items.last().map(|item| item.key.clone());
                let items = listing.items.into_iter();
                listed.extend(items.map(|item| (item.key, (item.value, item.revision))));
                if !listing.more {
                    break;
                }
            }
            assert_eq!(listed, state, "at {revision}");
        }
        let mut rest = store.watch(&prefix, *revision).await.unwrap();
        for (next, key, _) in all.iter().skip(number + 1).take(3) {
            let change = next_change(&mut rest).await;
            assert_eq!((change.revision, &change.key), (*next, key), "after {revision}");
        }
    }
    for (key, (value, revision)) in &state {
        let found = store.get(key).await.unwrap().0.unwrap();
        assert_eq!((&found.value, found.revision), (value, *revision));
        // Each is a precondition that holds, and those before it are none.
        for wrong in [revision.0 - 1, revision.0 - 2] {
            let wrong = Precondition::Revision(Revision(wrong));
            let refused = store.put(key, text("2"), wrong).await;
            assert!(
                matches!(refused, Err(StoreError::Stale { .. })),
                "{wrong:?}: {refused:?}"
            );
        }
        let again = store.put(key, text("3"), Precondition::Revision(*revision)).await;
        assert!(again.unwrap() > *revision);
    }
}

/// Of two that each ask for the other to be as it was, the second one is too late, however close they come.
pub(crate) async fn puts_at_once_see_what_those_before_them_wrote(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let (left, right) = (format!("{prefix}left"), format!("{prefix}right"));
    for round in 0..40 {
        let unchanged = [&left, &right].map(|key| async {
            let revision = put(store, key, "free").await;
            Unchanged {
                key: key.clone(),
                revision,
            }
        });
        let unchanged = join_all(unchanged).await;
        let guarded = [(&left, &unchanged[1..]), (&right, &unchanged[..1])];
        let guarded = guarded.map(|(key, unchanged)| async {
            let taken = store.put_while(unchanged, key, text("taken"), Precondition::Any);
            taken.await.is_ok()
        });
        // Others that are on their way, so that these two come to wait together.
        let others = (0..20).map(|number| {
            let key = format!("{prefix}other-{number}");
            async move { put(store, &key, "x").await }
        });
        let (_, taken) = tokio::join!(join_all(others), join_all(guarded));
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "round {round}");
    }
}

pub(crate) async fn increments_under_preconditions_lose_none(subject: &Subject) {
    let key = format!("{}counter", subject.fresh_prefix());
    put(&*subject.store, &key, "0").await;
    let workers = (0..6).map(|_| {
        let (store, key) = (Arc::clone(&subject.store), key.clone());
        async move {
            for _ in 0..10 {
                loop {
                    let (value, revision) = read(&*store, &key).await.unwrap();
                    let next = value.parse::<u32>().unwrap() + 1;
                    let put = store.put(&key, text(&next.to_string()), Precondition::Revision(revision));
                    match put.await {
                        Ok(_) => break,
                        Err(StoreError::Stale { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        }
    });
    join_all(workers).await;
    assert_eq!(read(&*subject.store, &key).await.unwrap().0, "60");
}

pub(crate) async fn a_list_has_the_keys_of_its_prefix_in_order(subject: &Subject) {
    let store = &*subject.store;
    let root = subject.fresh_prefix();
    let prefix = format!("{root}pods/");
    for key in [
        "pods/b", "pods/a/z", "pods/a", "pods/a-b", "pods0", "pod", "pods.", "nodes/a",
    ] {
        put(store, &format!("{root}{key}"), key).await;
    }
    put(store, &format!("{prefix}gone"), "x").await;
    store
        .delete(&format!("{prefix}gone"), Precondition::Any)
        .await
        .unwrap();
    let listing = store.list(&prefix, Page::default(), None).await.unwrap();
    assert_eq!(names(&prefix, &listing.items), ["a", "a-b", "a/z", "b"]);
    assert!(!listing.more);
    assert_eq!(listing.items[0].value, text("pods/a"));

    let page = |limit, after: Option<&str>| Page {
        limit: Some(limit),
        after: after.map(|name| format!("{prefix}{name}")),
    };
    for (limit, after, expected, more) in [
        (2, None, vec!["a", "a-b"], true),
        (2, Some("a-b"), vec!["a/z", "b"], false),
        (4, None, vec!["a", "a-b", "a/z", "b"], false),
        (1, Some("aa"), vec!["b"], false),
        (10, Some("b"), vec![], false),
    ] {
        let listing = store.list(&prefix, page(limit, after), None).await.unwrap();
        assert_eq!((names(&prefix, &listing.items), listing.more), (expected, more));
    }
    // A bound outside the prefix does not widen it.
    let outside = Page {
        limit: None,
        after: Some(root.clone()),
    };
    assert_eq!(store.list(&prefix, outside, None).await.unwrap().items.len(), 4);
}

pub(crate) async fn pages_of_one_revision_are_consistent_while_others_write(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    for number in 0..20 {
        put(store, &format!("{prefix}{number:02}"), "old").await;
    }
    let mut page = Page {
        limit: Some(6),
        after: None,
    };
    let mut at = None;
    let mut seen = Vec::new();
    loop {
        let listing = store.list(&prefix, page.clone(), at).await.unwrap();
        assert_eq!(listing.revision, at.unwrap_or(listing.revision));
        at = Some(listing.revision);
        page.after = listing.items.last().map(|item| item.key.clone());
        seen.extend(listing.items);
        if !listing.more {
            break;
        }
        // Each page is followed by a change, a birth and a death in the pages to come.
        put(store, &format!("{prefix}19"), "new").await;
        put(store, &format!("{prefix}185"), "new").await;
        let _ = store.delete(&format!("{prefix}17"), Precondition::Any).await;
    }
    assert_eq!(seen.len(), 20);
    assert!(seen.iter().all(|item| item.value == text("old")));
}

pub(crate) async fn a_list_at_an_earlier_revision_shows_that_state(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let (a, b) = (format!("{prefix}a"), format!("{prefix}b"));
    let one = put(store, &a, "1").await;
    let two = put(store, &b, "2").await;
    let three = put(store, &a, "3").await;
    let four = store.delete(&b, Precondition::Any).await.unwrap();
    let five = put(store, &b, "5").await;
    for (at, expected) in [
        (one, vec![("a", "1", one)]),
        (two, vec![("a", "1", one), ("b", "2", two)]),
        (three, vec![("a", "3", three), ("b", "2", two)]),
        (four, vec![("a", "3", three)]),
        (five, vec![("a", "3", three), ("b", "5", five)]),
    ] {
        let listing = store.list(&prefix, Page::default(), Some(at)).await.unwrap();
        let found: Vec<_> = listing
            .items
            .iter()
            .map(|item| {
                let name = item.key.strip_prefix(&prefix).unwrap();
                (name, std::str::from_utf8(&item.value).unwrap(), item.revision)
            })
            .collect();
        assert_eq!(found, expected, "at {at}");
        assert_eq!(listing.revision, at);
    }
}

pub(crate) async fn the_future_is_refused(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let newest = put(store, &format!("{prefix}a"), "1").await;
    let future = Revision(newest.0 + 1_000_000);
    let error = store
        .list(&prefix, Page::default(), Some(future))
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::Future { asked, .. } if asked == future),
        "{error:?}"
    );
    let error = store.watch(&prefix, future).await.err().expect("an error");
    assert!(
        matches!(error, StoreError::Future { asked, .. } if asked == future),
        "{error:?}"
    );
}

pub(crate) async fn values_up_to_the_limit_are_kept_and_larger_ones_are_refused(subject: &Subject) {
    let store = &*subject.store;
    let key = format!("{}a", subject.fresh_prefix());
    let large = Bytes::from(vec![7; VALUE_LIMIT]);
    store
        .put(&key, large.clone(), Precondition::Absent)
        .await
        .unwrap();
    assert_eq!(store.get(&key).await.unwrap().0.unwrap().value, large);
    let larger = Bytes::from(vec![7; VALUE_LIMIT + 1]);
    let error = store.put(&key, larger, Precondition::Any).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::TooLarge { limit: VALUE_LIMIT, bytes, .. } if *bytes == VALUE_LIMIT + 1),
        "{error:?}"
    );
}

pub(crate) async fn a_watch_gives_each_write_once_in_order_with_what_it_replaced(subject: &Subject) {
    let store = &*subject.store;
    let root = subject.fresh_prefix();
    let prefix = format!("{root}pods/");
    let key = format!("{prefix}a");
    let start = store.get(&key).await.unwrap().1;
    let mut watch = store.watch(&prefix, start).await.unwrap();
    let one = put(store, &key, "1").await;
    put(store, &format!("{root}pods0"), "beside the prefix").await;
    let two = put(store, &key, "2").await;
    let three = store.delete(&key, Precondition::Any).await.unwrap();
    let four = put(store, &key, "4").await;
    let version = |value: &str, revision| {
        Some(KeyValue {
            key: key.clone(),
            value: text(value),
            revision,
        })
    };
    for (value, previous, revision) in [
        (Some("1"), None, one),
        (Some("2"), version("1", one), two),
        (None, version("2", two), three),
        (Some("4"), None, four),
    ] {
        let expected = Change {
            key: key.clone(),
            value: value.map(text),
            previous,
            revision,
        };
        assert_eq!(next_change(&mut watch).await, expected);
    }
}

pub(crate) async fn a_watch_from_an_earlier_revision_catches_up_and_goes_on(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let start = put(store, &format!("{prefix}first"), "0").await;
    // More than one look, one message or the memory of recent writes holds.
    for number in 0..1_500 / 50 {
        let keys: Vec<_> = (0..50).map(|key| format!("{prefix}{key}")).collect();
        let value = number.to_string();
        join_all(keys.iter().map(|key| put(store, key, &value))).await;
    }
    let mut watch = store.watch(&prefix, start).await.unwrap();
    let mut last = start;
    for _ in 0..1_500 {
        let change = next_change(&mut watch).await;
        assert!(change.revision > last, "{} after {last}", change.revision);
        last = change.revision;
    }
    let live = put(store, &format!("{prefix}live"), "x").await;
    assert_eq!(next_change(&mut watch).await.revision, live);
}

pub(crate) async fn a_catch_up_larger_than_any_message_arrives_whole(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let start = put(store, &format!("{prefix}first"), "0").await;
    let value = Bytes::from(vec![1; 700_000]);
    let mut expected = Vec::new();
    for number in 0..12 {
        let key = format!("{prefix}{}", number % 2);
        expected.push(store.put(&key, value.clone(), Precondition::Any).await.unwrap());
    }
    let mut watch = store.watch(&prefix, start).await.unwrap();
    for (number, revision) in expected.into_iter().enumerate() {
        let change = next_change(&mut watch).await;
        assert_eq!(
            (change.revision, change.value.unwrap().len()),
            (revision, value.len())
        );
        assert_eq!(change.previous.is_some(), number >= 2);
    }
    let listing = store.list(&prefix, Page::default(), None).await.unwrap();
    assert_eq!(listing.items.len(), 3);
}

pub(crate) async fn a_watch_tells_its_progress_past_the_writes_of_others(subject: &Subject) {
    let store = &*subject.store;
    let (mine, other) = (subject.fresh_prefix(), subject.fresh_prefix());
    let start = put(store, &format!("{mine}a"), "1").await;
    let mut watch = store.watch(&mine, start).await.unwrap();
    let later = put(store, &format!("{other}a"), "1").await;
    loop {
        match next_item(&mut watch).await.unwrap() {
            WatchItem::Progress(revision) if revision >= later => break,
            WatchItem::Progress(_) => {}
            WatchItem::Change(change) => panic!("unexpected: {change:?}"),
        }
    }
}

pub(crate) async fn many_watches_see_the_same_order(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let start = put(store, &format!("{prefix}first"), "0").await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(store.watch(&prefix, start).await.unwrap());
    }
    let keys: Vec<_> = (0..100).map(|key| format!("{prefix}{}", key % 10)).collect();
    let mut revisions = join_all(keys.iter().map(|key| put(store, key, "x"))).await;
    revisions.sort_unstable();
    for watch in &mut watches {
        for revision in &revisions {
            assert_eq!(next_change(watch).await.revision, *revision);
        }
    }
}

pub(crate) async fn what_is_compacted_says_so(subject: &Subject) {
    let store = &*subject.store;
    let prefix = subject.fresh_prefix();
    let (a, b) = (format!("{prefix}a"), format!("{prefix}b"));
    let one = put(store, &a, "1").await;
    let two = put(store, &a, "2").await;
    put(store, &b, "3").await;
    store.delete(&b, Precondition::Any).await.unwrap();
    subject.compact().await;
    let error = store.list(&prefix, Page::default(), Some(one)).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Compacted { asked, oldest } if asked == one && oldest > one),
        "{error:?}"
    );
    // Told at once, or as the first thing that the watch says.
    let error = match store.watch(&prefix, one).await {
        Ok(mut watch) => next_item(&mut watch).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(
        matches!(error, StoreError::Compacted { asked, .. } if asked == one),
        "{error:?}"
    );
    // What is current stays, however old.
    assert_eq!(read(store, &a).await, Some(("2".to_owned(), two)));
    assert_eq!(read(store, &b).await, None);
    let listing = store.list(&prefix, Page::default(), None).await.unwrap();
    assert_eq!(names(&prefix, &listing.items), ["a"]);
    let mut watch = store.watch(&prefix, listing.revision).await.unwrap();
    let next = store
        .put(&a, text("5"), Precondition::Revision(two))
        .await
        .unwrap();
    let change = next_change(&mut watch).await;
    assert_eq!((change.revision, change.previous.unwrap().revision), (next, two));
}
