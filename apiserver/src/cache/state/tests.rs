use clone8s::{
    object::Object as _,
    v1::{ObjectMeta, Pod, PodSpec},
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;

const PODS: &str = "/clone8s/objects/pods/";

fn value(node: &str, filler: usize) -> bytes::Bytes {
    let pod = Pod {
        metadata: Some(ObjectMeta {
            annotations: [("filler".to_owned(), "x".repeat(filler))].into(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            node_name: node.into(),
            ..PodSpec::default()
        }),
        status: None,
    };
    pod.encode_to_vec().into()
}

fn put(path: &str, node: &str, revision: i64) -> Change {
    Change {
        key: format!("{PODS}{path}"),
        value: Some(value(node, 0)),
        previous: None,
        revision: Revision(revision),
    }
}

fn delete(path: &str, revision: i64) -> Change {
    Change {
        value: None,
        ..put(path, "", revision)
    }
}

fn part(prefix: &str, node: Option<&str>) -> Part {
    Part {
        prefix: format!("{PODS}{prefix}"),
        node: node.map(str::to_owned),
    }
}

/// Keys without the kind's prefix, and revisions.
fn told(entries: &[Entry]) -> Vec<(String, i64)> {
    let path = |entry: &Entry| entry.key().strip_prefix(PODS).unwrap().to_owned();
    entries
        .iter()
        .map(|entry| (path(entry), entry.revision().0))
        .collect()
}

#[test]
fn an_entry_carries_its_revision_and_its_node() {
    let mut state = State::<Pod>::empty(Revision(0));
    state.apply(&put("default/web", "n1", 7));
    let entry = state.get("/clone8s/objects/pods/default/web").unwrap();
    assert_eq!(entry.node(), Some("n1"));
    assert_eq!(entry.decode::<Pod>().unwrap().resource_version(), 7);
}

#[test]
fn a_change_that_comes_again_is_one_event() {
    let mut state = State::<Pod>::empty(Revision(0));
    for _ in 0..2 {
        state.apply(&put("default/web", "", 7));
    }
    for _ in 0..2 {
        state.apply(&delete("default/web", 8));
    }
    let events = state.events(Revision(0), Revision(8)).unwrap();
    let revisions: Vec<_> = events.iter().map(|event| event.revision().0).collect();
    assert_eq!(revisions, [7, 8]);
}

#[test]
fn events_beyond_what_is_complete_are_held_back_and_a_revision_is_given_whole() {
    let mut state = State::<Pod>::empty(Revision(0));
    for at in 0..100 {
        state.apply(&put(&format!("default/p-{at:03}"), "", 5));
    }
    state.apply(&put("default/last", "", 6));
    assert_eq!(state.events(Revision(0), Revision(4)).unwrap().len(), 0);
    assert_eq!(state.events(Revision(0), Revision(5)).unwrap().len(), 100);
    assert_eq!(state.events(Revision(0), Revision(6)).unwrap().len(), 100);
    assert_eq!(state.events(Revision(5), Revision(6)).unwrap().len(), 1);
}

#[test]
fn the_events_take_a_bounded_room_and_who_needs_older_ones_is_told() {
    let mut state = State::<Pod>::empty(Revision(0));
    for revision in 1..=100 {
        state.apply(&Change {
            value: Some(value("", 100_000)),
            ..put("default/web", "", revision)
        });
    }
    assert!(state.event_bytes <= MIN_EVENT_BYTES);
    assert!(state.floor() > Revision(50), "{:?}", state.floor());
    let floor = state.floor();
    assert!(state.events(Revision(floor.0 - 1), Revision(100)).is_none());
    assert!(state.events(floor, Revision(100)).is_some());
    assert!(
        state
            .page(&part("", None), "", 10, Revision(floor.0 - 1))
            .is_none()
    );
    assert_eq!(
        told(&state.page(&part("", None), "", 10, floor).unwrap()),
        [("default/web".to_owned(), floor.0)]
    );
}

#[test]
fn the_books_are_empty_when_all_is_gone() {
    let mut state = State::<Pod>::empty(Revision(0));
    state.apply(&put("default/web", "n1", 1));
    state.apply(&put("default/web", "n2", 2));
    state.apply(&delete("default/web", 3));
    assert_eq!((state.bytes, state.objects.len(), state.by_node.len()), (0, 0, 0));
}

/// What a page shows of an object.
type Seen = BTreeMap<String, (String, i64)>;

proptest! {
    #[test]
    fn a_page_shows_each_state_of_the_past_as_it_was(
        writes in prop::collection::vec((0_usize..2, 0_usize..4, prop::option::of(0_usize..3)), 1..40),
        limit in 1_usize..5,
    ) {
        let mut state = State::<Pod>::empty(Revision(0));
        let mut model = Seen::new();
        let mut past = vec![model.clone()];
        for (revision, (namespace, name, node)) in (1..).zip(writes) {
            let path = format!("ns-{namespace}/p-{name}");
            if let Some(node) = node {
                // The first has no node.
                let node = ["", "n1", "n2"][node];
                state.apply(&put(&path, node, revision));
                model.insert(path, (node.to_owned(), revision));
            } else {
                state.apply(&delete(&path, revision));
                model.remove(&path);
            }
            past.push(model.clone());
        }
        for (revision, model) in (0..).zip(&past) {
            for (prefix, node) in [("", None), ("ns-1/", None), ("", Some("n1")), ("ns-0/", Some("n2"))] {
                let part = part(prefix, node);
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(path, (on, _))| path.starts_with(prefix) && node.is_none_or(|node| node == on))
                    .map(|(path, (_, revision))| (path.clone(), *revision))
                    .collect();
                let mut found = Vec::new();
                let mut after = String::new();
                loop {
                    let page = state.page(&part, &after, limit, Revision(revision)).unwrap();
                    let Some(last) = page.last() else { break };
                    after = last.key().to_string();
                    found.extend(told(&page));
                }
                prop_assert_eq!(found, expected);
            }
        }
    }
}
