//! Whether containers have started, live and are ready, as their probes find out.
//!
//! ```text
//! container runs ──► startup ──(succeeds)──► liveness, readiness, side by side
//!                       │                        │           └──► ready, not ready, ready …
//!                       └──────(fails)───────────┴──(fails)──► the container is stopped
//! ```
//! Each probe of each run is a task with a timer of its own; a worker hears of a verdict only when it changes. What
//! was found outlives the kubelet, so that its restart turns nothing unready; an answer that says nothing about the
//! container, such as that of a runtime that is away, changes nothing.

pub(crate) mod handler;
mod http;
mod prober;
mod record;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use clone8s::v1::{Container, Probe};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::{
    clock::Clock,
    desired::DesiredPod,
    events::EventRecorder,
    pod::observed::{Observed, PostStart, Run, RunState},
    runtime::{ContainerId, Runtime},
};
pub use handler::Place;
use prober::Prober;
use record::Record;

/// Verdicts on their way to a worker; a probe waits when there are more.
const REPORTS: usize = 16;

/// What a probe is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The probe of this kind that a container has.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        })
    }
}

/// What probes have found of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub started: bool,
    pub ready: bool,
    /// The probe for whose failure the run must be stopped.
    pub failed: Option<ProbeKind>,
}

impl Health {
    /// Of a run that nobody asks.
    pub const UNPROBED: Self = Self {
        started: true,
        ready: true,
        failed: None,
    };

    /// Of a run that was not asked yet.
    fn unasked(container: &Container) -> Self {
        Self {
            started: container.startup_probe.is_none(),
            ready: container.readiness_probe.is_none(),
            failed: None,
        }
    }

    /// What is left of it when probes are gone from the container's spec.
    fn under(self, container: &Container) -> Self {
        let failed = self.failed.filter(|kind| kind.of(container).is_some());
        Self {
            started: self.started || container.startup_probe.is_none(),
            ready: self.ready || container.readiness_probe.is_none(),
            failed,
        }
    }

    fn note(&mut self, kind: ProbeKind, good: bool) {
        match (kind, good) {
            (ProbeKind::Startup, true) => self.started = true,
            (ProbeKind::Readiness, good) => self.ready = good,
            (ProbeKind::Startup | ProbeKind::Liveness, false) => self.failed = Some(kind),
            (ProbeKind::Liveness, true) => {}
        }
    }
}

/// A verdict that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    run: ContainerId,
    kind: ProbeKind,
    good: bool,
}

/// What probes need of their surroundings.
#[derive(Clone)]
pub(crate) struct ProbeContext {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: Clock,
    pub(crate) events: EventRecorder,
}

/// The probes of one pod. Its worker owns them.
pub(crate) struct Probes {
    context: ProbeContext,
    health: BTreeMap<ContainerId, Health>,
    record: Record,
    /// Runs that an earlier kubelet has asked already.
    adopted: BTreeSet<ContainerId>,
    tasks: JoinSet<()>,
    active: BTreeMap<(ContainerId, ProbeKind), Active>,
    /// Made with the first probe: most pods have none.
    reports: Option<(mpsc::Sender<Report>, mpsc::Receiver<Report>)>,
}

struct Active {
    probe: Probe,
    place: Place,
    task: AbortHandle,
}

impl Probes {
    pub(crate) fn new(context: ProbeContext) -> Self {
        Self {
            context,
            health: BTreeMap::new(),
            record: Record::nowhere(),
            adopted: BTreeSet::new(),
            tasks: JoinSet::new(),
            active: BTreeMap::new(),
            reports: None,
        }
    }

    /// Takes up what an earlier kubelet has found of the pod whose folder this is.
    pub(crate) async fn open(&mut self, pod_dir: &Path) {
        self.stop();
        let (record, found) = Record::open(pod_dir).await;
        self.record = record;
        self.adopted = found.keys().cloned().collect();
        self.health = found;
    }

    /// The next verdict that changes. Safe to give up.
    pub(crate) async fn next(&mut self) -> Report {
        if let Some((_, reports)) = &mut self.reports
            && let Some(report) = reports.recv().await
        {
            return report;
        }
        // No probe has begun; of one that has, we hold a sender ourselves.
        std::future::pending().await
    }

    /// Takes a verdict, on disk before anybody is told.
    pub(crate) async fn take(&mut self, report: Report) {
        let Some(health) = self.health.get_mut(&report.run) else {
            return;
        };
        let before = *health;
        health.note(report.kind, report.good);
        if *health != before {
            self.record.save(&self.health).await;
        }
    }

    /// Adds to what the runtime says of the pod's runs what its probes have found.
    pub(crate) fn annotate(&mut self, pod: &DesiredPod, observed: &mut Observed) {
        self.health
            .retain(|id, _| observed.containers.iter().any(|run| run.id == *id));
        let uid = pod.uid();
        for run in observed.containers.iter_mut().filter(|run| run.uid == uid) {
            let spec = pod.spec().container(&run.name);
            let (Some(container), true) = (spec, matches!(run.state, RunState::Running { .. })) else {
                continue;
            };
            let health = self
                .health
                .entry(run.id.clone())
                .or_insert_with(|| Health::unasked(&container));
            *health = health.under(&container);
            run.health = *health;
        }
    }

    /// Asks each run what its container's spec says, and no other. `address` is where the pod's servers listen.
    pub(crate) fn follow(&mut self, pod: &DesiredPod, observed: &Observed, address: Option<&str>) {
        while self.tasks.try_join_next().is_some() {}
        let uid = pod.uid();
        let mut wanted = BTreeMap::new();
        for container in pod.spec().all_containers() {
            let Some(run) = observed.runs_of(&uid, &container.name).first().copied() else {
                continue;
            };
            let RunState::Running { started_at } = run.state else {
                continue;
            };
            if run.post_start != PostStart::Over {
                continue;
            }
            for kind in ProbeKind::ALL.into_iter().filter(|kind| is_due(*kind, run)) {
                if let Some(probe) = kind.of(container) {
                    let place = Place::of(container, run, address);
                    wanted.insert((run.id.clone(), kind), (probe, place, started_at));
                }
            }
        }
        self.active.retain(|key, active| {
            let stays = wanted
                .get(key)
                .is_some_and(|(probe, place, _)| active.probe == **probe && active.place == *place);
            if !stays {
                active.task.abort();
            }
            stays
        });
        for (key, (probe, place, started_at)) in wanted {
            if !self.active.contains_key(&key) {
                self.start(pod, key, probe.clone(), place, started_at);
            }
        }
    }

    /// Asks nothing any more.
    pub(crate) fn stop(&mut self) {
        for (_, active) in std::mem::take(&mut self.active) {
            active.task.abort();
        }
    }

    fn start(
        &mut self,
        pod: &DesiredPod,
        (run, kind): (ContainerId, ProbeKind),
        probe: Probe,
        place: Place,
        started_at: SystemTime,
    ) {
        let (reporter, _) = self.reports.get_or_insert_with(|| mpsc::channel(REPORTS));
        let ready = self.health.get(&run).is_some_and(|health| health.ready);
        let prober = Prober {
            pod: pod.clone(),
            kind,
            probe: probe.clone(),
            place: place.clone(),
            started_at,
            adopted: self.adopted.contains(&run),
            ready,
            context: self.context.clone(),
            reports: reporter.clone(),
        };
        let task = self.tasks.spawn(prober.run());
        self.active.insert((run, kind), Active { probe, place, task });
    }
}

/// Which probes a run is asked in its state.
fn is_due(kind: ProbeKind, run: &Run) -> bool {
    run.health.failed.is_none()
        && match kind {
            ProbeKind::Startup => !run.health.started,
            ProbeKind::Liveness | ProbeKind::Readiness => run.health.started,
        }
}
