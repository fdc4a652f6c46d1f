//! A whole cluster in one process and in a time that does not wait: kubelets, apiserver and controllers as they are, on a
//! store, a bus and runtimes in memory, while users want something else every second and everything fails. The design's
//! rules are checked at each step; when the faults stop, what runs must become what is wanted.
//!
//! ```text
//! seed ─► schedule ─► users ───────────────┐
//!            │                             ▼
//!            ├─► links that break ─► apiserver, controllers ─► a store that loses and goes away ─► its log ─┐
//!            │        │                    └─► a bus that loses, doubles, delays and reorders               │
//!            │        ▼                                  ▼                                                  ▼
//!            └─► kubelets, killed and started ◄──────────┘                                    journal ─► rules (pure)
//!                     └─► runtimes whose calls fail, hang and answer late ─► what runs ─────────────────────▲
//! ```
//!
//! `CLONE8S_SIMULATION_SEEDS=200` plays so many seeds, and `CLONE8S_SIMULATION_SEED=7` that one again. A seed fixes every
//! choice and every delay. It does not fix which of several tasks that are ready at one moment comes first: tokio, maps with
//! random keys and one thread for files have a say in that. Almost every failure shows again with its seed at once, or within
//! a few attempts.
#![allow(clippy::unwrap_used)]

mod bus;
mod cluster;
mod convergence;
mod history;
mod journal;
mod link;
mod rules;
mod runtime;
mod schedule;
mod users;

use std::time::{Duration, SystemTime};

use clone8s_daemon::clock::SimulatedTime;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    cluster::Cluster,
    convergence::missing,
    schedule::{NODES, Part, schedule},
};

const SEED: &str = "CLONE8S_SIMULATION_SEED";
const SEEDS: &str = "CLONE8S_SIMULATION_SEEDS";
const FEW: u64 = 4;

/// 2026-01-01.
const EPOCH: Duration = Duration::from_hours(490_896);
/// Once nothing fails any more, within this all must be as wanted: calls that hang have to end, graces to pass, and silent
/// connections to be given up.
const BOUND: Duration = Duration::from_mins(3);
/// For so long it must stay so while every daemon is restarted.
const QUIET: Duration = Duration::from_mins(1);

/// A run that shows anything has at least so many.
const STARTS: usize = 15;

async fn play(seed: u64) -> Result<(), String> {
    let clock = SimulatedTime::begin(SystemTime::UNIX_EPOCH + EPOCH);
    let begun = Instant::now();
    let mut cluster = Cluster::new(seed, clock).await;
    let parts = NODES.map(Part::Kubelet);
    for part in [Part::Apiserver, Part::Controllers].into_iter().chain(parts) {
        cluster.act(schedule::Act::Start(part)).await;
    }
    for step in schedule(seed) {
        sleep_until(begun + step.at).await;
        cluster.journal().check()?;
        cluster.act(step.act).await;
    }
    cluster.calm().await;
    converge(&mut cluster).await?;
    let starts = cluster.journal().starts();
    cluster.restart_all().await;
    sleep(QUIET).await;
    converge(&mut cluster).await?;
    if cluster.journal().starts() != starts {
        let end = cluster.journal().end();
        return Err(format!("a restart of every daemon starts containers\n{end}"));
    }
    if starts < STARTS {
        return Err(format!("only {starts} containers were started"));
    }
    Ok(())
}

/// Waits until all is as wanted.
async fn converge(cluster: &mut Cluster) -> Result<(), String> {
    let deadline = Instant::now() + BOUND;
    loop {
        cluster.journal().check()?;
        let left = match cluster.state().await {
            Some(state) => missing(&state),
            None => vec!["a user has something on the way".to_owned()],
        };
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let end = cluster.journal().end();
            return Err(format!("{BOUND:?} after the last fault: {left:#?}\n{end}"));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number in the environment"))
}

#[test]
fn the_rules_hold_at_each_step_and_what_runs_becomes_what_is_wanted() {
    let seeds = match number(SEED) {
        Some(seed) => seed..=seed,
        None => 1..=number(SEEDS).unwrap_or(FEW),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            // Files are written one after another, in the order in which it was asked for.
            .max_blocking_threads(1)
            .build()
            .unwrap();
        if let Err(broken) = runtime.block_on(play(seed)) {
            panic!("{SEED}={seed}: {broken}");
        }
    }
}
