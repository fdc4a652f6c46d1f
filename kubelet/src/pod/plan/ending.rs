//! The end of a run: what is to be done before it, its stop signal, and the time that both have.

use std::time::{Duration, SystemTime};

use clone8s::v1::{Container, LifecycleHandler};

use super::{
    super::{
        cri::{self, grace_seconds},
        hook::{Hook, HookCall},
        memory::Target,
        observed::{Run, RunState},
        stages::{ended_at, first_to_end},
    },
    Action, Planner, StopCause,
};
use crate::{desired::DesiredPod, probe::Place};

const DEFAULT_GRACE: Duration = Duration::from_secs(cri::DEFAULT_GRACE_SECONDS as u64);
/// What every run has to end by itself, even when its turn comes late, unless it is to end at once.
const MOMENT: Duration = Duration::from_secs(2);

/// How long a pod that is being deleted has to end; None for one that is not.
pub(super) fn deletion_grace(pod: &DesiredPod) -> Option<Duration> {
    let metadata = pod.pod.metadata.as_ref()?;
    metadata.deletion_timestamp.as_ref()?;
    let seconds = metadata.deletion_grace_period_seconds.map_or_else(
        || u64::from(grace_seconds(pod.spec())),
        |seconds| u64::try_from(seconds).unwrap_or(0),
    );
    Some(Duration::from_secs(seconds))
}

/// When a run is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline {
    at: SystemTime,
    moment: Duration,
}

impl Deadline {
    fn counted_from(self, now: SystemTime) -> SystemTime {
        if self.moment.is_zero() {
            now
        } else {
            self.at.max(now + self.moment)
        }
    }
}

impl<'a> Planner<'a> {
    /// Of a run that ends while its pod goes on.
    pub(super) fn deadline(
        &self,
        pod: &DesiredPod,
        container: &Container,
        run: &Run,
        cause: StopCause,
    ) -> Deadline {
        let of_probe = match cause {
            StopCause::ProbeFailed(kind) => kind
                .of(container)
                .and_then(|probe| probe.termination_grace_period_seconds)
                .and_then(|seconds| u32::try_from(seconds).ok()),
            _ => None,
        };
        let seconds = of_probe.unwrap_or_else(|| grace_seconds(pod.spec()));
        let grace = Duration::from_secs(seconds.into());
        let over_since = ended_at(pod, self.observed).filter(|_| cause == StopCause::NotNeeded);
        // Sidecars share what is left of the pod's time.
        over_since.map_or_else(
            || self.deadline_of(run, grace),
            |since| self.deadline_from(Some(since), grace),
        )
    }

    pub(super) fn deadline_of(&self, run: &Run, grace: Duration) -> Deadline {
        let begun = self.memory.stops.get(&run.id).map(|stop| stop.begun_at);
        self.deadline_from(begun, grace)
    }

    /// Of a run whose pod goes: the pod's runs share the time from the first stop on. Not from when the deletion was asked
    /// for, which another clock has said. Where nobody says how long, what the sandbox was made with counts.
    pub(super) fn teardown_deadline(&self, run: &Run, grace: Option<Duration>) -> Deadline {
        let of_sandbox = || self.observed.sandbox(&run.sandbox)?.grace;
        let grace = grace.or_else(of_sandbox).unwrap_or(DEFAULT_GRACE);
        let of_pod = self
            .observed
            .containers
            .iter()
            .filter(|other| other.uid == run.uid);
        let begun = of_pod
            .filter_map(|other| Some((&other.id, self.memory.stops.get(&other.id)?)))
            .filter(|(id, stop)| **id == run.id || stop.cause == StopCause::PodDeleted)
            .map(|(_, stop)| stop.begun_at)
            .min();
        self.deadline_from(begun, grace)
    }

    /// What begun in the future, by a clock that was set back since, begins now.
    fn deadline_from(&self, begun: Option<SystemTime>, grace: Duration) -> Deadline {
        Deadline {
            at: begun.map_or(self.now, |begun| begun.min(self.now)) + grace,
            moment: MOMENT.min(grace),
        }
    }

    /// Stops runs that may go on, all at once or in the order in which a pod ends, and removes those that do not.
    pub(super) fn end_all(&mut self, endings: Vec<(&'a Run, Deadline, StopCause)>, in_order: bool) {
        let stopping: Vec<_> = endings
            .iter()
            .map(|(run, ..)| *run)
            .filter(|run| self.must_be_stopped(run))
            .collect();
        let first = if in_order {
            first_to_end(&stopping)
        } else {
            stopping
        };
        for (run, deadline, cause) in endings {
            if first.iter().any(|one| one.id == run.id) {
                self.stop_run(run, deadline, cause);
            } else if !self.must_be_stopped(run) {
                self.remove_run(run);
            }
        }
    }

    pub(super) fn stop_run(&mut self, run: &Run, deadline: Deadline, cause: StopCause) {
        if self.must_wait(&Target::Run(run.id.clone()), "") {
            return;
        }
        let action = self.pre_stop(run, deadline, cause);
        let action = action.unwrap_or_else(|| Action::StopContainer {
            id: run.id.clone(),
            name: run.name.clone(),
            kill_at: deadline.counted_from(self.now),
            cause,
        });
        self.plan.actions.push(action);
    }

    /// What is still to be done before the stop signal of a run.
    fn pre_stop(&mut self, run: &Run, deadline: Deadline, cause: StopCause) -> Option<Action> {
        let handler = run.pre_stop.as_ref()?;
        let record = self.memory.hooks.get(&(run.id.clone(), Hook::PreStop));
        let is_over = record.is_some_and(|record| record.end.is_some());
        let may_answer = matches!(run.state, RunState::Running { .. });
        if is_over || !may_answer || deadline.moment.is_zero() {
            return None;
        }
        let begun = record.map_or(self.now, |record| record.begun_at.min(self.now));
        let until = deadline.counted_from(begun);
        if until <= self.now {
            return None;
        }
        self.wake_at(until);
        Some(Action::PreStop {
            call: self.hook_call(run, handler),
            until,
            cause,
        })
    }

    pub(super) fn hook_call(&self, run: &Run, handler: &LifecycleHandler) -> HookCall {
        let sandbox = self.observed.sandbox(&run.sandbox);
        HookCall {
            uid: run.uid.clone(),
            container: run.name.clone(),
            place: Place::of_id(run.id.clone(), sandbox.and_then(|sandbox| sandbox.ip.as_deref())),
            handler: handler.clone(),
        }
    }
}
