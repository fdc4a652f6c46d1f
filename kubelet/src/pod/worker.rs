//! Owns one pod on this node: observes, plans, acts, until nothing is left to do; then sleeps until something wakes
//! it. A call that hangs holds up this pod alone.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use clone8s::v1::PodStatus;
use clone8s_daemon::{Shutdown, backoff};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Duration, timeout},
};

use super::{
    execute::{Executor, Outcome, Subject},
    memory::{FailureCause, ImageKnowledge, Memory, Target},
    news::{self, News},
    observe::Observer,
    observed::Observed,
    plan::{Action, Want, plan},
    status::{StatusContext, status},
};
use crate::{
    clock::Clock,
    config::Intervals,
    desired::{DesiredPod, PodKey, PodUid},
    events::EventRecorder,
    probe::{ProbeContext, Probes},
    runtime::RuntimeHealth,
    status::{PodEntry, StatusBoard},
};

/// How long calls that must not be cut off have, once the kubelet is told to stop.
const DRAIN: Duration = Duration::from_secs(8);

/// What every worker of a kubelet uses.
#[derive(Debug, Clone)]
pub(crate) struct WorkerContext {
    pub(crate) executor: Executor,
    pub(crate) intervals: Intervals,
    pub(crate) clock: Clock,
    pub(crate) board: StatusBoard,
    pub(crate) events: EventRecorder,
    pub(crate) host_ip: String,
    pub(crate) runtime_health: watch::Receiver<RuntimeHealth>,
    pub(crate) shutdown: Shutdown,
}

pub(crate) struct Worker {
    context: WorkerContext,
    key: PodKey,
    want: watch::Receiver<Want>,
    wake: Arc<Notify>,
    observer: Observer,
    probes: Probes,
    memory: Memory,
    /// The pod as it was last wanted: its status is told to the end.
    pod: Option<DesiredPod>,
    /// The status that was told last, and whose.
    told: Option<(PodUid, PodStatus)>,
    news: News,
    calls: JoinSet<Outcome>,
    in_flight: HashMap<Id, InFlight>,
    /// The last action on each target that succeeded, while nothing else was done there.
    done: HashMap<Target, Action>,
}

struct InFlight {
    action: Action,
    spec_hash: String,
    started: SystemTime,
    abort: AbortHandle,
}

impl Worker {
    pub(crate) fn new(
        context: WorkerContext,
        key: PodKey,
        want: watch::Receiver<Want>,
        wake: Arc<Notify>,
    ) -> Self {
        let probes = Probes::new(ProbeContext {
            runtime: Arc::clone(&context.executor.runtime),
            clock: context.clock,
            events: context.events.clone(),
        });
        Self {
            probes,
            observer: Observer::new(Arc::clone(&context.executor.runtime), key.clone()),
            context,
            key,
            want,
            wake,
            memory: Memory::default(),
            pod: None,
            told: None,
            news: News::default(),
            calls: JoinSet::new(),
            in_flight: HashMap::new(),
            done: HashMap::new(),
        }
    }

    /// Returns once the pod is gone here and at its source, or at shutdown.
    pub(crate) async fn run(mut self) {
        let shutdown = self.context.shutdown.clone();
        let mut outage = backoff::reconnect();
        loop {
            let observed = tokio::select! {
                observed = self.observer.observe() => observed,
                () = shutdown.cancelled() => return self.drain().await,
            };
            let wake_at = match observed {
                Ok(observed) => {
                    outage = backoff::reconnect();
                    match self.reconcile(observed).await {
                        Step::Ended => return,
                        Step::Sleep { until } => until,
                    }
                }
                Err(error) => {
                    // Nobody knows what runs, so nothing is changed and nothing is said.
                    tracing::debug!(pod = %self.key, %error, "cannot observe the pod");
                    outage.next().map(|wait| self.context.clock.now() + wait)
                }
            };
            let sleep = wake_at.map_or(Duration::MAX, |at| {
                at.duration_since(self.context.clock.now()).unwrap_or_default()
            });
            tokio::select! {
                Some(ended) = self.calls.join_next_with_id() => self.note(ended),
                changed = self.want.changed() => if changed.is_err() {
                    return self.drain().await;
                },
                report = self.probes.next() => self.probes.take(report).await,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                () = shutdown.cancelled() => return self.drain().await,
            }
        }
    }

    /// Plans on what was observed, starts what the plan asks for, and tells the status.
    async fn reconcile(&mut self, mut observed: Observed) -> Step {
        let want = self.want.borrow_and_update().clone();
        if let Some(pod) = want.pod() {
            let is_new = self.pod.as_ref().is_none_or(|known| known.uid() != pod.uid());
            // A pod that is to be gone is cleaned up once: what an earlier kubelet left of it.
            if is_new || matches!(want, Want::Run(_)) {
                self.memory.uncleaned.insert(pod.uid());
            }
            if is_new {
                self.probes.open(&self.context.executor.volumes.dir(&pod.uid())).await;
            }
            self.probes.annotate(pod, &mut observed);
            self.pod = Some(pod.clone());
        }
        let observed = &observed;
        let sandboxes = observed.sandboxes.iter().map(|sandbox| &sandbox.uid);
        let containers = observed.containers.iter().map(|run| &run.uid);
        self.memory.uncleaned.extend(sandboxes.chain(containers).cloned());
        self.memory.retain(observed);

        let now = self.context.clock.now();
        let mut plan = plan(&want, observed, &self.memory, &self.context.intervals, now);
        self.refuse_repetition(&mut plan.actions, now);
        self.tell(&want, observed, plan.gone && self.in_flight.is_empty(), now);
        self.ask(&want, observed);
        self.give_up_unwanted(&plan.actions);
        for action in plan.actions {
            self.begin(action, &want, observed, now);
        }
        let source_is_done = matches!(want, Want::Stop { pod: None });
        if plan.gone && source_is_done && self.in_flight.is_empty() {
            return Step::Ended;
        }
        Step::Sleep { until: plan.wake_at }
    }

    /// Keeps the probes in line with what runs. What is being stopped is asked nothing.
    fn ask(&mut self, want: &Want, observed: &Observed) {
        match want {
            Want::Run(pod) | Want::Refuse { pod, .. } => {
                let address = observed.address(pod, &self.context.host_ip);
                self.probes.follow(pod, observed, address);
            }
            Want::Stop { .. } => self.probes.stop(),
        }
    }

    /// An action that succeeded and is asked for again at once has had no effect: the runtime says one thing and
    /// shows another. It waits like a failure, or it would be repeated without end.
    fn refuse_repetition(&mut self, actions: &mut Vec<Action>, now: SystemTime) {
        for (target, done) in std::mem::take(&mut self.done) {
            let Some(again) = actions.iter().position(|action| action.is_same_as(&done)) else {
                // What was done shows: what went wrong before is over. That a container was made says nothing yet
                // about whether it starts.
                if !matches!(done, Action::CreateContainer { .. }) {
                    self.memory.failures.remove(&target);
                }
                continue;
            };
            let action = actions.remove(again);
            tracing::warn!(pod = %self.key, ?action, "the runtime reported success, but nothing has changed");
            let spec_hash = self
                .pod
                .as_ref()
                .map(|pod| action.spec_hash(pod))
                .unwrap_or_default();
            let cause = FailureCause {
                message: "the container runtime reported success, but nothing has changed".to_owned(),
                transient: true,
            };
            self.memory
                .fail(target, action.failed_step(), &spec_hash, &cause, now);
            // To plan again, with this failure in mind.
            self.wake.notify_one();
        }
    }

    /// Drops calls that the plan no longer asks for, where that is safe: pulls, and waits for a stop that must now
    /// come sooner.
    fn give_up_unwanted(&mut self, actions: &[Action]) {
        self.in_flight.retain(|_, call| {
            let unwanted = match &call.action {
                Action::PullImage { .. } | Action::InspectImage { .. } => !actions.contains(&call.action),
                Action::StopContainer { id, kill_at, .. } => actions.iter().any(|action| {
                    matches!(action, Action::StopContainer { id: same, kill_at: sooner, .. }
                        if same == id && sooner < kill_at)
                }),
                _ => false,
            };
            if unwanted {
                call.abort.abort();
            }
            !unwanted
        });
    }

    fn begin(&mut self, action: Action, want: &Want, observed: &Observed, now: SystemTime) {
        let target = action.target();
        let conflicts = self.in_flight.values().any(|call| {
            let busy = call.action.target();
            busy == target || busy == Target::Pod || target == Target::Pod
        });
        if conflicts {
            // The end of the call that is in the way brings the worker here again.
            return;
        }
        let pod = match want {
            Want::Run(pod) => Some(pod.clone()),
            Want::Stop { .. } | Want::Refuse { .. } => None,
        };
        if let Some(pod) = self.pod.as_ref() {
            news::begun(&self.context.events, pod, &action);
        }
        let spec_hash = pod
            .as_ref()
            .map(|pod| action.spec_hash(pod))
            .unwrap_or_default();
        let subject = subject(&self.key, pod, &action, observed);
        tracing::debug!(pod = %self.key, ?action, "begin");
        let executor = self.context.executor.clone();
        let call = action.clone();
        let abort = self
            .calls
            .spawn(async move { executor.execute(subject, call).await });
        let in_flight = InFlight {
            action,
            spec_hash,
            started: now,
            abort,
        };
        self.in_flight.insert(in_flight.abort.id(), in_flight);
    }

    /// Takes note of how a call ended.
    fn note(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        // Given up in the meantime.
        let Some(call) = self.in_flight.remove(&id) else {
            return;
        };
        let outcome = match ended {
            Ok((_, outcome)) => outcome,
            Err(error) => Outcome::Failed {
                step: call.action.failed_step(),
                cause: FailureCause {
                    message: format!("the kubelet failed: {error}"),
                    transient: true,
                },
            },
        };
        let now = self.context.clock.now();
        let took = now.duration_since(call.started).unwrap_or_default();
        tracing::debug!(pod = %self.key, action = ?call.action, ?outcome, ?took, "end");
        if let Some(pod) = self.pod.as_ref() {
            news::ended(&self.context.events, pod, &call.action, &outcome, took);
        }
        let target = call.action.target();
        self.done.remove(&target);
        match outcome {
            Outcome::Failed { step, cause } => {
                if let Action::CreateContainer { container, .. } = &call.action {
                    // Perhaps the image is gone: look again.
                    self.memory.images.remove(container);
                }
                self.memory.fail(target, step, &call.spec_hash, &cause, now);
            }
            outcome => self.succeed(call.action, target, outcome, now),
        }
    }

    fn succeed(&mut self, action: Action, target: Target, outcome: Outcome, now: SystemTime) {
        match &action {
            Action::InspectImage { container, image } | Action::PullImage { container, image } => {
                let pulled = matches!(action, Action::PullImage { .. });
                let image = image.clone();
                let knowledge = match outcome {
                    Outcome::Image(Some(found)) if pulled => ImageKnowledge::Pulled { image, found },
                    Outcome::Image(Some(found)) => ImageKnowledge::Present { image, found },
                    _ => ImageKnowledge::Absent { image, at: now },
                };
                self.memory.images.insert(container.clone(), knowledge);
                self.memory.failures.remove(&target);
                return;
            }
            Action::CreateContainer { container, .. } => {
                self.memory.images.remove(container);
            }
            Action::StopSandbox { id } => {
                self.memory.stopped_sandboxes.insert(id.clone());
            }
            Action::StopContainer { id, .. } => {
                self.memory.stopped_containers.insert(id.clone());
            }
            Action::CleanUp { uid } => {
                self.memory.uncleaned.remove(uid);
                self.memory.failures.remove(&target);
                return;
            }
            Action::RunSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::StartContainer { .. }
            | Action::RemoveContainer { .. } => {}
        }
        self.done.insert(target, action);
    }

    fn tell(&mut self, want: &Want, observed: &Observed, gone: bool, now: SystemTime) {
        let Some(pod) = self.pod.clone() else { return };
        let uid = pod.uid();
        let previous = match &self.told {
            Some((told, status)) if *told == uid => Some(status.clone()),
            // What was told before the kubelet's restart.
            _ => pod.pod.status.clone(),
        };
        let health = self.context.runtime_health.borrow().version.clone();
        let context = StatusContext {
            intervals: &self.context.intervals,
            host_ip: &self.context.host_ip,
            runtime_name: health.split_once("://").map_or("cri", |(name, _)| name),
            now,
        };
        let status = status(want, &pod, observed, &self.memory, previous.as_ref(), &context);
        self.news.told(&self.context.events, &pod, want, &status);
        self.told = Some((uid.clone(), status.clone()));
        self.context.board.publish(
            &self.key,
            PodEntry {
                uid,
                source: pod.source,
                status: Arc::new(status),
                gone,
            },
        );
    }

    /// Lets calls end that would leave half a thing behind, and gives up the others. Containers run on.
    async fn drain(mut self) {
        self.probes.stop();
        for call in self.in_flight.values() {
            if matches!(
                call.action,
                Action::PullImage { .. } | Action::StopContainer { .. }
            ) {
                call.abort.abort();
            }
        }
        let late = timeout(DRAIN, async { while self.calls.join_next().await.is_some() {} }).await;
        if late.is_err() {
            let actions: Vec<_> = self.in_flight.values().map(|call| &call.action).collect();
            tracing::warn!(pod = %self.key, ?actions, "calls to the runtime were cut off");
        }
    }
}

enum Step {
    Sleep {
        until: Option<SystemTime>,
    },
    /// The pod is gone, and nobody names it any more.
    Ended,
}

fn subject(key: &PodKey, pod: Option<DesiredPod>, action: &Action, observed: &Observed) -> Subject {
    let sandbox = match action {
        Action::CreateContainer { sandbox, .. } => observed.sandbox(sandbox),
        _ => observed.sandboxes.iter().max_by_key(|sandbox| sandbox.attempt),
    };
    Subject {
        key: key.clone(),
        pod_ip: sandbox
            .and_then(|sandbox| sandbox.ip.clone())
            .filter(|_| pod.as_ref().is_some_and(|pod| !pod.spec().host_network)),
        pod,
        sandbox_attempt: sandbox.map_or(0, |sandbox| sandbox.attempt),
    }
}
