//! Which containers of a pod may run now. Pure.
//!
//! ```text
//! init 0 ──► init 1 ──► … ──► main ──(every container has ended for good)──► over
//!   ▲  each ends well, or is     │                                            │
//!   │  a sidecar that has        └──(sandbox lost)──► init 0                  └─ sidecars end
//!   │  started                                                                   in reverse
//!   └──(fails, and the pod's policy is Never)──► failed
//! ```
//! What is known of a turn is the runs in the pod's present sandbox, so a restart of the kubelet repeats nothing, and
//! the loss of the sandbox everything.

use std::time::SystemTime;

use clone8s::v1::{Container, PodSpec};

use super::{
    hash,
    observed::{Observed, PostStart, Run, RunState, Sandbox},
    restart::{Next, next_run},
};
use crate::{
    config::Intervals,
    desired::{DesiredPod, PodUid},
};

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before what comes after it; its place among the init containers.
    Init(usize),
    /// An init container that stays beside what comes after it.
    Sidecar(usize),
    Main,
    /// For a look into the pod: runs once, beside whatever there is.
    Ephemeral,
}

impl Role {
    /// None for an ephemeral container, which has no place among those that start in order.
    pub fn of(spec: &PodSpec, name: &str) -> Option<Self> {
        roles(spec)
            .find(|(_, container)| container.name == name)
            .map(|(role, _)| role)
    }

    /// When it runs again after an end: one that has done its work has done it, and a sidecar is always there.
    pub fn restart_policy(self, spec: &PodSpec) -> &str {
        match (self, spec.restart_policy.as_str()) {
            (Self::Sidecar(_), _) => "Always",
            (Self::Ephemeral, _) => "Never",
            (Self::Init(_), "Always") => "OnFailure",
            (_, policy) => policy,
        }
    }
}

/// The containers of a pod in the order in which they start; not those for a look at them.
pub fn roles(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().enumerate().map(|(place, container)| {
        let role = if container.is_sidecar() {
            Role::Sidecar(place)
        } else {
            Role::Init(place)
        };
        (role, container)
    });
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is the turn of this init container.
    Init(usize),
    /// The containers run, and the sidecars beside them.
    Main,
    /// No container runs any more or will again.
    Over,
    /// This init container has failed for good, and nothing after it will run.
    Failed(usize),
}

impl Stage {
    /// `sandbox` is the one that the pod's containers belong in.
    pub fn of(
        pod: &DesiredPod,
        observed: &Observed,
        sandbox: Option<&Sandbox>,
        intervals: &Intervals,
    ) -> Self {
        let view = View {
            pod,
            uid: pod.uid(),
            observed,
            sandbox,
            intervals,
        };
        let spec = pod.spec();
        if spec.init_containers.is_empty() && spec.ephemeral_containers.is_empty() {
            return Self::Main;
        }
        let is_over = |container: &Container| view.has_ended_for_good(Role::Main, container);
        if !spec.containers.is_empty() && spec.containers.iter().all(is_over) {
            return Self::Over;
        }
        if view.was_through() {
            return Self::Main;
        }
        let init = || roles(spec).take(spec.init_containers.len()).enumerate();
        let failed = init().find(|(_, (role, container))| view.has_failed_for_good(*role, container));
        if let Some((place, _)) = failed {
            return Self::Failed(place);
        }
        let next = init().find(|(_, (role, container))| !view.is_past(*role, container));
        next.map_or(Self::Main, |(place, _)| Self::Init(place))
    }

    /// The stage of a pod that may be `over`, whatever has become of its spec.
    #[must_use]
    pub fn unless_over(self, over: bool) -> Self {
        match self {
            Self::Init(_) | Self::Main if over => Self::Over,
            stage => stage,
        }
    }

    pub fn may_start(self, role: Role) -> bool {
        match (self, role) {
            (Self::Init(turn), Role::Init(place)) => place == turn,
            (Self::Init(turn), Role::Sidecar(place)) => place <= turn,
            (Self::Main, Role::Sidecar(_) | Role::Main) | (Self::Init(_) | Self::Main, Role::Ephemeral) => {
                true
            }
            (Self::Init(_), Role::Main) | (Self::Main, Role::Init(_)) | (Self::Over | Self::Failed(_), _) => {
                false
            }
        }
    }

    /// True for what must not run on.
    pub fn must_end(self, role: Role) -> bool {
        match role {
            Role::Init(_) => !matches!(self, Self::Init(_)),
            Role::Sidecar(_) | Role::Ephemeral => matches!(self, Self::Over | Self::Failed(_)),
            Role::Main => false,
        }
    }
}

struct View<'a> {
    pod: &'a DesiredPod,
    uid: PodUid,
    observed: &'a Observed,
    sandbox: Option<&'a Sandbox>,
    intervals: &'a Intervals,
}

impl View<'_> {
    fn newest(&self, container: &Container) -> Option<&Run> {
        self.observed.runs_of(&self.uid, &container.name).first().copied()
    }

    fn is_in_place(&self, run: &Run) -> bool {
        self.sandbox.is_some_and(|sandbox| sandbox.id == run.sandbox)
    }

    fn is_up_to_date(&self, run: &Run, container: &Container) -> bool {
        run.spec_hash == hash::container_hash(self.pod, container)
    }

    fn has_ended_for_good(&self, role: Role, container: &Container) -> bool {
        let Some(run) = self.newest(container) else {
            return false;
        };
        let RunState::Exited(exit) = &run.state else {
            return false;
        };
        let policy = role.restart_policy(self.pod.spec());
        self.is_up_to_date(run, container) && next_run(policy, run, exit, self.intervals) == Next::Done
    }

    fn has_failed_for_good(&self, role: Role, container: &Container) -> bool {
        let failed = self
            .newest(container)
            .is_some_and(|run| matches!(&run.state, RunState::Exited(exit) if exit.code != 0));
        failed && matches!(role, Role::Init(_)) && self.has_ended_for_good(role, container)
    }

    /// A container was made in the present sandbox, and none is before all init containers are past.
    fn was_through(&self) -> bool {
        let containers = &self.pod.spec().containers;
        self.observed.containers.iter().any(|run| {
            run.uid == self.uid
                && self.is_in_place(run)
                && containers.iter().any(|container| container.name == run.name)
        })
    }

    /// Whether what comes after an init container may start. Its work is done whatever becomes of its spec.
    fn is_past(&self, role: Role, container: &Container) -> bool {
        let Some(run) = self.newest(container).filter(|run| self.is_in_place(run)) else {
            return false;
        };
        match (role, &run.state) {
            (Role::Init(_), RunState::Exited(exit)) => exit.code == 0,
            (Role::Sidecar(_), RunState::Running { .. }) => {
                self.is_up_to_date(run, container) && has_started(run)
            }
            _ => false,
        }
    }
}

/// Whether a running container is past its postStart hook and its startup probe.
pub fn has_started(run: &Run) -> bool {
    run.post_start == PostStart::Over && run.health.started && run.health.failed.is_none()
}

/// When the last of the containers that are not sidecars has ended.
pub fn ended_at(pod: &DesiredPod, observed: &Observed) -> Option<SystemTime> {
    let uid = pod.uid();
    let ends = roles(pod.spec())
        .filter(|(role, _)| !matches!(role, Role::Sidecar(_)))
        .filter_map(|(_, container)| {
            let runs = observed.runs_of(&uid, &container.name);
            match &runs.first()?.state {
                RunState::Exited(exit) => Some(exit.finished_at),
                _ => None,
            }
        });
    ends.max()
}

/// Of the runs that have to stop, those whose turn it is: sidecars stay until what they serve has ended, and end in
/// reverse order.
pub fn first_to_end<'a>(runs: &[&'a Run]) -> Vec<&'a Run> {
    let comes_first = |one: &Run, other: &Run| match (one.sidecar, other.sidecar) {
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
        (_, None) => false,
    };
    let mut first = runs.to_vec();
    first.retain(|run| {
        let mut of_pod = runs.iter().filter(|other| other.uid == run.uid);
        !of_pod.any(|other| comes_first(other, run))
    });
    first
}

#[cfg(test)]
mod tests;
