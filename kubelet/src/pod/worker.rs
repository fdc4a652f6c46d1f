//! Owns one pod on this node: observes, plans, acts, until nothing is left to do; then sleeps until something wakes
//! it. A call that hangs holds up this pod alone.

mod calls;

use std::{collections::HashMap, path::Path, pin::pin, sync::Arc, time::SystemTime};

use clone8s::v1::PodStatus;
use clone8s_daemon::{Shutdown, backoff, traces};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::{Id, JoinSet},
    time::{Duration, timeout},
};
use tracing::{Instrument as _, Span};

use calls::InFlight;

use super::{
    execute::{Executor, Outcome},
    hook::{self, Hook, HookRecords},
    memory::{FailedStep, Memory, Stop, Target},
    news::News,
    observe::Observer,
    observed::Observed,
    plan::{Action, StopCause, Want, plan},
    status::{StatusContext, is_terminal, status},
};
use crate::{
    clock::Clock,
    config::Intervals,
    desired::{DesiredPod, PodKey, PodUid},
    events::EventRecorder,
    probe::{ProbeContext, Probes},
    runtime::{RuntimeError, RuntimeHealth},
    status::{PodEntry, StatusBoard},
};

/// How long calls that must not be cut off have, once the kubelet is told to stop.
const DRAIN: Duration = Duration::from_secs(8);

/// Pods that are looked at at a time. A look takes milliseconds; all of a full node's at once would only take turns within
/// the runtime, and leave the room that they took in memory.
pub(crate) const LOOKS: usize = 16;
/// A look that takes longer gives its turn to another, and goes on.
const TURN: Duration = Duration::from_secs(1);

/// What every worker of a kubelet uses.
#[derive(Debug)]
pub(crate) struct WorkerContext {
    pub(crate) executor: Executor,
    pub(crate) intervals: Intervals,
    pub(crate) clock: Clock,
    pub(crate) board: StatusBoard,
    pub(crate) events: EventRecorder,
    pub(crate) host_ip: String,
    pub(crate) runtime_health: watch::Receiver<RuntimeHealth>,
    pub(crate) shutdown: Shutdown,
    /// Turns of those that look at their pods.
    pub(crate) looks: Semaphore,
}

pub(crate) struct Worker {
    context: Arc<WorkerContext>,
    key: PodKey,
    want: watch::Receiver<Want>,
    wake: Arc<Notify>,
    observer: Observer,
    probes: Probes,
    memory: Memory,
    /// The pod as it was last wanted: its status is told to the end.
    pod: Option<DesiredPod>,
    /// The status that was told last, and whose.
    told: Option<(PodUid, Arc<PodStatus>)>,
    news: News,
    calls: JoinSet<Outcome>,
    in_flight: HashMap<Id, InFlight>,
    /// The last action on each target that succeeded, while nothing else was done there.
    done: HashMap<Target, Action>,
}

impl Worker {
    pub(crate) fn new(
        context: Arc<WorkerContext>,
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

    /// Returns once the pod is gone here and at its source, or at shutdown. Boxed: else its future would hold it several
    /// times over.
    pub(crate) async fn run(mut self: Box<Self>) {
        let shutdown = self.context.shutdown.clone();
        let mut outage = backoff::reconnect();
        loop {
            let round = self.round();
            let observed = tokio::select! {
                observed = self.look().instrument(round.clone()) => observed,
                () = shutdown.cancelled() => return self.drain().await,
            };
            let wake_at = match observed {
                Ok(observed) => {
                    outage = backoff::reconnect();
                    match self.reconcile(observed).instrument(round).await {
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

    /// The span of one reconcile, over what it asks of the runtime and, to their ends, the calls that it begins.
    fn round(&self) -> Span {
        tracing::trace_span!(
            target: traces::TARGET,
            "pod",
            namespace = self.key.namespace,
            name = self.key.name,
            uid = self.want.borrow().pod().or(self.pod.as_ref()).map(|pod| pod.uid().to_string()),
        )
    }

    /// Observes the pod, once it is its turn.
    async fn look(&mut self) -> Result<Observed, RuntimeError> {
        // An error would say that nobody gives turns any more, which is never so.
        let turn = self.context.looks.acquire().await;
        let mut look = pin!(self.observer.observe());
        if let Ok(observed) = timeout(TURN, look.as_mut()).await {
            return observed;
        }
        drop(turn);
        look.await
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
                let dir = self.context.executor.volumes.dir(&pod.uid());
                self.probes.open(&dir).await;
                self.take_up_hooks(&dir).await;
            }
            self.probes.annotate(pod, &mut observed);
            hook::annotate(pod, &self.memory, &mut observed);
            self.memory.look_at_ephemeral(pod, &observed);
            self.memory.over = self.is_over(pod, &observed);
            self.pod = Some(pod.clone());
        }
        let observed = &observed;
        let sandboxes = observed.sandboxes.iter().map(|sandbox| &sandbox.uid);
        let containers = observed.containers.iter().map(|run| &run.uid);
        self.memory.uncleaned.extend(sandboxes.chain(containers).cloned());
        self.forget_hooks(observed).await;
        self.memory.retain(observed);

        self.look_at_objects(&want);

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

    /// An earlier kubelet has taken the pod down, and told of that what it knew: that stands, and may be more than what is on
    /// this node's disk.
    fn knows_no_end(&self, want: &Want, uid: &PodUid, observed: &Observed) -> bool {
        matches!(want, Want::Stop { .. })
            && self.told.as_ref().is_none_or(|(told, _)| told != uid)
            && !observed.containers.iter().any(|run| run.uid == *uid)
    }

    fn status(&self, want: &Want, pod: &DesiredPod, observed: &Observed, now: SystemTime) -> PodStatus {
        let health = self.context.runtime_health.borrow().version.clone();
        let context = StatusContext {
            intervals: &self.context.intervals,
            host_ip: &self.context.host_ip,
            runtime_name: health.split_once("://").map_or("cri", |(name, _)| name),
            now,
        };
        status(want, pod, observed, &self.memory, self.told(pod), &context)
    }

    /// What was told of the pod last.
    fn told<'a>(&'a self, pod: &'a DesiredPod) -> Option<&'a PodStatus> {
        match &self.told {
            Some((told, status)) if *told == pod.uid() => Some(status),
            // Before the kubelet's restart.
            _ => pod.pod.status.as_ref(),
        }
    }

    /// A pod of the API that is over stays so, whatever becomes of its spec and of what is left of it here. One of the
    /// node's own has a new life with each change.
    fn is_over(&self, pod: &DesiredPod, observed: &Observed) -> bool {
        let mut runs = observed.containers.iter().filter(|run| run.uid == pod.uid());
        !pod.source.is_nodes_own()
            && self.told(pod).is_some_and(|told| is_terminal(&told.phase))
            && !runs.any(|run| run.state.may_run())
    }

    /// What an earlier kubelet has recorded of the pod's hooks. A preStop hook was the beginning of a stop, for whatever
    /// reason.
    async fn take_up_hooks(&mut self, pod_dir: &Path) {
        let found = HookRecords::of(pod_dir).load().await;
        for ((id, hook), record) in &found {
            if *hook == Hook::PreStop {
                let stop = Stop {
                    begun_at: record.begun_at,
                    cause: StopCause::OutOfPlace,
                };
                self.memory.stops.entry(id.clone()).or_insert(stop);
            }
        }
        self.memory.hooks.extend(found);
    }

    async fn forget_hooks(&self, observed: &Observed) {
        let Some(pod) = &self.pod else { return };
        let ids = self.memory.hooks.keys().map(|(id, _)| id);
        let gone = ids.filter(|id| !observed.containers.iter().any(|run| run.id == **id));
        for id in gone {
            let dir = self.context.executor.volumes.dir(&pod.uid());
            HookRecords::of(&dir).forget(id).await;
        }
    }

    /// Takes note of what the pod's config maps, secrets, labels and annotations are like now.
    fn look_at_objects(&mut self, want: &Want) {
        let Want::Run(pod) = want else { return };
        let objects = self.context.executor.objects.borrow();
        let configuration = &mut self.memory.configuration;
        let seen = Some(objects.seen_by(pod));
        if configuration.seen.is_some() && configuration.seen != seen {
            // What was missing may be there.
            self.memory
                .failures
                .retain(|_, failure| failure.step != FailedStep::PrepareContainer);
        }
        configuration.seen = seen;
        configuration.unknown = objects.unknown_to(pod);
        configuration.wanted = objects.shown_to(pod);
    }

    /// Keeps the probes in line with what runs. What is being stopped is asked nothing.
    fn ask(&mut self, want: &Want, observed: &Observed) {
        match want {
            Want::Run(pod) | Want::Refuse { pod, .. } => {
                let address = observed.address(pod, &self.context.host_ip);
                self.probes.follow(pod, observed, address);
            }
            Want::Stop { .. } | Want::Evict { .. } => self.probes.stop(),
        }
    }

    fn tell(&mut self, want: &Want, observed: &Observed, gone: bool, now: SystemTime) {
        let Some(pod) = self.pod.clone() else { return };
        let uid = pod.uid();
        let status = match &pod.pod.status {
            Some(before) if self.knows_no_end(want, &uid, observed) => Arc::new(before.clone()),
            _ => {
                let status = self.status(want, &pod, observed, now);
                self.news.told(&self.context.events, &pod, want, &status);
                match &self.told {
                    // One in memory: the board keeps the first of those that are equal.
                    Some((told, same)) if *told == uid && **same == status => Arc::clone(same),
                    _ => Arc::clone(&self.told.insert((uid.clone(), Arc::new(status))).1),
                }
            }
        };
        self.context.board.publish(
            &self.key,
            PodEntry {
                uid,
                source: pod.source,
                status,
                gone,
            },
        );
    }

    /// Lets calls end that would leave half a thing behind, and gives up the others. Containers run on.
    async fn drain(mut self: Box<Self>) {
        self.probes.stop();
        for call in self.in_flight.values() {
            let can_go_on_later = match &call.action {
                Action::PullImage { .. } | Action::StopContainer { .. } => true,
                action => action.hook().is_some_and(|(_, call)| hook::is_sleep(call)),
            };
            if can_go_on_later {
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
