//! Pods from RunPodSandbox to RemovePodSandbox, some at a time.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use super::{Network, client::Side, sides::Pair};
use crate::samples::Samples;

/// Rounds of each side: enough that both meet the same weather.
const ROUNDS: u32 = 5;

/// What one side's pods took.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    pub(super) sandbox: Samples,
    pub(super) create: Samples,
    pub(super) start: Samples,
    /// The three together: from the first call to the last answer.
    pub(super) ready: Samples,
    pub(super) stop: Samples,
    pub(super) remove: Samples,
    pub(super) stop_and_remove: Samples,
    pub(super) pods: u32,
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
}

struct Cycle {
    sandbox: Duration,
    create: Duration,
    start: Duration,
    stop: Duration,
    remove: Duration,
}

/// Both sides in turn; the order changes from round to round.
pub(super) async fn measure(
    pair: &Pair,
    network: Network,
    pods: u32,
    at_a_time: u32,
) -> anyhow::Result<[Load; 2]> {
    let mut loads = [Load::default(), Load::default()];
    let rounds = ROUNDS.min(pods);
    for number in 0..rounds {
        let share = pods / rounds + u32::from(number < pods % rounds);
        let mut order = [0, 1];
        if number % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let load = round(pair.sides()[index], network, share, at_a_time).await?;
            loads[index].add(load);
        }
    }
    Ok(loads)
}

/// Some pods of one side.
pub(super) async fn round(side: &Side, network: Network, pods: u32, at_a_time: u32) -> anyhow::Result<Load> {
    let cpu = side.account.cpu()?;
    let began = Instant::now();
    let cycles: Vec<_> = stream::iter(0..pods)
        .map(|_| cycle(side, network))
        .buffer_unordered(at_a_time as usize)
        .try_collect()
        .await?;
    let mut load = Load {
        pods,
        wall: began.elapsed(),
        cpu: side.account.cpu()?.saturating_sub(cpu),
        ..Load::default()
    };
    for cycle in cycles {
        load.sandbox.push(cycle.sandbox);
        load.create.push(cycle.create);
        load.start.push(cycle.start);
        load.ready.push(cycle.sandbox + cycle.create + cycle.start);
        load.stop.push(cycle.stop);
        load.remove.push(cycle.remove);
        load.stop_and_remove.push(cycle.stop + cycle.remove);
    }
    Ok(load)
}

async fn cycle(side: &Side, network: Network) -> anyhow::Result<Cycle> {
    let began = Instant::now();
    let pod = side.run_sandbox(network).await?;
    let run = Instant::now();
    let container = side.create(&pod, &["sleep", "1000000"], Vec::new()).await?;
    let created = Instant::now();
    side.start(&container).await?;
    let started = Instant::now();
    side.stop(&pod, &container).await?;
    let stopped = Instant::now();
    side.remove(&pod, &container).await?;
    Ok(Cycle {
        sandbox: run - began,
        create: created - run,
        start: started - created,
        stop: stopped - started,
        remove: stopped.elapsed(),
    })
}

impl Load {
    fn add(&mut self, other: Self) {
        self.sandbox.extend(other.sandbox);
        self.create.extend(other.create);
        self.start.extend(other.start);
        self.ready.extend(other.ready);
        self.stop.extend(other.stop);
        self.remove.extend(other.remove);
        self.stop_and_remove.extend(other.stop_and_remove);
        self.pods += other.pods;
        self.wall += other.wall;
        self.cpu += other.cpu;
    }

    pub(super) fn pods_a_second(&self) -> f64 {
        f64::from(self.pods) / self.wall.as_secs_f64()
    }

    /// Seconds of CPU time for one pod's whole life.
    pub(super) fn cpu_a_pod(&self) -> f64 {
        self.cpu.as_secs_f64() / f64::from(self.pods)
    }
}
