use clone8s::{
    object::Object,
    v1::{NodeStatus, ObjectMeta, PodSpec, PodStatus},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(40);

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: name.to_owned(),
        ..ObjectMeta::default()
    }
}

fn node(name: &str, ready: &str, heartbeat: i64) -> Node {
    Node {
        metadata: Some(meta(name)),
        spec: None,
        status: Some(NodeStatus {
            conditions: vec![Condition {
                r#type: "Ready".to_owned(),
                status: ready.to_owned(),
                last_heartbeat_time: Some(Timestamp {
                    seconds: heartbeat,
                    nanos: 0,
                }),
                ..Condition::default()
            }],
            ..NodeStatus::default()
        }),
    }
}

fn pod(name: &str, node: &str, phase: &str, started: bool) -> Pod {
    Pod {
        metadata: Some(meta(name)),
        spec: Some(PodSpec {
            node_name: node.to_owned(),
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: phase.to_owned(),
            start_time: started.then(Timestamp::default),
            ..PodStatus::default()
        }),
    }
}

fn heard(nodes: Vec<Node>, now: Instant) -> Silence {
    let mut silence = Silence::new(PATIENCE);
    silence.apply(Update::Replaced(nodes), now);
    silence
}

fn names(objects: &[impl Object]) -> Vec<&str> {
    objects.iter().map(Object::name).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_silent_by_our_clock_whatever_its_own_says() {
    let start = Instant::now();
    // Its clock is years behind: that alone is no silence.
    let mut silence = heard(vec![node("n1", "True", 7)], start);
    let soon = start + Duration::from_secs(39);
    assert!(silence.fallen_silent(soon).is_empty());
    // The same heartbeat again is none.
    silence.apply(Update::Changed(node("n1", "True", 7)), soon);
    assert_eq!(names(&silence.fallen_silent(start + PATIENCE)), ["n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_starts_the_count_again() {
    let start = Instant::now();
    let mut silence = heard(vec![node("n1", "True", 7)], start);
    silence.apply(
        Update::Changed(node("n1", "True", 8)),
        start + Duration::from_secs(30),
    );
    assert!(silence.fallen_silent(start + PATIENCE).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_is_marked_once_and_then_counts_as_unreachable() {
    let start = Instant::now();
    let mut silence = heard(vec![node("n1", "True", 7), node("n2", "False", 7)], start);
    let later = start + PATIENCE;
    assert_eq!(names(&silence.fallen_silent(later)), ["n1", "n2"]);
    silence.apply(Update::Changed(node("n1", "Unknown", 7)), later);
    assert_eq!(names(&silence.fallen_silent(later)), ["n2"]);
    assert_eq!(silence.unreachable().collect::<Vec<_>>(), ["n1"]);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_lost_node_are_ended_after_the_patience_and_not_before() {
    let start = Instant::now();
    let mut silence = heard(vec![node("n1", "True", 7)], start);
    let pods = || {
        vec![
            pod("here", "n1", "Running", true),
            pod("lost", "gone", "Running", true),
            pod("done", "gone", "Succeeded", true),
            pod("early", "gone", "Pending", false),
        ]
    };
    assert!(silence.lost(pods(), start).is_empty());
    assert!(silence.lost(pods(), start + Duration::from_secs(39)).is_empty());
    assert_eq!(names(&silence.lost(pods(), start + PATIENCE)), ["lost"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_of_a_lost_node_goes_even_if_it_never_started() {
    let start = Instant::now();
    let mut silence = heard(Vec::new(), start);
    let pods = || {
        let mut deleted = pod("early", "gone", "Pending", false);
        deleted.metadata.get_or_insert_default().deletion_timestamp = Some(Timestamp::default());
        vec![deleted]
    };
    silence.lost(pods(), start);
    assert_eq!(names(&silence.lost(pods(), start + PATIENCE)), ["early"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_is_missed_from_nothing_again() {
    let start = Instant::now();
    let mut silence = heard(Vec::new(), start);
    let pods = || vec![pod("p", "n1", "Running", true)];
    silence.lost(pods(), start);
    silence.apply(Update::Changed(node("n1", "True", 7)), start);
    silence.lost(pods(), start + Duration::from_secs(20));
    silence.apply(
        Update::Deleted(node("n1", "True", 7)),
        start + Duration::from_secs(21),
    );
    silence.lost(pods(), start + Duration::from_secs(30));
    assert!(silence.lost(pods(), start + PATIENCE).is_empty());
}
