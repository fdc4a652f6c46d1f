use rstest::rstest;

use super::*;
use crate::{
    pod::{
        observed::Exit,
        testing::{container, pod, sidecar, with_init},
    },
    probe::Health,
    runtime::{ContainerId, SandboxId},
};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}

/// Init container "a", sidecar "s", init container "b", then "m".
fn spec(policy: &str) -> DesiredPod {
    let mut pod = with_init(
        &pod("p", vec![container("m", "m:1")]),
        vec![container("a", "a:1"), sidecar("s", "s:1"), container("b", "b:1")],
    );
    std::sync::Arc::make_mut(&mut pod.pod)
        .spec
        .as_mut()
        .unwrap()
        .restart_policy = policy.to_owned();
    pod
}

/// A run as "<container> <state>", with "old" for one in a sandbox that is gone and "stale" for one of an older spec.
fn run(pod: &DesiredPod, words: &str, number: usize) -> Run {
    let mut words = words.split(' ');
    let name = words.next().unwrap();
    let rest: Vec<_> = words.collect();
    let has = |word: &str| rest.contains(&word);
    let exit = |code| {
        RunState::Exited(Exit {
            code,
            reason: String::new(),
            message: String::new(),
            started_at: Some(at(1)),
            finished_at: at(2),
        })
    };
    Run {
        id: ContainerId::new(format!("c{number}")),
        sandbox: SandboxId::new(if has("old") { "s0" } else { "s1" }),
        uid: pod.uid(),
        name: name.to_owned(),
        state: match rest[0] {
            "created" => RunState::Created,
            "done" => exit(0),
            "failed" => exit(1),
            "unknown" => RunState::Unknown,
            _ => RunState::Running { started_at: at(1) },
        },
        created_at: at(number as u64),
        spec_hash: if has("stale") {
            "stale".to_owned()
        } else {
            hash::container_hash(pod, &pod.spec().container(name).unwrap())
        },
        restart_count: u32::try_from(number).unwrap(),
        backoff_step: 0,
        image: String::new(),
        image_id: String::new(),
        health: Health {
            started: !has("unstarted"),
            ..Health::UNPROBED
        },
        sidecar: None,
        pre_stop: None,
        allocation: None,
        post_start: if has("opening") {
            PostStart::Pending
        } else {
            PostStart::Over
        },
    }
}

fn stage(policy: &str, runs: &[&str], has_sandbox: bool) -> Stage {
    let pod = spec(policy);
    let sandbox = Sandbox {
        id: SandboxId::new("s1"),
        uid: pod.uid(),
        attempt: 1,
        ready: true,
        created_at: at(0),
        spec_hash: hash::sandbox_hash(&pod),
        grace: None,
        ip: None,
    };
    let runs = runs
        .iter()
        .enumerate()
        .map(|(number, words)| run(&pod, words, number));
    let observed = Observed {
        sandboxes: Vec::new(),
        containers: runs.collect(),
    };
    let sandbox = has_sandbox.then_some(&sandbox);
    Stage::of(&pod, &observed, sandbox, &Intervals::default())
}

#[rstest]
#[case::nothing_yet(&[], Stage::Init(0))]
#[case::the_first_runs(&["a running"], Stage::Init(0))]
#[case::the_first_has_failed(&["a failed"], Stage::Init(0))]
#[case::the_first_is_done(&["a done"], Stage::Init(1))]
#[case::done_is_done_whatever_the_spec_says_now(&["a done stale"], Stage::Init(1))]
#[case::a_sidecar_is_made(&["a done", "s created"], Stage::Init(1))]
#[case::a_sidecar_has_not_started(&["a done", "s running unstarted"], Stage::Init(1))]
#[case::a_sidecars_hook_is_under_way(&["a done", "s running opening"], Stage::Init(1))]
#[case::a_sidecar_has_started(&["a done", "s running"], Stage::Init(2))]
#[case::a_sidecar_of_an_older_spec(&["a done", "s running stale"], Stage::Init(1))]
#[case::a_sidecar_has_ended_while_the_next_runs(&["a done", "s failed", "b running"], Stage::Init(1))]
#[case::all_are_past(&["a done", "s running", "b done"], Stage::Main)]
#[case::a_container_was_made(&["a done", "s running", "b done", "m created"], Stage::Main)]
#[case::a_sidecar_crashes_later(&["a done", "s failed", "b done", "m running"], Stage::Main)]
#[case::the_init_runs_are_gone(&["m running"], Stage::Main)]
#[case::a_container_has_crashed(&["a done", "s running", "b done", "m failed"], Stage::Main)]
#[case::the_sandbox_was_lost(&["a done old", "s failed old", "b done old", "m failed old"], Stage::Init(0))]
#[case::the_first_is_done_again(&["a done old", "s failed old", "m failed old", "a done"], Stage::Init(1))]
#[case::nobody_knows(&["a done", "s unknown"], Stage::Init(1))]
fn a_pods_stage_follows_from_the_runs_in_its_sandbox(#[case] runs: &[&str], #[case] expected: Stage) {
    assert_eq!(stage("Always", runs, true), expected);
}

#[rstest]
#[case::never_and_failed("Never", &["a failed"], true, Stage::Failed(0))]
#[case::the_last("Never", &["a done", "s running", "b failed"], true, Stage::Failed(2))]
#[case::failed_stays_failed_without_its_sandbox("Never", &["a done old", "s failed old", "b failed old"], false, Stage::Failed(2))]
#[case::another_spec_is_another_try("Never", &["a failed stale"], true, Stage::Init(0))]
#[case::a_sidecar_never_fails_for_good("Never", &["a done", "s failed"], true, Stage::Init(1))]
#[case::on_failure_is_tried_again("OnFailure", &["a failed"], true, Stage::Init(0))]
#[case::over("Never", &["a done", "s running", "b done", "m failed"], true, Stage::Over)]
#[case::over_and_given_back("OnFailure", &["a done old", "s failed old", "b done old", "m done old"], false, Stage::Over)]
#[case::on_failure_goes_on("OnFailure", &["a done", "s running", "b done", "m failed"], true, Stage::Main)]
fn the_restart_policy_says_what_is_for_good(
    #[case] policy: &str,
    #[case] runs: &[&str],
    #[case] has_sandbox: bool,
    #[case] expected: Stage,
) {
    assert_eq!(stage(policy, runs, has_sandbox), expected);
}

#[rstest]
#[case(Stage::Init(0), [true, false, false, false])]
#[case(Stage::Init(1), [false, true, false, false])]
#[case(Stage::Init(2), [false, true, true, false])]
#[case(Stage::Main, [false, true, false, true])]
#[case(Stage::Over, [false; 4])]
#[case(Stage::Failed(2), [false; 4])]
fn a_stage_says_who_may_start(#[case] stage: Stage, #[case] expected: [bool; 4]) {
    let pod = spec("Always");
    let found: Vec<_> = roles(pod.spec()).map(|(role, _)| stage.may_start(role)).collect();
    assert_eq!(found, expected);
}

#[test]
fn of_several_pods_each_ends_in_its_own_order() {
    let pod = spec("Always");
    let of = |name: &str, place, uid: &str| Run {
        sidecar: place,
        uid: PodUid::new(uid),
        ..run(&pod, &format!("{name} running"), 0)
    };
    let runs = [
        of("m", None, "one"),
        of("s", Some(1), "one"),
        of("a", Some(0), "two"),
        of("s", Some(1), "two"),
    ];
    let all: Vec<_> = runs.iter().collect();
    let first: Vec<_> = first_to_end(&all)
        .into_iter()
        .map(|run| (run.uid.as_str(), run.name.as_str()))
        .collect();
    assert_eq!(first, [("one", "m"), ("two", "s")]);
}
