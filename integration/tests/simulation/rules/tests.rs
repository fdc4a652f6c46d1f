//! Histories that break a rule, each beside what it differs from.

use clone8s::v1::{Condition, Container, ContainerStatus, ObjectMeta, PodSpec, PodStatus};

use super::*;

fn pod(node: &str) -> Pod {
    Pod {
        metadata: Some(ObjectMeta {
            name: "web".to_owned(),
            uid: "uid".to_owned(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            node_name: node.to_owned(),
            containers: vec![Container {
                name: "main".to_owned(),
                image: "web:1".to_owned(),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn with_status(phase: &str, is_ready: &str, restarts: i32) -> Pod {
    let mut pod = pod("one");
    pod.status = Some(PodStatus {
        phase: phase.to_owned(),
        conditions: vec![Condition {
            r#type: "Ready".to_owned(),
            status: is_ready.to_owned(),
            ..Condition::default()
        }],
        container_statuses: vec![ContainerStatus {
            name: "main".to_owned(),
            restart_count: restarts,
            ..ContainerStatus::default()
        }],
        ..PodStatus::default()
    });
    pod
}

fn ending(mut pod: Pod) -> Pod {
    pod.metadata_mut().deletion_timestamp = Some(pbjson_types::Timestamp::default());
    pod
}

fn with_policy(mut pod: Pod, policy: &str) -> Pod {
    pod.spec.get_or_insert_default().restart_policy = policy.to_owned();
    pod
}

fn stored(pod: Pod) -> Fact {
    Fact::Stored(Box::new(pod))
}

fn run(count: u32) -> Run {
    Run {
        pod: "web".to_owned(),
        uid: "uid".to_owned(),
        container: "main".to_owned(),
        count,
        image: "web:1".to_owned(),
    }
}

fn started(node: NodeName, count: u32) -> Fact {
    let (id, run) = (format!("container-{count}"), run(count));
    Fact::Started { node, id, run }
}

fn ended(count: u32, code: i32) -> Fact {
    let (node, id, code) = ("one", format!("container-{count}"), Some(code));
    Fact::Ended { node, id, code }
}

fn stop() -> Fact {
    let (node, id) = ("one", "container-0".to_owned());
    Fact::StopAsked { node, id }
}

/// A minute passes between any two.
fn first_broken(facts: impl IntoIterator<Item = Fact>) -> Option<&'static str> {
    let mut checker = Checker::default();
    let entries = (0..).map(Duration::from_mins).zip(facts);
    let mut taken = entries.map(|(at, fact)| checker.take(&Entry { at, fact }));
    taken.find_map(Result::err).map(|broken| broken.rule)
}

#[test]
fn the_life_of_a_pod_breaks_no_rule() {
    let facts = [
        stored(pod("")),
        stored(pod("one")),
        started("one", 0),
        stored(with_status("Running", "True", 0)),
        ended(0, 1),
        stored(with_status("Running", "False", 0)),
        started("one", 1),
        stored(with_status("Running", "True", 1)),
        stored(ending(with_status("Running", "True", 1))),
        Fact::StopAsked {
            node: "one",
            id: "container-1".to_owned(),
        },
        ended(1, 143),
        stored(ending(with_status("Failed", "False", 1))),
        Fact::Removed("uid".to_owned()),
    ];
    assert_eq!(first_broken(facts), None);
}

#[test]
fn what_breaks_a_rule_is_told() {
    let told = Fact::Told {
        node: "one",
        uid: "uid".to_owned(),
    };
    let start = Fact::StartAsked {
        node: "one",
        run: run(0),
    };
    let removed = || Fact::Removed("uid".to_owned());
    let bound = || stored(pod("one"));
    let cases = [
        (
            "a container runs once at a time",
            vec![bound(), started("one", 0), started("one", 1)],
        ),
        ("a pod runs where it is bound", vec![bound(), started("two", 0)]),
        (
            "a pod runs where it is bound",
            vec![stored(pod("")), started("one", 0)],
        ),
        ("a pod stays on its node", vec![bound(), stored(pod("two"))]),
        ("only what somebody wants runs", vec![started("one", 0)]),
        (
            "a pod is removed once nothing of it runs",
            vec![bound(), started("one", 0), removed()],
        ),
        (
            "what was removed never runs",
            vec![bound(), removed(), started("one", 0)],
        ),
        (
            "a container of a terminating pod is never started",
            vec![stored(ending(pod("one"))), told, start],
        ),
        (
            "nothing is stopped without a reason",
            vec![bound(), started("one", 0), stop()],
        ),
        (
            "each run has a number of its own",
            vec![bound(), started("one", 0), ended(0, 1), started("one", 0)],
        ),
        (
            "the restart policy holds",
            vec![
                stored(with_policy(pod("one"), "OnFailure")),
                started("one", 0),
                ended(0, 0),
                started("one", 1),
            ],
        ),
        (
            "the restart policy holds",
            vec![
                stored(with_policy(pod("one"), "Never")),
                started("one", 0),
                ended(0, 1),
                started("one", 1),
            ],
        ),
        (
            "a pod that is over stays over",
            vec![stored(with_status("Failed", "False", 0)), started("one", 1)],
        ),
        (
            "a phase never goes back",
            vec![
                stored(with_status("Failed", "False", 0)),
                stored(with_status("Running", "False", 0)),
            ],
        ),
        (
            "a phase never goes back",
            vec![
                stored(with_status("Running", "True", 0)),
                stored(with_status("Pending", "False", 0)),
            ],
        ),
        (
            "restarts never go back",
            vec![
                stored(with_status("Running", "True", 2)),
                stored(with_status("Running", "True", 1)),
            ],
        ),
        (
            "a healthy pod stays ready",
            vec![
                bound(),
                started("one", 0),
                stored(with_status("Running", "True", 0)),
                stored(with_status("Running", "False", 0)),
            ],
        ),
    ];
    for (rule, facts) in cases {
        assert_eq!(first_broken(facts.clone()), Some(rule), "{facts:#?}");
    }
}

#[test]
fn a_pod_whose_container_has_ended_or_whose_node_is_silent_may_lose_its_readiness() {
    let ready = || stored(with_status("Running", "True", 0));
    let lost = || stored(with_status("Running", "False", 0));
    let ended = [
        stored(pod("one")),
        started("one", 0),
        ready(),
        ended(0, 1),
        lost(),
    ];
    assert_eq!(first_broken(ended), None);
    let mut silent = with_status("Running", "Unknown", 0);
    let conditions = silent.status.iter_mut().flat_map(|status| &mut status.conditions);
    conditions.for_each(|one| one.reason = NODE_NOT_READY.to_owned());
    let silent = [stored(pod("one")), started("one", 0), ready(), stored(silent)];
    assert_eq!(first_broken(silent), None);
}

#[test]
fn a_stop_has_a_reason_where_something_else_is_wanted() {
    let own = |image| Fact::Wanted {
        node: "one",
        pod: "web".to_owned(),
        image,
    };
    assert_eq!(
        first_broken([own(Some("web:1")), started("one", 0), own(None), stop()]),
        None
    );
    let for_nothing = [own(Some("web:1")), started("one", 0), stop()];
    assert_eq!(
        first_broken(for_nothing),
        Some("nothing is stopped without a reason")
    );
    let mut other = pod("one");
    "web:2".clone_into(&mut other.spec.get_or_insert_default().containers[0].image);
    assert_eq!(
        first_broken([stored(pod("one")), started("one", 0), stored(other), stop()]),
        None
    );
}
