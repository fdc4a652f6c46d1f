use clone8s::{
    object::Object,
    v1::{LeaseSpec, NodeStatus, ObjectMeta, PodSpec, PodStatus},
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

fn lease(name: &str, renewed: i64) -> Lease {
    Lease {
        metadata: Some(meta(name)),
        spec: Some(LeaseSpec {
            renew_time: Some(Timestamp {
                seconds: renewed,
                nanos: 0,
            }),
            ..LeaseSpec::default()
        }),
    }
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

#[tokio::test(start_paused = true)]
async fn a_renewal_of_its_lease_is_a_heartbeat_too() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut silence = heard(vec![node("n1", "True", 7)], start);
    silence.apply_lease(Update::Replaced(vec![lease("n1", 1)]), after(30));
    assert!(silence.fallen_silent(after(69)).is_empty());
    // The same renewal again is none.
    silence.apply_lease(Update::Changed(lease("n1", 1)), after(69));
    assert_eq!(names(&silence.fallen_silent(after(70))), ["n1"]);
    assert!(!silence.renewed(&lease("n1", 1), after(70)));
    assert!(silence.renewed(&lease("n1", 2), after(70)));
    assert!(silence.fallen_silent(after(109)).is_empty());
    // Without its lease, its last report counts.
    silence.apply_lease(Update::Deleted(lease("n1", 2)), after(71));
    assert_eq!(names(&silence.fallen_silent(after(71))), ["n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_a_node_is_ownerless_once_nobody_renews_it() {
    let start = Instant::now();
    let mut silence = heard(vec![node("n1", "True", 7)], start);
    silence.apply_lease(Update::Replaced(vec![lease("n1", 1), lease("n2", 1)]), start);
    assert!(silence.ownerless(start).is_empty());
    assert_eq!(silence.ownerless(start + PATIENCE), ["n2"]);
    silence.renewed(&lease("n2", 2), start + PATIENCE);
    assert!(silence.ownerless(start + PATIENCE).is_empty());
}
