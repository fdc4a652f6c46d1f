//! Towards nothing being left: runs, then sandboxes, then folders.

use std::time::{Duration, SystemTime};

use clone8s::v1::Container;

use super::{
    super::{
        cri::{self, grace_seconds},
        memory::Target,
        observed::{Run, RunState, Sandbox},
    },
    Action, Planner, StopCause,
};
use crate::desired::{DesiredPod, PodUid};

const DEFAULT_GRACE: Duration = Duration::from_secs(cri::DEFAULT_GRACE_SECONDS as u64);

impl Planner<'_> {
    pub(super) fn stop(&mut self, pod: Option<&DesiredPod>) {
        let kill_at = pod.and_then(|pod| deletion_deadline(pod, self.now));
        if self.tear_down(|_| true, kill_at, StopCause::PodDeleted) {
            return;
        }
        self.plan.gone = true;
    }

    /// Ends runs that must not go on beside the newest of their container, and runs of containers that the spec no
    /// longer has.
    pub(super) fn end_strays(&mut self, pod: &DesiredPod, uid: &PodUid) {
        let containers = &pod.spec().containers;
        let grace = Duration::from_secs(grace_seconds(pod.spec()).into());
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
    pub(super) fn drop_old_runs(&mut self, uid: &PodUid, containers: &[Container]) {
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
    pub(super) fn tear_down(
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
    pub(super) fn end(&mut self, run: &Run, grace: Duration, cause: StopCause) {
        if self.must_be_stopped(run) {
            self.stop_run(run, self.now + grace, cause);
        } else {
            self.remove_run(run);
        }
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
