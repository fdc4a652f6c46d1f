//! Towards running containers: the sandbox, then for each container its image, its run, its start.

use clone8s::v1::Container;

use super::{
    super::{
        cri::RunNumbers,
        hash,
        memory::{ImageKnowledge, Target},
        observed::{Run, RunState, Sandbox},
    },
    Action, Need, Next, Planner, StopCause, next_run,
};
use crate::desired::{DesiredPod, PodUid};

impl<'a> Planner<'a> {
    /// The sandbox that the pod's containers belong in.
    pub(super) fn present_sandbox(&self, uid: &PodUid, spec_hash: &str) -> Option<&'a Sandbox> {
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

    pub(super) fn need(
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
            RunState::Running { .. } if in_place && up_to_date => match newest.health.failed {
                Some(kind) => Need::Replace(newest, StopCause::ProbeFailed(kind)),
                None => Need::Nothing,
            },
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

    /// One step towards the next run of a container: know its image, have its image, make it.
    pub(super) fn new_run(
        &mut self,
        pod: &DesiredPod,
        container: &Container,
        sandbox: &Sandbox,
        run: RunNumbers,
    ) {
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
                // Whoever comes to know it wakes the worker.
                if self.memory.configuration.unknown.contains_key(&name) {
                    return;
                }
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

    pub(super) fn start(&mut self, pod: &DesiredPod, container: &Container, run: &Run) {
        let target = Target::Container(container.name.clone());
        if !self.must_wait(&target, &hash::container_hash(pod, container)) {
            self.plan.actions.push(Action::StartContainer {
                container: container.name.clone(),
                id: run.id.clone(),
            });
        }
    }

    /// There is no sandbox that fits. Clears the way for one, and makes it if a container is to run in it.
    pub(super) fn make_way(&mut self, uid: &PodUid, spec_hash: &str, needs: &[(&Container, Need<'_>)]) {
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
}
