//! What becomes of the servers during a run: a schedule, which comes from the seed, and its execution.

use std::{fmt, time::Duration};

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::index};
use rustix::process::Signal;
use tokio::{task::block_in_place, time::sleep_until};

use super::{
    Clock,
    cluster::{APISERVERS, Cluster, MEMBERS, Server},
    log::Log,
};
use crate::{Process, network::Place};

const START: Duration = Duration::from_secs(1);
/// An Erlang, its recovery, and all that waits for it.
const BROKER_START: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT in the end.
    Pause,
    /// Neither does anything reach the network nor anything come from it.
    CutOff,
    /// SIGTERM, and a start as soon as the process has ended.
    Restart,
}

/// One fault of one schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Since the start of the run.
    pub at: Duration,
    pub fault: Fault,
    /// By their places among the servers of their kind.
    pub victims: Vec<usize>,
    pub lasts: Duration,
}

/// A schedule for each kind of server; they go on side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    pub etcd: Vec<Step>,
    pub apiservers: Vec<Step>,
    pub broker: Vec<Step>,
    /// When the store is made to forget, since the start of the run.
    pub compactions: Vec<Duration>,
}

impl Schedule {
    /// What a seed makes of a span. Nothing is left broken at its end.
    pub fn random(seed: u64, span: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let faults = [Fault::Kill, Fault::Pause, Fault::CutOff];
        let more = [Fault::Kill, Fault::Pause, Fault::CutOff, Fault::Restart];
        Self {
            etcd: steps(&mut rng, span, MEMBERS, &faults, START),
            apiservers: steps(&mut rng, span, APISERVERS, &more, START),
            broker: steps(&mut rng, span, 1, &faults, BROKER_START),
            compactions: moments(&mut rng, span),
        }
    }

    /// Every apiserver in turn, one after another.
    pub fn rolling_restart(begin: Duration, pause: Duration) -> Self {
        let restart = |victim: usize| Step {
            at: begin + pause * u32::try_from(victim).unwrap_or(u32::MAX),
            fault: Fault::Restart,
            victims: vec![victim],
            lasts: Duration::ZERO,
        };
        Self {
            apiservers: (0..APISERVERS).map(restart).collect(),
            ..Self::default()
        }
    }

    pub(super) async fn run(&self, cluster: &mut Cluster, log: &Log, clock: Clock) -> anyhow::Result<()> {
        let etcd = cluster.etcd.iter_mut().map(Server::victim).collect();
        let apiservers = cluster.apiservers.iter_mut().map(Server::victim).collect();
        let broker = vec![Victim {
            process: &mut cluster.broker.rabbitmq.process,
            place: &cluster.broker.place,
        }];
        tokio::try_join!(
            endure(etcd, &self.etcd, clock),
            endure(apiservers, &self.apiservers, clock),
            endure(broker, &self.broker, clock),
            forget(log, &self.compactions, clock),
        )?;
        Ok(())
    }
}

/// Most of the time one server suffers; now and then most of them, so that no quorum is left.
/// Who was killed has so long to start again before the next fault, or the end.
fn steps(rng: &mut StdRng, span: Duration, servers: usize, faults: &[Fault], start: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = millis(rng, 500, 2_500);
    loop {
        let mut fault = faults[rng.random_range(0..faults.len())];
        let lasts = millis(rng, 300, 4_000);
        if at + lasts > span {
            return steps;
        }
        if fault == Fault::Kill && at + lasts + start > span {
            fault = Fault::Pause;
        }
        let count = match servers {
            1 => 1,
            _ if rng.random_bool(0.2) => servers / 2 + 1,
            _ => 1,
        };
        steps.push(Step {
            at,
            fault,
            victims: index::sample(rng, servers, count).into_vec(),
            lasts,
        });
        at += lasts + millis(rng, 500, 3_000);
        if fault == Fault::Kill {
            at += start;
        }
    }
}

/// Again and again, each a while after the other.
fn moments(rng: &mut StdRng, span: Duration) -> Vec<Duration> {
    let mut moments = Vec::new();
    let mut at = millis(rng, 1_000, 3_000);
    while at < span {
        moments.push(at);
        at += millis(rng, 500, 3_000);
    }
    moments
}

fn millis(rng: &mut StdRng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.random_range(least..most))
}

pub(super) struct Victim<'c> {
    process: &'c mut Process,
    place: &'c Place,
}

impl Server {
    fn victim(&mut self) -> Victim<'_> {
        Victim {
            process: &mut self.process,
            place: &self.place,
        }
    }
}

async fn endure(mut victims: Vec<Victim<'_>>, steps: &[Step], clock: Clock) -> anyhow::Result<()> {
    for step in steps {
        sleep_until(clock.start + step.at).await;
        for &number in &step.victims {
            let victim = &mut victims[number];
            eprintln!(
                "{clock} {:?} {} for {:?}",
                step.fault,
                victim.process.name(),
                step.lasts
            );
            block_in_place(|| victim.strike(step.fault)).context(victim.process.name().to_owned())?;
        }
        sleep_until(clock.start + step.at + step.lasts).await;
        for &number in &step.victims {
            let victim = &mut victims[number];
            block_in_place(|| victim.relieve(step.fault)).context(victim.process.name().to_owned())?;
        }
    }
    Ok(())
}

async fn forget(log: &Log, moments: &[Duration], clock: Clock) -> anyhow::Result<()> {
    for moment in moments {
        sleep_until(clock.start + *moment).await;
        log.compact().await;
    }
    Ok(())
}

impl Victim<'_> {
    fn strike(&mut self, fault: Fault) -> anyhow::Result<()> {
        // A server that has ended by itself is a finding, whatever the fault would have been.
        self.process.check_running()?;
        match fault {
            Fault::Kill => self.process.kill(),
            Fault::Pause => self.process.freeze()?,
            Fault::CutOff => self.place.cut_off()?,
            Fault::Restart => {
                let status = self.process.stop()?;
                let log = self.process.log_tail();
                anyhow::ensure!(status.success(), "ended with {status} after SIGTERM\n{log}");
            }
        }
        Ok(())
    }

    fn relieve(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill | Fault::Restart => self.process.start(),
            Fault::Pause => self.process.signal(Signal::CONT),
            Fault::CutOff => self.place.reconnect(),
        }
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.3} s", self.now().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        let span = Duration::from_mins(1);
        let schedule = Schedule::random(7, span);
        assert_eq!(schedule, Schedule::random(7, span));
        assert_ne!(schedule, Schedule::random(8, span));
        for steps in [&schedule.etcd, &schedule.apiservers, &schedule.broker] {
            assert!(steps.len() > 3, "{steps:?}");
            assert!(steps.iter().all(|step| step.at + step.lasts <= span), "{steps:?}");
            let one_by_one = |pair: &[Step]| pair[0].at + pair[0].lasts < pair[1].at;
            assert!(steps.windows(2).all(one_by_one), "{steps:?}");
        }
        let moments = &schedule.compactions;
        assert!(moments.len() > 10, "{moments:?}");
        assert!(
            moments.is_sorted() && moments.iter().all(|at| *at < span),
            "{moments:?}"
        );
    }
}
