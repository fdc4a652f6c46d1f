use clone8s::v1::{Condition, Container, NodeStatus, ObjectMeta, PodSpec, ResourceRequirements};

use super::*;
use crate::conditions::waiting_status;

fn node(name: &str, cpu: &str) -> Node {
    Node {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            ..ObjectMeta::default()
        }),
        status: Some(NodeStatus {
            allocatable: [("cpu".to_owned(), cpu.to_owned())].into(),
            conditions: vec![Condition {
                r#type: "Ready".to_owned(),
                status: "True".to_owned(),
                ..Condition::default()
            }],
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

fn pod(uid: &str, version: i64, cpu: &str) -> Pod {
    Pod {
        metadata: Some(ObjectMeta {
            name: format!("pod-{uid}"),
            namespace: "default".to_owned(),
            uid: uid.to_owned(),
            resource_version: version,
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                resources: Some(ResourceRequirements {
                    requests: [("cpu".to_owned(), cpu.to_owned())].into(),
                    ..ResourceRequirements::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn on(node: &str, mut pod: Pod, version: i64) -> Pod {
    pod.spec.get_or_insert_default().node_name = node.to_owned();
    pod.metadata.get_or_insert_default().resource_version = version;
    pod
}

fn synced(nodes: Vec<Node>, pods: Vec<Pod>) -> State {
    let mut state = State::default();
    state.apply_nodes(Update::Replaced(nodes));
    state.apply_pods(Update::Replaced(pods));
    state
}

/// Pods' uids, each with its node or its reason.
type Decided = Vec<(String, String)>;

/// The pods bound and the pods told to wait, until there is nothing left to do.
fn drain(state: &mut State, now: Instant) -> (Decided, Decided) {
    let (mut bound, mut told) = (Vec::new(), Vec::new());
    while let Some(action) = state.next_action(now) {
        let uid = action.pod().uid().to_owned();
        match action {
            Action::Bind { node, .. } => bound.push((uid, node)),
            Action::Report { reason, .. } => told.push((uid, reason)),
        }
    }
    (bound, told)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_on_half_the_picture() {
    let mut state = State::default();
    state.apply_nodes(Update::Replaced(vec![node("n1", "1")]));
    state.apply_pods(Update::Changed(pod("u1", 1, "1")));
    assert_eq!(state.next_action(Instant::now()), None);
    state.apply_pods(Update::Replaced(vec![
        pod("u1", 1, "1"),
        on("n1", pod("u0", 1, "1"), 1),
    ]));
    let (bound, told) = drain(&mut state, Instant::now());
    assert!(bound.is_empty());
    assert_eq!(told[0].1, "0/1 nodes are available: 1 too little cpu");
}

#[tokio::test(start_paused = true)]
async fn a_burst_does_not_overcommit_while_its_writes_are_on_their_way() {
    let pods = (0..10).map(|i| pod(&format!("u{i}"), i + 1, "400m")).collect();
    let mut state = synced(vec![node("n1", "1"), node("n2", "1")], pods);
    let (bound, told) = drain(&mut state, Instant::now());
    assert_eq!(bound.len(), 4);
    assert_eq!(told.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn older_pods_go_first() {
    let created = |uid: &str, seconds| {
        let mut pod = pod(uid, 1, "1");
        pod.metadata.get_or_insert_default().creation_timestamp =
            Some(pbjson_types::Timestamp { seconds, nanos: 0 });
        pod
    };
    let mut state = synced(
        vec![node("n1", "1")],
        vec![created("young", 20), created("old", 10)],
    );
    let (bound, _) = drain(&mut state, Instant::now());
    assert_eq!(bound[0].0, "old");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_pod_is_told_once_and_bound_when_room_appears() {
    let now = Instant::now();
    let mut state = synced(
        vec![node("n1", "1")],
        vec![on("n1", pod("big", 1, "1"), 1), pod("u1", 2, "500m")],
    );
    let (_, told) = drain(&mut state, now);
    let mut stored = pod("u1", 3, "500m");
    stored.status = Some(waiting_status(
        &stored,
        &told[0].1,
        pbjson_types::Timestamp::default(),
    ));
    state.finished("u1", Some(stored.clone()), now);
    assert_eq!(state.next_action(now), None);
    // A heartbeat, or the status just written, is no news.
    state.apply_nodes(Update::Changed(node("n1", "1")));
    state.apply_pods(Update::Changed(stored));
    assert_eq!(state.next_action(now), None);

    state.apply_pods(Update::Deleted(on("n1", pod("big", 4, "1"), 4)));
    assert_eq!(drain(&mut state, now).0, [("u1".to_owned(), "n1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_gives_the_room_back_and_is_tried_again_later() {
    let now = Instant::now();
    let mut state = synced(vec![node("n1", "1")], vec![pod("u1", 1, "1")]);
    assert_eq!(drain(&mut state, now).0.len(), 1);
    state.finished("u1", None, now);
    assert_eq!(state.next_action(now), None);
    let retry = state.next_retry().unwrap();
    assert_eq!(retry - now, RETRY.0);
    assert_eq!(drain(&mut state, retry).0.len(), 1);
    state.finished("u1", None, retry);
    assert_eq!(state.next_retry().unwrap() - retry, RETRY.0 * 2);
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_of_a_refused_pod_is_tried_at_once() {
    let now = Instant::now();
    let mut state = synced(vec![node("n1", "1")], vec![pod("u1", 1, "1")]);
    drain(&mut state, now);
    state.finished("u1", None, now);
    state.apply_pods(Update::Changed(pod("u1", 2, "1")));
    assert_eq!(drain(&mut state, now).0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_deletion_takes_no_room() {
    let now = Instant::now();
    let mut state = synced(vec![node("n1", "1")], vec![pod("u1", 1, "1")]);
    drain(&mut state, now);
    let bound = on("n1", pod("u1", 1, "1"), 2);
    state.apply_pods(Update::Changed(bound.clone()));
    state.apply_pods(Update::Deleted(bound.clone()));
    state.finished("u1", Some(bound), now);
    state.apply_pods(Update::Changed(pod("u2", 5, "1")));
    assert_eq!(drain(&mut state, now).0, [("u2".to_owned(), "n1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_event_older_than_the_answer_does_not_bind_twice() {
    let now = Instant::now();
    let mut state = synced(vec![node("n1", "2")], vec![pod("u1", 1, "1")]);
    drain(&mut state, now);
    state.finished("u1", Some(on("n1", pod("u1", 1, "1"), 3)), now);
    state.apply_pods(Update::Changed(pod("u1", 2, "1")));
    assert_eq!(state.next_action(now), None);
}

#[tokio::test(start_paused = true)]
async fn an_ended_pod_gives_its_room_back() {
    let now = Instant::now();
    let mut ended = on("n1", pod("u1", 1, "1"), 2);
    ended.status.get_or_insert_default().phase = "Succeeded".to_owned();
    let mut state = synced(
        vec![node("n1", "1")],
        vec![on("n1", pod("u1", 1, "1"), 1), pod("u2", 1, "1")],
    );
    assert_eq!(drain(&mut state, now).0.len(), 0);
    state.finished("u2", None, now);
    state.apply_pods(Update::Changed(ended));
    let later = now + RETRY.0;
    assert_eq!(drain(&mut state, later).0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_relist_forgets_what_it_does_not_name() {
    let now = Instant::now();
    let mut state = synced(vec![node("n1", "1")], vec![on("n1", pod("u1", 1, "1"), 1)]);
    state.apply_pods(Update::Replaced(vec![pod("u2", 2, "1")]));
    assert_eq!(drain(&mut state, now).0.len(), 1);
    state.apply_nodes(Update::Replaced(Vec::new()));
    state.apply_pods(Update::Changed(pod("u3", 3, "1")));
    assert_eq!(drain(&mut state, now).1[0].1, "no node has joined the cluster");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_counted_is_told_why() {
    let now = Instant::now();
    let mut state = synced(vec![node("n1", "1")], vec![pod("u1", 1, "a lot")]);
    let (bound, told) = drain(&mut state, now);
    assert!(bound.is_empty());
    assert!(told[0].1.starts_with("cpu: \"a lot\""), "{}", told[0].1);
}

#[tokio::test(start_paused = true)]
async fn an_unbound_pod_that_is_being_deleted_is_left_alone() {
    let mut deleted = pod("u1", 1, "1");
    deleted.metadata.get_or_insert_default().deletion_timestamp = Some(pbjson_types::Timestamp::default());
    let mut state = synced(vec![node("n1", "1")], vec![deleted]);
    assert_eq!(state.next_action(Instant::now()), None);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_pods_on_a_hundred_nodes_are_decided_within_a_millisecond_each() {
    let nodes = (0..100).map(|i| node(&format!("n{i}"), "100")).collect();
    let pods = (0..10_000).map(|i| pod(&format!("u{i}"), i + 1, "10m")).collect();
    let mut state = synced(nodes, pods);
    let started = std::time::Instant::now();
    let (bound, _) = drain(&mut state, Instant::now());
    assert_eq!(bound.len(), 10_000);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}
