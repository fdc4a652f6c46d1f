//! Random histories, checked against a model that keeps everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use clone8s_apiserver::store::{
    Change, KeyValue, Page, Precondition, Revision, Store, StoreError, WatchItem,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Handle;

use super::{subject::Subject, suite::next_item};

#[derive(Debug, Clone)]
struct Step {
    key: u8,
    /// None deletes.
    value: Option<Vec<u8>>,
    condition: Condition,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    Any,
    Absent,
    /// The key's current revision, or where it has none the newest of all.
    Current,
    /// The revision of some write of this history.
    Earlier(prop::sample::Index),
}

#[derive(Debug, Clone)]
struct Plan {
    steps: Vec<Step>,
    /// Where to look back from, and how long the pages are.
    looks: Vec<(prop::sample::Index, usize)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let condition = prop_oneof![
        3 => Just(Condition::Any),
        2 => Just(Condition::Absent),
        3 => Just(Condition::Current),
        1 => any::<prop::sample::Index>().prop_map(Condition::Earlier),
    ];
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..40));
    let step = (0..6_u8, value, condition).prop_map(|(key, value, condition)| Step {
        key,
        value,
        condition,
    });
    let looks = prop::collection::vec((any::<prop::sample::Index>(), 1..5_usize), 1..4);
    (prop::collection::vec(step, 1..40), looks).prop_map(|(steps, looks)| Plan { steps, looks })
}

/// Everything that happened under one prefix.
#[derive(Debug, Default)]
struct Model {
    current: BTreeMap<String, KeyValue>,
    changes: Vec<Change>,
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Exists,
    NotFound,
    Stale,
}

impl Model {
    fn expect(&self, key: &str, deletes: bool, precondition: Precondition) -> Result<(), Refusal> {
        let existing = self.current.get(key);
        match precondition {
            Precondition::Absent if existing.is_some() => Err(Refusal::Exists),
            Precondition::Revision(_) if existing.is_none() => Err(Refusal::NotFound),
            Precondition::Revision(seen) if existing.is_some_and(|found| found.revision != seen) => {
                Err(Refusal::Stale)
            }
            _ if deletes && existing.is_none() => Err(Refusal::NotFound),
            _ => Ok(()),
        }
    }

    fn record(&mut self, key: &str, value: Option<Bytes>, revision: Revision) {
        let previous = self.current.remove(key);
        if let Some(value) = value.clone() {
            let now = KeyValue {
                key: key.to_owned(),
                value,
                revision,
            };
            self.current.insert(key.to_owned(), now);
        }
        self.changes.push(Change {
            key: key.to_owned(),
            value,
            previous,
            revision,
        });
    }

    fn at(&self, revision: Revision) -> Vec<KeyValue> {
        let mut then = Self::default();
        for change in self.changes.iter().filter(|change| change.revision <= revision) {
            then.record(&change.key, change.value.clone(), change.revision);
        }
        then.current.into_values().collect()
    }
}

#[expect(clippy::unused_async, reason = "as every other claim")]
pub(crate) async fn random_histories_agree_with_the_model(subject: &Subject) {
    let runtime = Handle::current();
    let mut runner = TestRunner::new(Config {
        cases: subject.cases(),
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&plans(), |plan| {
            let prefix = subject.fresh_prefix();
            runtime.block_on(play(&*subject.store, &prefix, &plan));
            Ok(())
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

async fn play(store: &dyn Store, prefix: &str, plan: &Plan) {
    let start = store.get(prefix).await.unwrap().1;
    let live = store.watch(prefix, start).await.unwrap();
    let mut model = Model::default();
    for step in &plan.steps {
        let key = format!("{prefix}{}", step.key);
        let precondition = match step.condition {
            Condition::Any => Precondition::Any,
            Condition::Absent => Precondition::Absent,
            Condition::Current => {
                let newest = model.changes.last().map_or(start, |change| change.revision);
                Precondition::Revision(model.current.get(&key).map_or(newest, |found| found.revision))
            }
            Condition::Earlier(index) if !model.changes.is_empty() => {
                Precondition::Revision(index.get(&model.changes).revision)
            }
            Condition::Earlier(_) => Precondition::Revision(start),
        };
        let value = step.value.clone().map(Bytes::from);
        let outcome = match value.clone() {
            Some(value) => store.put(&key, value, precondition).await,
            None => store.delete(&key, precondition).await,
        };
        let expected = model.expect(&key, value.is_none(), precondition);
        match (outcome, expected) {
            (Ok(revision), Ok(())) => {
                let last = model.changes.last().map_or(start, |change| change.revision);
                assert!(revision > last, "{revision} follows {last}");
                model.record(&key, value, revision);
            }
            (Err(error), Err(refusal)) => {
                let kind = match &error {
                    StoreError::Exists { .. } => Refusal::Exists,
                    StoreError::NotFound { .. } => Refusal::NotFound,
                    StoreError::Stale { .. } => Refusal::Stale,
                    other => panic!("{other:?}"),
                };
                assert_eq!(kind, refusal, "{step:?}");
            }
            (outcome, expected) => panic!("{step:?}: {outcome:?}, the model says {expected:?}"),
        }
        assert_eq!(store.get(&key).await.unwrap().0, model.current.get(&key).cloned());
    }

    assert_watched(live, &model.changes).await;
    for (look, limit) in &plan.looks {
        let at = match model.changes.len() {
            0 => start,
            _ => look.get(&model.changes).revision,
        };
        assert_eq!(
            list_by_pages(store, prefix, at, *limit).await,
            model.at(at),
            "at {at}"
        );
        let rest: Vec<_> = model
            .changes
            .iter()
            .filter(|change| change.revision > at)
            .cloned()
            .collect();
        assert_watched(store.watch(prefix, at).await.unwrap(), &rest).await;
    }
}

async fn assert_watched(mut watch: clone8s_apiserver::store::Watch, expected: &[Change]) {
    for change in expected {
        loop {
            match next_item(&mut watch).await.unwrap() {
                WatchItem::Change(seen) => {
                    assert_eq!(&seen, change);
                    break;
                }
                WatchItem::Progress(revision) => {
                    assert!(
                        revision < change.revision,
                        "progress passed an outstanding change"
                    );
                }
            }
        }
    }
}

async fn list_by_pages(store: &dyn Store, prefix: &str, at: Revision, limit: usize) -> Vec<KeyValue> {
    let mut all: Vec<KeyValue> = Vec::new();
    loop {
        let page = Page {
            limit: Some(limit),
            after: all.last().map(|item| item.key.clone()),
        };
        let listing = store.list(prefix, page, Some(at)).await.unwrap();
        assert!(listing.items.len() <= limit);
        assert!(!listing.more || listing.items.len() == limit);
        all.extend(listing.items);
        if !listing.more {
            return all;
        }
    }
}
