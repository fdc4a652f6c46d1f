//! What random clients are told while everything is killed, paused and cut off, held to what the API promises.
//!
//! A failing seed is printed; `scripts/robustness --seed N --seconds N` replays its choices and its faults.

use std::{
    env,
    time::{Duration, SystemTime},
};

use clone8s_integration::robustness::{Run, faults::Schedule, verify::verify};

const SEED: &str = "CLONE8S_ROBUSTNESS_SEED";
const SECONDS: &str = "CLONE8S_ROBUSTNESS_SECONDS";

fn told(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

fn seed() -> u64 {
    let since = clone8s_daemon::clock::now().duration_since(SystemTime::UNIX_EPOCH);
    told(SEED).unwrap_or_else(|| since.unwrap().as_secs())
}

/// Plays a run and shows every broken promise.
fn check(seed: u64, span: Duration, faults: Schedule) {
    eprintln!("seed {seed}, {span:?}");
    let history = Run { seed, span, faults }.play().unwrap();
    let found = verify(&history);
    eprintln!(
        "{} writes, {} reads, {} changes, {} messages; {} events on watches",
        history.writes.len(),
        history.reads.len(),
        history.order.len(),
        history.messages.len(),
        history
            .watches
            .iter()
            .map(|watch| watch.told.len())
            .sum::<usize>(),
    );
    let shown = found
        .iter()
        .take(20)
        .map(|it| format!("{:?}: {}\n", it.rule, it.detail));
    let shown: String = shown.collect();
    assert!(
        found.is_empty(),
        "seed {seed}, {span:?}: {} broken promises, such as\n{shown}",
        found.len()
    );
    // Otherwise it has shown nothing.
    assert!(history.order.len() > 50, "only {} changes", history.order.len());
}

#[test]
fn a_cluster_that_is_killed_paused_and_cut_off_keeps_its_promises() {
    let (seed, span) = (seed(), Duration::from_secs(20));
    check(seed, span, Schedule::random(seed, span));
}

#[test]
#[ignore = "as long as it is told to run: scripts/robustness"]
fn the_promises_hold_for_long() {
    let seed = seed();
    let span = Duration::from_secs(told(SECONDS).unwrap_or(600));
    check(seed, span, Schedule::random(seed, span));
}
