use std::time::Duration;

use super::*;
use crate::sources::fixtures::{image, pod, stored};

fn seen(name: &str, image: &str, revision: i64, change: HintedChange) -> Command {
    Command::Stored(Hint {
        pod: Arc::new(stored(name, image, revision)),
        revision,
        change,
    })
}

fn wanted(name: &str, image: &str) -> Command {
    Command::Apply(Box::new(pod(name, image)))
}

fn unwanted(name: &str, uid: &str) -> Command {
    Command::Remove {
        key: PodKey::new("default", name),
        uid: uid.to_owned(),
    }
}

fn apply(pods: &mut QueuePods, command: Command) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    pods.apply(command, Uuid::new_v4(), now);
}

fn images(pods: &QueuePods) -> Vec<(&str, &str)> {
    pods.pods()
        .iter()
        .map(|(key, saved)| (key.name.as_str(), image(&saved.pod)))
        .collect()
}

#[test]
fn revisions_that_were_seen_are_dropped_for_each_object() {
    let mut pods = QueuePods::default();
    apply(&mut pods, seen("a", "two", 5, HintedChange::Put));
    apply(&mut pods, seen("a", "one", 4, HintedChange::Put));
    apply(&mut pods, seen("b", "one", 2, HintedChange::Put));
    assert_eq!(images(&pods), [("a", "two"), ("b", "one")]);
    apply(&mut pods, seen("a", "two", 4, HintedChange::Deleted));
    assert_eq!(images(&pods).len(), 2, "an old deletion is no news");
    apply(&mut pods, seen("a", "two", 6, HintedChange::Deleted));
    apply(&mut pods, seen("a", "two", 5, HintedChange::Put));
    assert_eq!(
        images(&pods),
        [("b", "one")],
        "what was deleted does not come back"
    );
}

#[test]
fn a_request_that_comes_again_changes_nothing() {
    let mut pods = QueuePods::default();
    apply(&mut pods, wanted("a", "one"));
    let once = pods.pods().clone();
    apply(&mut pods, wanted("a", "one"));
    assert_eq!(pods.pods(), &once);
}

#[test]
fn an_update_keeps_the_identity_and_counts_the_change() {
    let mut pods = QueuePods::default();
    apply(&mut pods, wanted("a", "one"));
    let before = pods.shown().into_values().next().unwrap();
    apply(&mut pods, wanted("a", "two"));
    let after = pods.shown().into_values().next().unwrap();
    assert_eq!((image(&after), after.uid()), ("two", before.uid()));
    assert_eq!(after.metadata().unwrap().generation, 2);
    assert_eq!(
        after
            .metadata()
            .unwrap()
            .creation_timestamp
            .as_ref()
            .unwrap()
            .seconds,
        5
    );
}

#[test]
fn a_pod_added_after_its_deletion_is_another_pod() {
    let mut pods = QueuePods::default();
    apply(&mut pods, wanted("a", "one"));
    let first = pods.shown().into_values().next().unwrap().uid().to_owned();
    apply(&mut pods, unwanted("a", "someone-elses"));
    assert_eq!(pods.pods().len(), 1, "a deletion with a uid means that one alone");
    apply(&mut pods, unwanted("a", &first));
    apply(&mut pods, unwanted("a", ""));
    assert_eq!(pods.pods().len(), 0);
    apply(&mut pods, wanted("a", "one"));
    assert_ne!(pods.shown().into_values().next().unwrap().uid(), first);
}

#[test]
fn the_memory_of_deletions_is_bounded() {
    let mut pods = QueuePods::default();
    for revision in 0..2000 {
        let name = format!("pod-{revision}");
        apply(&mut pods, seen(&name, "one", revision + 1, HintedChange::Deleted));
    }
    assert_eq!(pods.deletions.len(), DELETIONS_KEPT);
}
