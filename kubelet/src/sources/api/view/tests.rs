use proptest::prelude::*;

use super::*;
use crate::sources::fixtures::{image, stored};

fn event(kind: WatchEventType, pod: Option<Pod>, revision: i64) -> WatchPodsResponse {
    WatchPodsResponse {
        r#type: kind.into(),
        pod,
        resource_version: revision,
        previous: None,
    }
}

fn hint(change: HintedChange, name: &str, image: &str, revision: i64) -> Hint {
    Hint {
        pod: Arc::new(stored(name, image, revision)),
        revision,
        change,
    }
}

fn images(view: &ApiView) -> Vec<(String, String)> {
    view.pods()
        .map(|(key, pod)| (key.name.clone(), image(pod).to_owned()))
        .collect()
}

fn listed(pods: &[(&str, &str, i64)], revision: i64) -> ApiView {
    let mut view = ApiView::default();
    view.listed(
        pods.iter()
            .map(|(name, image, revision)| stored(name, image, *revision))
            .collect(),
        revision,
    );
    view
}

#[test]
fn a_hint_that_runs_ahead_of_the_watch_counts_at_once() {
    let mut view = listed(&[("a", "one", 5)], 7);
    view.hinted(hint(HintedChange::Put, "a", "two", 9));
    view.hinted(hint(HintedChange::Put, "b", "one", 10));
    assert_eq!(
        images(&view),
        [("a".into(), "two".into()), ("b".into(), "one".into())]
    );
}

#[test]
fn old_news_of_a_pod_that_is_gone_stays_old_over_a_restart_and_a_lost_position() {
    let mut view = listed(&[("a", "one", 5)], 7);
    let gone = event(WatchEventType::Deleted, Some(stored("a", "one", 9)), 9);
    view.watched(gone);
    view.forget_position();
    view.hinted(hint(HintedChange::Put, "a", "one", 8));
    assert!(images(&view).is_empty(), "after a lost position");
    let mut restarted = ApiView::new([], view.newest());
    assert_eq!(restarted.resume_from(), None, "it has to list");
    restarted.hinted(hint(HintedChange::Put, "a", "one", 8));
    assert!(images(&restarted).is_empty(), "after a restart");
    restarted.hinted(hint(HintedChange::Put, "a", "two", 10));
    assert_eq!(images(&restarted), [("a".into(), "two".into())]);
}

#[test]
fn the_revision_of_a_deletion_that_was_hinted_counts_as_newest() {
    let mut view = listed(&[("a", "one", 5)], 7);
    view.hinted(hint(HintedChange::Deleted, "a", "one", 9));
    assert_eq!(view.newest(), 9);
}

#[test]
fn a_hint_that_the_watch_or_the_list_has_passed_is_old_news() {
    let mut view = listed(&[("a", "two", 5)], 7);
    view.hinted(hint(HintedChange::Put, "a", "one", 4));
    view.hinted(hint(HintedChange::Put, "deleted-at-6", "one", 3));
    view.hinted(hint(HintedChange::Deleted, "a", "one", 4));
    assert_eq!(images(&view), [("a".into(), "two".into())]);
    assert_eq!(view.resume_from(), Some(7));
}

#[test]
fn an_event_of_the_watch_that_is_older_than_a_hint_changes_nothing() {
    let mut view = listed(&[("a", "one", 5)], 7);
    view.hinted(hint(HintedChange::Put, "a", "three", 9));
    view.watched(event(WatchEventType::Modified, Some(stored("a", "two", 8)), 8));
    assert_eq!(images(&view), [("a".into(), "three".into())]);
    view.hinted(hint(HintedChange::Deleted, "a", "three", 10));
    view.watched(event(WatchEventType::Modified, Some(stored("a", "three", 9)), 9));
    assert_eq!(images(&view), []);
    assert_eq!(
        view.watched(event(WatchEventType::Deleted, Some(stored("a", "three", 9)), 10)),
        Next::GoOn
    );
    assert_eq!(view.resume_from(), Some(10));
}

#[test]
fn a_hint_that_the_watch_does_not_confirm_asks_for_a_list() {
    let mut view = listed(&[], 7);
    view.hinted(hint(HintedChange::Put, "forged", "one", 9));
    assert_eq!(view.resume_from(), None, "a reconnect lists");
    assert_eq!(view.watched(event(WatchEventType::Bookmark, None, 8)), Next::GoOn);
    assert_eq!(
        view.watched(event(WatchEventType::Bookmark, None, 9)),
        Next::Relist
    );
    view.listed(vec![], 9);
    assert_eq!(images(&view), []);
}

#[test]
fn the_nodes_own_reports_do_not_count_as_a_change() {
    let mut view = listed(&[("a", "one", 5)], 5);
    let before = view.pods().next().unwrap().1.clone();
    let mut reported = stored("a", "one", 6);
    reported.status.get_or_insert_default().phase = "Running".into();
    view.watched(event(WatchEventType::Modified, Some(reported.clone()), 6));
    assert!(Arc::ptr_eq(&before, view.pods().next().unwrap().1));

    reported.status.get_or_insert_default().phase = "Succeeded".into();
    view.watched(event(WatchEventType::Modified, Some(reported), 7));
    let phase = view.pods().next().unwrap().1.status.clone().unwrap().phase;
    assert_eq!(phase, "Succeeded");
}

#[rstest::rstest]
#[case::a_readiness_gate("example.org/served", "")]
#[case::the_node_monitor("Ready", clone8s::rules::NODE_NOT_READY)]
fn what_others_say_of_a_pod_counts_as_a_change(#[case] condition: &str, #[case] reason: &str) {
    let mut view = listed(&[("a", "one", 5)], 5);
    let mut reported = stored("a", "one", 6);
    let status = reported.status.get_or_insert_default();
    status.conditions.push(clone8s::v1::Condition {
        r#type: condition.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        ..Default::default()
    });
    view.watched(event(WatchEventType::Modified, Some(reported), 6));
    assert_eq!(view.pods().next().unwrap().1.resource_version(), 6);
}

#[test]
fn a_pod_marked_for_deletion_stays_until_the_apiserver_lets_go_of_it() {
    let mut view = listed(&[("a", "one", 5)], 5);
    let mut terminating = stored("a", "one", 6);
    terminating.metadata_mut().deletion_timestamp = Some(pbjson_types::Timestamp { seconds: 1, nanos: 0 });
    view.watched(event(WatchEventType::Modified, Some(terminating.clone()), 6));
    assert!(
        view.pods()
            .next()
            .unwrap()
            .1
            .metadata()
            .unwrap()
            .deletion_timestamp
            .is_some()
    );
    view.watched(event(WatchEventType::Deleted, Some(terminating), 7));
    assert_eq!(images(&view), []);
}

/// One write of the store, to one of three pods.
#[derive(Debug, Clone)]
struct Write {
    name: &'static str,
    image: Option<u8>,
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = (
        prop::sample::select(vec!["a", "b", "c"]),
        prop::option::weighted(0.7, 0..200u8),
    );
    prop::collection::vec(write.prop_map(|(name, image)| Write { name, image }), 1..30)
}

proptest! {
    /// Whatever hints come, at whatever time, doubled and out of order: once the watch has shown every write, the view
    /// is what the store holds.
    #[test]
    fn hints_never_change_where_the_watch_arrives(
        history in writes(),
        hints in prop::collection::vec((0..30usize, 0..30usize), 0..40),
    ) {
        let mut truth: BTreeMap<&str, (String, i64)> = BTreeMap::new();
        let mut events = Vec::new();
        let mut all_hints = Vec::new();
        for (revision, write) in (2i64..).zip(&history) {
            match write.image {
                Some(image) => {
                    let image = image.to_string();
                    let pod = stored(write.name, &image, revision);
                    let kind = if truth.contains_key(write.name) {
                        WatchEventType::Modified
                    } else {
                        WatchEventType::Added
                    };
                    truth.insert(write.name, (image.clone(), revision));
                    events.push(event(kind, Some(pod), revision));
                    all_hints.push(hint(HintedChange::Put, write.name, &image, revision));
                }
                None => if let Some((image, last)) = truth.remove(write.name) {
                    events.push(event(WatchEventType::Deleted, Some(stored(write.name, &image, last)), revision));
                    all_hints.push(hint(HintedChange::Deleted, write.name, &image, revision));
                },
            }
        }
        let mut view = listed(&[], 1);
        for (index, event) in events.into_iter().enumerate() {
            for (_, which) in hints.iter().filter(|(when, _)| *when == index) {
                if let Some(hint) = all_hints.get(*which) {
                    view.hinted(hint.clone());
                }
            }
            prop_assert_eq!(view.watched(event), Next::GoOn);
        }
        let expected: Vec<_> =
            truth.into_iter().map(|(name, (image, _))| (name.to_owned(), image)).collect();
        prop_assert_eq!(images(&view), expected);
        prop_assert!(view.resume_from().is_some());
    }
}
