//! Towards running containers: the sandbox, then for each container its image, its run, its start.

use clone8s::v1::Container;

use super::{
    super::{
        cri::RunNumbers,
        ephemeral, hash, images,
        memory::{ImageKnowledge, Target},
        observed::{PostStart, Run, RunState, Sandbox},
        resources::Allocation,
        stages::{Role, Stage},
    },
    Action, Need, Next, Planner, StopCause, next_run,
};
use crate::desired::{DesiredPod, PodUid};

const FIRST_RUN: RunNumbers = RunNumbers {
    restart_count: 0,
    backoff_step: 0,
};

impl<'a> Planner<'a> {
    pub(super) fn need(
        &mut self,
        pod: &DesiredPod,
        role: Role,
        container: &Container,
        sandbox: Option<&Sandbox>,
        stage: Stage,
    ) -> Need<'a> {
        let runs = self.observed.runs_of(&pod.uid(), &container.name);
        let may_start = stage.may_start(role);
        let Some(newest) = runs.first().copied() else {
            return if may_start {
                Need::New(FIRST_RUN)
            } else {
                Need::Nothing
            };
        };
        if stage.must_end(role) {
            return match newest.state {
                RunState::Exited(_) => Need::Nothing,
                _ => Need::Replace(newest, StopCause::NotNeeded),
            };
        }
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
            RunState::Running { .. } if in_place && up_to_date => self.running(container, newest),
            // An older run ends first: two of one container would be in each other's way.
            RunState::Created | RunState::Exited(_) if runs.iter().any(|run| run.state.may_run()) => {
                Need::Nothing
            }
            RunState::Created if in_place && up_to_date && may_start => Need::Start(newest),
            RunState::Created if in_place && up_to_date => Need::Nothing,
            RunState::Running { .. } | RunState::Created | RunState::Unknown => {
                let cause = if up_to_date {
                    StopCause::OutOfPlace
                } else {
                    StopCause::SpecChanged
                };
                Need::Replace(newest, cause)
            }
            RunState::Exited(_) if !may_start => Need::Nothing,
            // What it had done for a sandbox that is gone is to be done for the next.
            RunState::Exited(_) if matches!(role, Role::Init(_)) && !in_place => successor(0),
            // An update starts at once, whatever became of the run before.
            RunState::Exited(_) if !up_to_date => successor(0),
            RunState::Exited(exit) => {
                match next_run(role.restart_policy(pod.spec()), newest, exit, self.intervals) {
                    Next::RestartAt { at, backoff_step } if self.is_due(exit.finished_at, at) => {
                        successor(backoff_step)
                    }
                    Next::Done | Next::RestartAt { .. } => Need::Nothing,
                }
            }
        }
    }

    /// What an ephemeral container needs: one run in the sandbox that there is, whatever its spec would be now.
    pub(super) fn need_of_ephemeral(
        &self,
        pod: &DesiredPod,
        container: &Container,
        sandbox: Option<&Sandbox>,
        stage: Stage,
    ) -> Need<'a> {
        let name = &container.name;
        let may_start = stage.may_start(Role::Ephemeral) && sandbox.is_some();
        let has_run = self.memory.has_begun(&pod.uid(), name);
        let target = ephemeral::target(pod, name, self.observed, sandbox);
        let Some(run) = self.observed.runs_of(&pod.uid(), name).first().copied() else {
            return if may_start && target.is_ok() && !has_run {
                Need::New(FIRST_RUN)
            } else {
                Need::Nothing
            };
        };
        let in_place = sandbox.is_some_and(|sandbox| sandbox.id == run.sandbox);
        match (&run.state, target) {
            (RunState::Exited(_), _) => Need::Nothing,
            (RunState::Running { .. }, _) if in_place && !stage.must_end(Role::Ephemeral) => Need::Nothing,
            // Of a creation whose answer was lost, beside one that has run.
            (RunState::Created, _) if has_run => Need::Replace(run, StopCause::OutOfPlace),
            // It was made to see the processes of a run that is over.
            (RunState::Created, Ok(Some(target))) if target.created_at > run.created_at => {
                Need::Replace(run, StopCause::OutOfPlace)
            }
            (RunState::Created, Err(_)) if in_place && may_start => Need::Nothing,
            (RunState::Created, Ok(_)) if in_place && may_start => Need::Start(run),
            _ if in_place => Need::Replace(run, StopCause::NotNeeded),
            _ => Need::Replace(run, StopCause::OutOfPlace),
        }
    }

    /// What a run that is where and what it should be needs.
    fn running(&self, container: &Container, run: &'a Run) -> Need<'a> {
        match (run.health.failed, run.post_start) {
            (Some(kind), _) => Need::Replace(run, StopCause::ProbeFailed(kind)),
            (None, PostStart::Failed) => Need::Replace(run, StopCause::PostStartFailed),
            (None, PostStart::Pending) => Need::PostStart(run),
            (None, PostStart::Over) => match self.other_allocation(container, run) {
                Some(allocation) => Need::Resize(run, allocation),
                None => Need::Nothing,
            },
        }
    }

    /// The limits that a running container is to have, unless it has them.
    fn other_allocation(&self, container: &Container, run: &Run) -> Option<Allocation> {
        let wanted = Allocation::wanted(container).ok()?;
        let has = self.memory.resized.get(&run.id).copied().or(run.allocation)?;
        (has != wanted).then_some(wanted)
    }

    /// One step towards the next run of a container: know its images, have its images, make it.
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
        let needed = match images::found(pod.spec(), container, self.memory) {
            Err(needed) => needed,
            Ok(images) => {
                // Whoever comes to know it wakes the worker.
                if !self.memory.configuration.unknown.contains_key(&name) {
                    let target = ephemeral::target(pod, &name, self.observed, Some(sandbox));
                    self.plan.actions.push(Action::CreateContainer {
                        container: name,
                        sandbox: sandbox.id.clone(),
                        run,
                        images,
                        target: target.ok().flatten().map(|run| run.id.clone()),
                    });
                }
                return;
            }
        };
        let known = self.memory.image(&name, needed.image);
        let image = needed.image.to_owned();
        let action = match (needed.pull_policy, known) {
            // A person may still import the image: look again from time to time.
            ("Never", Some(ImageKnowledge::Absent { at })) => {
                if !self.is_due(*at, *at + self.intervals.backoff_base) {
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

    /// What is to be done right after the start of a run.
    pub(super) fn post_start(&mut self, pod: &DesiredPod, container: &Container, run: &Run) {
        let target = Target::Container(container.name.clone());
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        if let Some(handler) =
            hook.filter(|_| !self.must_wait(&target, &hash::container_hash(pod, container)))
        {
            let call = self.hook_call(run, handler);
            self.plan.actions.push(Action::PostStart(call));
        }
    }

    pub(super) fn resize(&mut self, container: &Container, run: &Run, allocation: Allocation) {
        let target = Target::Container(container.name.clone());
        if !self.must_wait(&target, &allocation.to_string()) {
            self.plan.actions.push(Action::ResizeContainer {
                container: container.name.clone(),
                id: run.id.clone(),
                allocation,
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
