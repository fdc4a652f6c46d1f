//! Every call of CRI that changes something, with every call that it makes to containerd going wrong in every way.
//!
//! For each: the call goes wrong once, the shim lives on or dies, and the same call, made again, succeeds. The pod is
//! then taken through the rest of its life, and in the end nothing is left of it, neither in containerd nor here.

mod life;
mod network;
mod rig;

use std::{panic, thread};

use rstest::rstest;
use tonic::Code;

use self::{
    network::{Network, isolated},
    rig::{Bench, Step},
};
use crate::containerd::fake::Fault;

/// What becomes of the shim when a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It gets an error, at once or when its patience ends.
    LivesOn,
    /// It is gone at that moment, and a new one takes over.
    Dies,
}

const CASES: [(Fault, Then); 6] = [
    (Fault::Refused, Then::LivesOn),
    (Fault::AnswerLost, Then::LivesOn),
    (Fault::Silent, Then::LivesOn),
    (Fault::DoneAndSilent, Then::LivesOn),
    (Fault::Silent, Then::Dies),
    (Fault::DoneAndSilent, Then::Dies),
];

/// More than any call makes.
const MAX_CALLS: usize = 40;

#[rstest]
#[case::import(Step::Import)]
#[case::run(Step::Run)]
#[case::create(Step::Create)]
#[case::start(Step::Start)]
#[case::stop_container(Step::StopContainer)]
#[case::remove_container(Step::RemoveContainer)]
#[case::stop_sandbox(Step::StopSandbox)]
#[case::remove_sandbox(Step::RemoveSandbox)]
fn whatever_goes_wrong_the_same_call_then_succeeds_and_nothing_is_left(#[case] step: Step) {
    isolated(move || at_a_time(&Bench::new(Network::Host), step));
}

#[test]
fn whatever_goes_wrong_with_a_pull_the_next_one_succeeds_and_nothing_is_left() {
    isolated(|| at_a_time(&Bench::with_registry(), Step::Pull));
}

/// One after the other: there is one network for all.
#[rstest]
#[case::run(Step::Run)]
#[case::stop_sandbox(Step::StopSandbox)]
#[case::remove_sandbox(Step::RemoveSandbox)]
fn whatever_goes_wrong_with_a_pod_of_its_own_network_nothing_of_that_is_left(#[case] step: Step) {
    isolated(move || {
        let bench = Bench::new(Network::Own);
        for case in CASES {
            try_all(&bench, step, case);
        }
    });
}

/// All cases at a time: most of the time they wait for what does not answer.
fn at_a_time(bench: &Bench, step: Step) {
    thread::scope(|scope| {
        let cases = CASES.map(|case| scope.spawn(move || try_all(bench, step, case)));
        for case in cases {
            case.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        }
    });
}

/// Has every call of the step go wrong in turn.
fn try_all(bench: &Bench, step: Step, (fault, then): (Fault, Then)) {
    let calls = (1..=MAX_CALLS)
        .take_while(|&nth| bench.one(step, nth, fault, then == Then::Dies).is_some())
        .count();
    assert!(calls > 0, "{step:?} makes no call");
    assert!(calls < MAX_CALLS, "{step:?} never ends");
}

/// Cheaper than the whole table, and what a person meets first: the words of a containerd that hangs.
#[test]
fn a_hung_containerd_is_told_as_such_and_holds_up_nothing_else() {
    isolated(|| {
        let bench = Bench::new(Network::Host);
        let mut life = bench.start(bench.image());
        life.go(Step::Run).unwrap();
        life.fake.arm(1, Fault::Silent);
        let status = life.go(Step::Create).unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("no answer within"), "{status:?}");
        // What the shim knows itself needs no containerd.
        life.fake.arm(1, Fault::Silent);
        assert_eq!(life.sandboxes().len(), 1);
        assert_eq!(life.fake.heal(), None, "a list asked containerd");
    });
}
