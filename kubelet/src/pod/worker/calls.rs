//! The calls that a worker has under way: begins them, gives up what is no longer wanted, and takes note of how each
//! ended.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use tokio::task::{AbortHandle, Id, JoinError};
use tracing::Instrument as _;

use super::{
    super::{
        execute::{Outcome, Subject},
        hook::{Hook, HookCall, HookRecord},
        memory::{FailureCause, ImageKnowledge, Target},
        news,
        observed::Observed,
        plan::{Action, Want},
        resources::Allocation,
    },
    Worker,
};
use crate::desired::{DesiredPod, PodKey};

/// A call under way.
pub(super) struct InFlight {
    pub(super) action: Action,
    spec_hash: String,
    started: SystemTime,
    pub(super) abort: AbortHandle,
}

impl Worker {
    /// An action that succeeded and is asked for again at once has had no effect: the runtime says one thing and
    /// shows another. It waits like a failure, or it would be repeated without end.
    pub(super) fn refuse_repetition(&mut self, actions: &mut Vec<Action>, now: SystemTime) {
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

    /// Drops calls that the plan no longer asks for, where that is safe: pulls, hooks whose time is up or whose container
    /// is gone, and waits for a stop that must now come sooner.
    pub(super) fn give_up_unwanted(&mut self, actions: &[Action]) {
        let (pod, events) = (self.pod.as_ref(), &self.context.events);
        self.in_flight.retain(|_, call| {
            let unwanted = match &call.action {
                hook @ Action::PostStart(_) => !actions.contains(hook),
                hook @ Action::PreStop { call, .. } => {
                    let is_late = actions.iter().any(
                        |action| matches!(action, Action::StopContainer { id, .. } if id == call.place.run()),
                    );
                    if let Some(pod) = pod.filter(|_| is_late) {
                        news::late(events, pod, hook);
                    }
                    is_late || !actions.iter().any(|action| action.is_same_as(hook))
                }
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

    pub(super) fn begin(&mut self, action: Action, want: &Want, observed: &Observed, now: SystemTime) {
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
            Want::Stop { .. } | Want::Evict { .. } | Want::Refuse { .. } => None,
        };
        if let Some(pod) = self.pod.as_ref() {
            news::begun(&self.context.events, pod, &action);
        }
        let spec_hash = pod.as_ref().map(|pod| action.spec_hash(pod)).unwrap_or_default();
        if let Some((hook, call)) = action.hook() {
            self.note_hook(hook, call, now);
        }
        match &action {
            Action::PreStop { call, cause, .. } => self.memory.note_stop(call.place.run(), *cause, now),
            Action::StopContainer { id, cause, .. } => self.memory.note_stop(id, *cause, now),
            _ => {}
        }
        let allocations = pod
            .as_ref()
            .map(|pod| self.allocations(pod, observed))
            .unwrap_or_default();
        let subject = subject(&self.key, pod, allocations, &action, observed);
        tracing::debug!(pod = %self.key, ?action, "begin");
        let context = Arc::clone(&self.context);
        let call = action.clone();
        let abort = self
            .calls
            .spawn(async move { context.executor.execute(subject, call).await }.in_current_span());
        let in_flight = InFlight {
            action,
            spec_hash,
            started: now,
            abort,
        };
        self.in_flight.insert(in_flight.abort.id(), in_flight);
    }

    /// What the pod's running containers are held to, by name.
    fn allocations(&self, pod: &DesiredPod, observed: &Observed) -> BTreeMap<String, Allocation> {
        let uid = pod.uid();
        let has = |name: &str| {
            let runs = observed.runs_of(&uid, name);
            let running = runs.into_iter().find(|run| run.state.may_run())?;
            let resized = self.memory.resized.get(&running.id).copied();
            resized.or(running.allocation)
        };
        let containers = pod.spec().all_containers();
        containers
            .filter_map(|container| Some((container.name.clone(), has(&container.name)?)))
            .collect()
    }

    fn note_hook(&mut self, hook: Hook, call: &HookCall, now: SystemTime) {
        let begun = HookRecord {
            begun_at: now,
            end: None,
        };
        let key = (call.place.run().clone(), hook);
        self.memory.hooks.entry(key).or_insert(begun);
    }

    /// Takes note of how a call ended.
    pub(super) fn note(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        // Given up in the meantime.
        let Some(call) = self.in_flight.remove(&id) else {
            return;
        };
        // Most of the time nothing is under way.
        self.in_flight.shrink_to_fit();
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
                    // Perhaps an image is gone: look again.
                    self.memory.forget_images(container);
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
                let knowledge = match outcome {
                    Outcome::Image(Some(found)) if pulled => ImageKnowledge::Pulled(found),
                    Outcome::Image(Some(found)) => ImageKnowledge::Present(found),
                    _ => ImageKnowledge::Absent { at: now },
                };
                self.memory.note_image(container, image, knowledge);
                self.memory.has_image(&target);
                return;
            }
            Action::PostStart(_) | Action::PreStop { .. } => {
                let record = action
                    .hook()
                    .and_then(|(hook, call)| self.memory.hooks.get_mut(&(call.place.run().clone(), hook)));
                if let (Outcome::Hook(end), Some(record)) = (outcome, record) {
                    record.end = Some(end);
                }
                self.memory.failures.remove(&target);
                return;
            }
            Action::CreateContainer { container, .. } => {
                self.memory.forget_images(container);
            }
            Action::StopSandbox { id } => {
                self.memory.stopped_sandboxes.insert(id.clone());
            }
            Action::StopContainer { id, .. } => {
                self.memory.stopped_containers.insert(id.clone());
            }
            Action::ResizeContainer { id, allocation, .. } => {
                self.memory.resized.insert(id.clone(), *allocation);
                self.memory.failures.remove(&target);
                return;
            }
            Action::RefreshVolumes { wanted } => {
                self.memory.configuration.shown = Some(*wanted);
                self.memory.failures.remove(&target);
                return;
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
}

fn subject(
    key: &PodKey,
    pod: Option<DesiredPod>,
    allocations: BTreeMap<String, Allocation>,
    action: &Action,
    observed: &Observed,
) -> Subject {
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
        allocations,
        sandbox_attempt: sandbox.map_or(0, |sandbox| sandbox.attempt),
    }
}
