use std::collections::BTreeMap;

use clone8s::v1::{Condition, Container, ObjectMeta, PodSpec, PodStatus};

use super::*;

fn pod() -> Pod {
    Pod {
        metadata: Some(ObjectMeta {
            name: "web".to_owned(),
            uid: "uid".to_owned(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            node_name: "one".to_owned(),
            containers: vec![Container {
                name: "main".to_owned(),
                image: "web:1".to_owned(),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: "Running".to_owned(),
            conditions: vec![Condition {
                r#type: "Ready".to_owned(),
                status: "True".to_owned(),
                ..Condition::default()
            }],
            ..PodStatus::default()
        }),
    }
}

fn run(pod: &str, uid: &str) -> Run {
    Run {
        pod: pod.to_owned(),
        uid: uid.to_owned(),
        container: "main".to_owned(),
        count: 0,
        image: "web:1".to_owned(),
    }
}

/// A pod of the API and one of the node's own, both as they are to be.
fn whole() -> State {
    State {
        pods: vec![pod()],
        wanted: BTreeMap::from([(("one", "own".to_owned()), Some("web:1"))]),
        nodes: vec![Found {
            node: "one",
            running: vec![run("web", "uid"), run("own", "own-uid")],
            uids: vec!["uid".to_owned(), "own-uid".to_owned()],
        }],
    }
}

#[test]
fn nothing_is_missing_where_what_runs_is_what_is_wanted() {
    assert_eq!(missing(&whole()), Vec::<String>::new());
}

type Change = fn(&mut State);

#[test]
fn every_difference_is_told() {
    let cases: [(&str, Change); 9] = [
        ("web: is still to end", |state| {
            state.pods[0].metadata_mut().deletion_timestamp = Some(pbjson_types::Timestamp::default());
        }),
        ("web: is on node \"\"", |state| {
            state.pods[0].spec.get_or_insert_default().node_name.clear();
        }),
        ("web: main of web:1 does not run", |state| {
            drop(state.nodes[0].running.remove(0));
        }),
        ("web: main of web:1 does not run", |state| {
            "web:2".clone_into(&mut state.nodes[0].running[0].image);
        }),
        ("web: is over, and web(uid)/main#0 web:1 runs", |state| {
            "Failed".clone_into(&mut state.pods[0].status.get_or_insert_default().phase);
        }),
        (
            "web: runs, and is told to be (\"Pending\", (\"True\", \"\"))",
            |state| {
                "Pending".clone_into(&mut state.pods[0].status.get_or_insert_default().phase);
            },
        ),
        ("own of one: [] and not Some(\"web:1\")", |state| {
            drop(state.nodes[0].running.pop());
        }),
        ("own of one: [\"web:1\"] and not None", |state| {
            state.wanted.values_mut().for_each(|image| *image = None);
        }),
        (
            "one has something of pod left, which nobody wants there",
            |state| {
                state.nodes[0].uids.push("left".to_owned());
            },
        ),
    ];
    for (told, change) in cases {
        let mut state = whole();
        change(&mut state);
        let missing = missing(&state);
        assert!(missing.iter().any(|one| one == told), "{told}: {missing:?}");
    }
}
