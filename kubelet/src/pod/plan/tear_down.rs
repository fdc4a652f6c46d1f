//! Towards nothing being left: runs, then sandboxes, then folders.

use std::time::Duration;

use clone8s::v1::PodSpec;

use super::{
    super::{
        cri::grace_seconds,
        memory::Target,
        observed::{Run, RunState, Sandbox},
        stages::first_to_end,
    },
    Action, Planner, StopCause,
    ending::{Deadline, deletion_grace},
};
use crate::desired::{DesiredPod, PodUid};

impl<'a> Planner<'a> {
    pub(super) fn stop(&mut self, pod: Option<&DesiredPod>) {
        let grace = pod.and_then(deletion_grace);
        if self.tear_down(|_| true, grace, StopCause::PodDeleted) {
            return;
        }
        self.plan.gone = true;
    }

    /// At once, as Kubernetes does for the disk's sake; the pod stays known.
    pub(super) fn evict(&mut self) {
        self.tear_down(|_| true, Some(Duration::ZERO), StopCause::Evicted);
    }

    /// Runs that must not go on beside the newest of their container, and runs of containers that the spec no longer
    /// has.
    pub(super) fn strays(&self, pod: &DesiredPod, uid: &PodUid) -> Vec<(&'a Run, Deadline, StopCause)> {
        let spec = pod.spec();
        let grace = Duration::from_secs(grace_seconds(spec).into());
        let mut strays = Vec::new();
        for run in self.observed.containers.iter().filter(|run| run.uid == *uid) {
            let deadline = self.deadline_of(run, grace);
            if spec.container(&run.name).is_none() {
                strays.push((run, deadline, StopCause::SpecChanged));
                continue;
            }
            let newest = self.observed.runs_of(uid, &run.name)[0];
            let is_over = matches!(run.state, RunState::Exited(_));
            if run.id != newest.id && !is_over {
                strays.push((run, deadline, StopCause::OutOfPlace));
            }
        }
        strays
    }

    /// Everything is as it should be in `present`: gives back what it no longer needs.
    pub(super) fn retire(&mut self, uid: &PodUid, present: &Sandbox) {
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
    pub(super) fn drop_old_runs(&mut self, uid: &PodUid, spec: &PodSpec) {
        for container in spec.all_containers() {
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
    pub(super) fn tear_down(
        &mut self,
        doomed: impl Fn(&PodUid) -> bool,
        grace: Option<Duration>,
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
        let ending: Vec<_> = runs
            .iter()
            .copied()
            .filter(|run| self.must_be_stopped(run))
            .collect();
        if !ending.is_empty() {
            for run in first_to_end(&ending) {
                let deadline = self.teardown_deadline(run, grace);
                self.stop_run(run, deadline, cause);
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

    pub(super) fn remove_run(&mut self, run: &Run) {
        if !self.must_wait(&Target::Run(run.id.clone()), "") {
            self.plan
                .actions
                .push(Action::RemoveContainer { id: run.id.clone() });
        }
    }

    /// Stops a sandbox, and removes it once a stop has succeeded.
    pub(super) fn retire_sandbox(&mut self, sandbox: &Sandbox) {
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
}
