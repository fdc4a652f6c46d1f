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
//! Which containers may start at all, [`super::stages`] says; of those that end with their pod, too, which come first.
//! The actions of one plan do not depend on each other: the worker runs them side by side and plans again whenever
//! one ends or the world changes.

mod bring_up;
mod ending;
mod tear_down;

use std::time::SystemTime;

use clone8s::v1::{Container, EphemeralContainer};

use super::{
    cri::RunNumbers,
    hash,
    memory::{Memory, Target},
    observed::{Observed, Run, RunState},
    resources::Allocation,
    stages::{Role, Stage, roles},
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
        Want::Evict { .. } => planner.evict(),
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
    /// A run in the wrong place, of an old spec, or whose probe has failed must end first.
    Replace(&'a Run, StopCause),
    /// A new run.
    New(RunNumbers),
    /// The run that was made must start.
    Start(&'a Run),
    /// The run has started, and its hook has to be done.
    PostStart(&'a Run),
    /// The run is to have other limits.
    Resize(&'a Run, Allocation),
}

impl Planner<'_> {
    fn run(&mut self, pod: &DesiredPod) {
        let uid = pod.uid();
        // A pod that had this name before goes first: it may hold the address, the ports and the name.
        if self.tear_down(|other| *other != uid, None, StopCause::PodDeleted) {
            return;
        }
        let spec_hash = hash::sandbox_hash(pod);
        let sandbox = self.observed.present_sandbox(&uid, &spec_hash);
        let stage = Stage::of(pod, self.observed, sandbox, self.intervals).unless_over(self.memory.over);
        let ephemeral = pod.spec().ephemeral_containers.iter();
        let ephemeral: Vec<Container> = ephemeral.map(EphemeralContainer::to_container).collect();
        let containers =
            roles(pod.spec()).chain(ephemeral.iter().map(|container| (Role::Ephemeral, container)));
        let needs: Vec<_> = containers
            .map(|(role, container)| match role {
                Role::Ephemeral => (container, self.need_of_ephemeral(pod, container, sandbox, stage)),
                _ => (container, self.need(pod, role, container, sandbox, stage)),
            })
            .collect();

        let mut endings = Vec::new();
        for (container, need) in &needs {
            if let Need::Replace(run, cause) = need {
                endings.push((*run, self.deadline(pod, container, run, *cause), *cause));
            }
        }
        endings.extend(self.strays(pod, &uid));
        let all_end = sandbox.is_none() || matches!(stage, Stage::Over | Stage::Failed(_));
        self.end_all(endings, all_end);

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
                        Need::Resize(run, allocation) => {
                            busy = true;
                            self.resize(container, run, allocation);
                        }
                        Need::PostStart(run) => {
                            busy = true;
                            self.post_start(pod, container, run);
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
        self.refresh_volumes(&uid);
        self.drop_old_runs(&uid, pod.spec());
    }

    /// While containers look at them, volumes show what is.
    fn refresh_volumes(&mut self, uid: &PodUid) {
        let configuration = &self.memory.configuration;
        let Some(wanted) = configuration
            .wanted
            .filter(|_| configuration.wanted != configuration.shown)
        else {
            return;
        };
        if self.may_run_any(uid) && !self.must_wait(&Target::Volumes, "") {
            self.plan.actions.push(Action::RefreshVolumes { wanted });
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

    /// True while the last failure on the target asks for patience.
    fn must_wait(&mut self, target: &Target, spec_hash: &str) -> bool {
        let Some(failure) = self.memory.failure(target, spec_hash) else {
            return false;
        };
        !self.is_due(failure.at, failure.retry_at(self.intervals))
    }

    /// Whether it is time for what waits from one moment to another; where it is not, it is planned again then. A moment
    /// that is to come was told by a clock that was set back since, which must not make anything wait.
    fn is_due(&mut self, since: SystemTime, at: SystemTime) -> bool {
        if at <= self.now || since > self.now {
            return true;
        }
        self.wake_at(at);
        false
    }

    fn wake_at(&mut self, at: SystemTime) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

#[cfg(test)]
mod tests;
