//! Decides what to do next for one pod. Pure: the same inputs give the same plan.
//!
//! ```text
//!            (other uids first)      ┌──────────────── container, each on its own ────────────────┐
//! nothing ──► run sandbox ──► ready ─┤ inspect image ─► pull ─► create ─► start ─► running         │
//!    ▲                          │    │      ▲                                      │  exits, or    │
//!    │                          │    │      └──── wait, unless the policy says done ◄  spec changed │
//!    │                          │    └────────────────────────────────────────────────────────────┘
//!    └── remove ◄── stop sandbox ◄── stop containers ◄── pod unwanted, replaced, or needs another sandbox
//! ```
//!
//! The actions of one plan do not depend on each other: the worker runs them side by side and plans again whenever
//! one ends or the world changes.

use std::time::{Duration, SystemTime};

use clone8s::v1::Container;

use super::{
    cri::{RunNumbers, grace_seconds},
    hash,
    memory::{ImageKnowledge, Memory, Target},
    observed::{Observed, Run, RunState, Sandbox},
};
use crate::{
    config::Intervals,
    desired::{DesiredPod, PodUid},
};

pub use super::{
    action::{Action, StopCause},
    restart::{Next, next_run},
    want::{Refusal, Want},
};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// When to plan again although nothing has changed.
    pub wake_at: Option<SystemTime>,
    /// The pod is to be gone, and is.
    pub gone: bool,
}

/// What to do now.
pub fn plan(
    want: &Want,
    observed: &Observed,
    memory: &Memory,
    intervals: &Intervals,
    now: SystemTime,
) -> Plan {
    let mut planner = Planner {
        observed,
        memory,
        intervals,
        now,
        plan: Plan::default(),
    };
    match want {
        Want::Run(pod) => planner.run(pod),
        Want::Stop { pod } => planner.stop(pod.as_ref()),
        Want::Refuse { .. } => {}
    }
    planner.plan
}

struct Planner<'a> {
    observed: &'a Observed,
    memory: &'a Memory,
    intervals: &'a Intervals,
    now: SystemTime,
    plan: Plan,
}

/// What one container of the spec needs.
enum Need<'a> {
    /// It runs, or is done, or waits.
    Nothing,
    /// A run in the wrong place or of an old spec must end first.
    Replace(&'a Run, StopCause),
    /// A new run.
    New(RunNumbers),
    /// The run that was made must start.
    Start(&'a Run),
}

impl<'a> Planner<'a> {
    fn run(&mut self, pod: &DesiredPod) {
        let uid = pod.uid();
        // A pod that had this name before goes first: it may hold the address, the ports and the name.
        if self.tear_down(|other| *other != uid, None, StopCause::PodDeleted) {
            return;
        }
        let spec_hash = hash::sandbox_hash(pod);
        let sandbox = self.present_sandbox(&uid, &spec_hash);
        let containers = &pod.spec().containers;
        let needs: Vec<_> = containers
            .iter()
            .map(|container| (container, self.need(pod, &uid, container, sandbox)))
            .collect();

        let grace = Duration::from_secs(grace_seconds(pod.spec()).into());
        for (_, need) in &needs {
            if let Need::Replace(run, cause) = need {
                self.end(run, grace, *cause);
            }
        }
        self.end_strays(&uid, containers, grace);

        match sandbox {
            Some(sandbox) => {
                let mut busy = false;
                for (container, need) in needs {
                    match need {
                        Need::Nothing | Need::Replace(..) => {}
                        Need::New(run) => {
                            busy = true;
                            self.new_run(pod, container, sandbox, run);
                        }
                        Need::Start(run) => {
                            busy = true;
                            self.start(pod, container, run);
                        }
                    }
                }
                // Sandboxes before the present one are of no use once their containers have ended.
                if !busy && self.plan.actions.is_empty() && self.plan.wake_at.is_none() {
                    self.retire(&uid, sandbox);
                }
            }
            None => self.make_way(&uid, &spec_hash, &needs),
        }
        self.drop_old_runs(&uid, containers);
    }

    fn stop(&mut self, pod: Option<&DesiredPod>) {
        let kill_at = pod.and_then(|pod| deletion_deadline(pod, self.now));
        if self.tear_down(|_| true, kill_at, StopCause::PodDeleted) {
            return;
        }
        self.plan.gone = true;
    }

    /// The sandbox that the pod's containers belong in.
    fn present_sandbox(&self, uid: &PodUid, spec_hash: &str) -> Option<&'a Sandbox> {
        let own = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready && sandbox.uid == *uid && sandbox.spec_hash == *spec_hash);
        // Where two fit, the one that more containers run in: the other came of a call whose answer was lost.
        own.max_by_key(|sandbox| {
            let running = self
                .observed
                .containers
                .iter()
                .filter(|run| run.sandbox == sandbox.id && matches!(run.state, RunState::Running { .. }));
            (running.count(), sandbox.attempt, sandbox.created_at, &sandbox.id)
        })
    }

    fn need(
        &mut self,
        pod: &DesiredPod,
        uid: &PodUid,
        container: &Container,
        sandbox: Option<&Sandbox>,
    ) -> Need<'a> {
        let runs = self.observed.runs_of(uid, &container.name);
        let Some(newest) = runs.first().copied() else {
            return Need::New(RunNumbers {
                restart_count: 0,
                backoff_step: 0,
            });
        };
        let spec_hash = hash::container_hash(pod, container);
        let in_place = sandbox.is_some_and(|sandbox| sandbox.id == newest.sandbox);
        let up_to_date = newest.spec_hash == spec_hash;
        let successor = |backoff_step| {
            Need::New(RunNumbers {
                restart_count: newest.restart_count.saturating_add(1),
                backoff_step,
            })
        };
        match &newest.state {
            RunState::Running { .. } if in_place && up_to_date => Need::Nothing,
            // An older run ends first: two of one container would be in each other's way.
            RunState::Created | RunState::Exited(_) if runs.iter().any(|run| run.state.may_run()) => {
                Need::Nothing
            }
            RunState::Created if in_place && up_to_date => Need::Start(newest),
            RunState::Running { .. } | RunState::Created | RunState::Unknown => {
                let cause = if up_to_date {
                    StopCause::OutOfPlace
                } else {
                    StopCause::SpecChanged
                };
                Need::Replace(newest, cause)
            }
            // An update starts at once, whatever became of the run before.
            RunState::Exited(_) if !up_to_date => successor(0),
            RunState::Exited(exit) => {
                match next_run(&pod.spec().restart_policy, newest, exit, self.intervals) {
                    Next::Done => Need::Nothing,
                    Next::RestartAt { at, backoff_step } if at <= self.now => successor(backoff_step),
                    Next::RestartAt { at, .. } => {
                        self.wake_at(at);
                        Need::Nothing
                    }
                }
            }
        }
    }

    /// Ends runs that must not go on beside the newest of their container, and runs of containers that the spec no
    /// longer has.
    fn end_strays(&mut self, uid: &PodUid, containers: &[Container], grace: Duration) {
        for run in self.observed.containers.iter().filter(|run| run.uid == *uid) {
            let known = containers.iter().any(|container| container.name == run.name);
            if !known {
                self.end(run, grace, StopCause::SpecChanged);
                continue;
            }
            let newest = self.observed.runs_of(uid, &run.name)[0];
            let is_over = matches!(run.state, RunState::Exited(_));
            if run.id != newest.id && !is_over {
                self.end(run, grace, StopCause::OutOfPlace);
            }
        }
    }

    /// One step towards the next run of a container: know its image, have its image, make it.
    fn new_run(&mut self, pod: &DesiredPod, container: &Container, sandbox: &Sandbox, run: RunNumbers) {
        let target = Target::Container(container.name.clone());
        if self.must_wait(&target, &hash::container_hash(pod, container)) {
            return;
        }
        let name = container.name.clone();
        let image = container.image.clone();
        let known = self
            .memory
            .images
            .get(&name)
            .filter(|known| known.image() == image);
        let action = match (container.image_pull_policy.as_str(), known) {
            (_, Some(ImageKnowledge::Pulled { found, .. }))
            | ("IfNotPresent" | "Never", Some(ImageKnowledge::Present { found, .. })) => {
                Action::CreateContainer {
                    container: name,
                    sandbox: sandbox.id.clone(),
                    run,
                    image: found.clone(),
                }
            }
            // A person may still import the image: look again from time to time.
            ("Never", Some(ImageKnowledge::Absent { at, .. })) => {
                let again_at = *at + self.intervals.backoff_base;
                if again_at > self.now {
                    self.wake_at(again_at);
                    return;
                }
                Action::InspectImage {
                    container: name,
                    image,
                }
            }
            ("IfNotPresent" | "Never", None) => Action::InspectImage {
                container: name,
                image,
            },
            _ => Action::PullImage {
                container: name,
                image,
            },
        };
        self.plan.actions.push(action);
    }

    fn start(&mut self, pod: &DesiredPod, container: &Container, run: &Run) {
        let target = Target::Container(container.name.clone());
        if !self.must_wait(&target, &hash::container_hash(pod, container)) {
            self.plan.actions.push(Action::StartContainer {
                container: container.name.clone(),
                id: run.id.clone(),
            });
        }
    }

    /// There is no sandbox that fits. Clears the way for one, and makes it if a container is to run in it.
    fn make_way(&mut self, uid: &PodUid, spec_hash: &str, needs: &[(&Container, Need<'_>)]) {
        if !self.plan.actions.is_empty() || self.may_run_any(uid) {
            return;
        }
        let own = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.uid == *uid);
        if let Some(ready) = own.clone().find(|sandbox| sandbox.ready) {
            // It holds the network that its successor needs.
            self.retire_sandbox(ready);
            return;
        }
        let wanted = needs.iter().any(|(_, need)| matches!(need, Need::New(_)));
        if !wanted || self.must_wait(&Target::Pod, spec_hash) {
            return;
        }
        let attempt = own
            .map(|sandbox| sandbox.attempt.saturating_add(1))
            .max()
            .unwrap_or(0);
        self.plan.actions.push(Action::RunSandbox { attempt });
    }

    /// Everything is as it should be in `present`: gives back what it no longer needs.
    fn retire(&mut self, uid: &PodUid, present: &Sandbox) {
        let own = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.uid == *uid);
        for old in own.filter(|sandbox| sandbox.id != present.id) {
            if old.ready {
                self.retire_sandbox(old);
                return;
            }
            // The last ended run of a container is kept for its logs, and its sandbox with it.
            if !self.observed.containers.iter().any(|run| run.sandbox == old.id) {
                self.remove_sandbox(old);
                return;
            }
        }
        let all_ended = self.observed.containers.iter().any(|run| run.uid == *uid) && !self.may_run_any(uid);
        if all_ended && !self.memory.stopped_sandboxes.contains(&present.id) {
            self.stop_sandbox(present);
        }
    }

    /// Keeps, of the ended runs of each container, the newest two: the one whose end its status shows, and the one
    /// before it for its logs.
    fn drop_old_runs(&mut self, uid: &PodUid, containers: &[Container]) {
        for container in containers {
            let runs = self.observed.runs_of(uid, &container.name);
            for old in runs
                .into_iter()
                .skip(2)
                .filter(|run| matches!(run.state, RunState::Exited(_)))
            {
                self.remove_run(old);
            }
        }
    }

    /// One step towards nothing being left of the pods that `doomed` names; false once nothing is.
    fn tear_down(
        &mut self,
        doomed: impl Fn(&PodUid) -> bool,
        kill_at: Option<SystemTime>,
        cause: StopCause,
    ) -> bool {
        let runs: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(|run| doomed(&run.uid))
            .collect();
        let sandboxes: Vec<_> = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| doomed(&sandbox.uid))
            .collect();
        // Containers first: their exit hooks need the network that goes with the sandbox.
        let ending: Vec<_> = runs.iter().filter(|run| self.must_be_stopped(run)).collect();
        if !ending.is_empty() {
            for run in ending {
                let grace = self
                    .observed
                    .sandbox(&run.sandbox)
                    .and_then(|sandbox| sandbox.grace)
                    .unwrap_or(DEFAULT_GRACE);
                self.stop_run(run, kill_at.unwrap_or(self.now + grace), cause);
            }
            return true;
        }
        if let Some(sandbox) = sandboxes.first() {
            self.retire_sandbox(sandbox);
            return true;
        }
        if !runs.is_empty() {
            for run in runs {
                self.remove_run(run);
            }
            return true;
        }
        let leftover = self.memory.uncleaned.iter().find(|uid| doomed(uid));
        if let Some(uid) = leftover {
            if !self.must_wait(&Target::Pod, "") {
                self.plan.actions.push(Action::CleanUp { uid: uid.clone() });
            }
            return true;
        }
        false
    }

    /// Stops a run that may go on, removes one that does not.
    fn end(&mut self, run: &Run, grace: Duration, cause: StopCause) {
        if self.must_be_stopped(run) {
            self.stop_run(run, self.now + grace, cause);
        } else {
            self.remove_run(run);
        }
    }

    fn must_be_stopped(&self, run: &Run) -> bool {
        match run.state {
            RunState::Running { .. } => true,
            RunState::Unknown => !self.memory.stopped_containers.contains(&run.id),
            RunState::Created | RunState::Exited(_) => false,
        }
    }

    fn may_run_any(&self, uid: &PodUid) -> bool {
        self.observed
            .containers
            .iter()
            .any(|run| run.uid == *uid && self.must_be_stopped(run))
    }

    fn stop_run(&mut self, run: &Run, kill_at: SystemTime, cause: StopCause) {
        if !self.must_wait(&Target::Run(run.id.clone()), "") {
            self.plan.actions.push(Action::StopContainer {
                id: run.id.clone(),
                name: run.name.clone(),
                kill_at,
                cause,
            });
        }
    }

    fn remove_run(&mut self, run: &Run) {
        if !self.must_wait(&Target::Run(run.id.clone()), "") {
            self.plan
                .actions
                .push(Action::RemoveContainer { id: run.id.clone() });
        }
    }

    /// Stops a sandbox, and removes it once a stop has succeeded.
    fn retire_sandbox(&mut self, sandbox: &Sandbox) {
        if self.memory.stopped_sandboxes.contains(&sandbox.id) {
            self.remove_sandbox(sandbox);
        } else {
            self.stop_sandbox(sandbox);
        }
    }

    fn stop_sandbox(&mut self, sandbox: &Sandbox) {
        if !self.must_wait(&Target::Pod, "") {
            self.plan.actions.push(Action::StopSandbox {
                id: sandbox.id.clone(),
            });
        }
    }

    fn remove_sandbox(&mut self, sandbox: &Sandbox) {
        if !self.must_wait(&Target::Pod, "") {
            self.plan.actions.push(Action::RemoveSandbox {
                id: sandbox.id.clone(),
            });
        }
    }

    /// True while the last failure on the target asks for patience.
    fn must_wait(&mut self, target: &Target, spec_hash: &str) -> bool {
        let Some(failure) = self.memory.failure(target, spec_hash) else {
            return false;
        };
        let retry_at = failure.retry_at(self.intervals);
        if retry_at <= self.now {
            return false;
        }
        self.wake_at(retry_at);
        true
    }

    fn wake_at(&mut self, at: SystemTime) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

const DEFAULT_GRACE: Duration = Duration::from_secs(super::cri::DEFAULT_GRACE_SECONDS as u64);

/// When the containers of a pod that is being deleted are killed. Unless that was to be at once, each gets a moment to
/// end by itself, even when the kubelet comes late.
fn deletion_deadline(pod: &DesiredPod, now: SystemTime) -> Option<SystemTime> {
    const MOMENT: Duration = Duration::from_secs(2);
    let metadata = pod.pod.metadata.as_ref()?;
    let asked = crate::clock::from_timestamp(metadata.deletion_timestamp.as_ref()?);
    let grace = metadata.deletion_grace_period_seconds.map_or_else(
        || u64::from(grace_seconds(pod.spec())),
        |seconds| u64::try_from(seconds).unwrap_or(0),
    );
    if grace == 0 {
        return Some(now);
    }
    let grace = Duration::from_secs(grace);
    Some((asked + grace).max(now + MOMENT.min(grace)))
}

#[cfg(test)]
mod tests;
