use std::collections::BTreeMap;

use clone8s::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    PodStatus, container_state::State,
};
use rstest::rstest;

use super::*;
use crate::{
    desired::{PodUid, Source},
    status::PodEntry,
};

fn running() -> State {
    State::Running(ContainerStateRunning::default())
}

fn waiting() -> State {
    State::Waiting(ContainerStateWaiting {
        reason: "CrashLoopBackOff".to_owned(),
        message: "back-off 10s".to_owned(),
    })
}

fn terminated() -> State {
    State::Terminated(ContainerStateTerminated::default())
}

fn statuses(restarts: i32, now: State, before: Option<State>) -> PodStatuses {
    let status = ContainerStatus {
        name: "main".to_owned(),
        restart_count: restarts,
        state: Some(ContainerState { state: Some(now) }),
        last_state: Some(ContainerState { state: before }),
        ..ContainerStatus::default()
    };
    let entry = PodEntry {
        uid: PodUid::new("u1"),
        source: Source::Api,
        status: Arc::new(PodStatus {
            container_statuses: vec![status],
            ..PodStatus::default()
        }),
        gone: false,
    };
    Arc::new(BTreeMap::from([(PodKey::new("default", "web"), entry)]))
}

#[rstest]
#[case::runs(1, running(), None, false)]
#[case::ended(1, terminated(), None, true)]
#[case::waits_for_its_next_run(1, waiting(), Some(terminated()), true)]
#[case::was_made_but_not_started(1, waiting(), None, false)]
#[case::a_status_that_is_older_than_the_run(0, terminated(), None, false)]
#[case::the_next_run_has_begun(2, running(), Some(terminated()), true)]
fn a_run_has_ended_when_its_own_status_says_so(
    #[case] restarts: i32,
    #[case] now: State,
    #[case] before: Option<State>,
    #[case] expected: bool,
) {
    let run = Run {
        key: PodKey::new("default", "web"),
        container: "main".to_owned(),
        dir: "/nowhere".into(),
        number: 1,
    };
    assert_eq!(has_ended(&run, &statuses(restarts, now, before)), expected);
}

#[test]
fn a_run_of_a_pod_that_is_gone_has_ended() {
    let run = Run {
        key: PodKey::new("default", "web"),
        container: "main".to_owned(),
        dir: "/nowhere".into(),
        number: 0,
    };
    assert!(has_ended(&run, &PodStatuses::default()));
}

#[test]
fn runs_are_found_by_their_number_and_rotated_files_are_no_runs() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["10.log", "9.log", "9.log.20260102-030405", "notes.txt"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    assert_eq!(runs(dir.path()), [9, 10]);
}
