//! What random clients are told while everything is killed, paused, cut off and made to forget, held to what the API
//! promises.
//!
//! A failing seed is printed; `scripts/robustness --seed N --seconds N` replays its choices and its faults.

use std::{
    env,
    time::{Duration, SystemTime},
};

use clone8s::{
    client::{From, Query, Resource as _, Watch},
    object::Object as _,
    v1::{Pod, WatchEventType},
};
use clone8s_integration::{
    pods,
    robustness::{Run, faults::Schedule, history::Told, verify::verify, with_cluster},
    wait,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

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
        "{} writes, {} reads, {} changes, {} messages; {} events on watches, which began again {} times after a compaction",
        history.writes.len(),
        history.reads.len(),
        history.order.len(),
        history.messages.len(),
        history
            .watches
            .iter()
            .map(|watch| watch.told.len())
            .sum::<usize>(),
        history
            .watches
            .iter()
            .flat_map(|watch| &watch.told)
            .filter(|(_, told)| matches!(told, Told::Compacted(_)))
            .count(),
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
    assert!(history.order.len() > 20, "only {} changes", history.order.len());
}

#[test]
fn a_cluster_that_is_killed_paused_cut_off_and_made_to_forget_keeps_its_promises() {
    let (seed, span) = (seed(), Duration::from_secs(15));
    check(seed, span, Schedule::random(seed, span));
}

#[test]
fn a_rolling_restart_of_all_apiservers_under_load_loses_nothing() {
    let faults = Schedule::rolling_restart(Duration::from_secs(1), Duration::from_secs(3));
    check(seed(), Duration::from_secs(11), faults);
}

#[test]
fn without_a_quorum_nothing_stale_is_served_and_all_goes_on_by_itself_afterwards() {
    with_cluster(async |cluster| {
        let channels = cluster.access.channels();
        let written = |name: &str| pods::pod(name, &[("main", "registry.invalid/none:1")]);
        Pod::create(&channels[0], written("before")).await?;
        let mut watches = Vec::new();
        for channel in &channels {
            let (_, revision) = Pod::list_all(channel, &Query::default()).await?;
            watches.push(Pod::watch(channel, &Query::default(), From::Revision(revision)).await?);
        }

        for member in &mut cluster.etcd[1..] {
            member.process.kill();
        }
        for channel in &channels {
            let write = async || Pod::create(channel, written("during")).await.map(drop);
            let get = async || Pod::get(channel, "default", "before").await.map(drop);
            let list = async || Pod::list_all(channel, &Query::default()).await.map(drop);
            // The first of them may find a member that does not know yet that it is alone.
            for _ in 0..2 {
                refused_for_now(write().await);
                refused_for_now(get().await);
                refused_for_now(list().await);
            }
        }

        for member in &mut cluster.etcd[1..] {
            member.process.start()?;
        }
        cluster.access.ready().await;
        Pod::create(&channels[0], written("after")).await?;
        // The very streams of before the outage.
        for watch in &mut watches {
            added(watch, "after").await;
        }
        Ok(())
    })
    .unwrap();
}

/// A call without a quorum says that the store is away, and when to try again.
#[track_caller]
fn refused_for_now(answer: Result<(), Status>) {
    let status = answer.expect_err("nothing can be known without a quorum");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    assert_eq!(reason, Some("STORE_UNAVAILABLE"), "{status:?}");
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");
}

/// Waits for a pod on a watch. Of the writes that were refused, some may have been done all the same.
async fn added(watch: &mut Watch<Pod>, name: &str) {
    let come = async {
        loop {
            let event = watch.next().await.unwrap().expect("the watch goes on");
            if event.object.is_some_and(|pod| pod.name() == name) {
                return event.kind;
            }
        }
    };
    let kind = tokio::time::timeout(wait::BOUND, come).await;
    assert_eq!(kind.expect("the pod comes"), WatchEventType::Added);
}

#[test]
#[ignore = "as long as it is told to run: scripts/robustness"]
fn the_promises_hold_for_long() {
    let seed = seed();
    let span = Duration::from_secs(told(SECONDS).unwrap_or(600));
    check(seed, span, Schedule::random(seed, span));
}
