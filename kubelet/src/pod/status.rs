//! From what is wanted and what is there to the status that people see. Pure.

mod conditions;
mod container;
mod ephemeral;

use std::time::SystemTime;

use clone8s::v1::{ContainerStatus, PodStatus, container_state::State};

pub use conditions::TERMINATION_BY_KUBELET;
use conditions::{Facts, conditions};
use container::{View, container_status, goes_on};
use ephemeral::ephemeral_statuses;

use super::{
    hash,
    memory::{FailedStep, Memory, Target},
    observed::{Observed, RunState},
    plan::Want,
    resources::QosClass,
    stages::{Role, Stage, roles},
};
use crate::{clock::to_timestamp, config::Intervals, desired::DesiredPod};

/// Why a pod has failed that has taken too much of its node.
pub const EVICTED: &str = "Evicted";

/// What a status needs besides the pod itself.
#[derive(Debug, Clone)]
pub struct StatusContext<'a> {
    pub intervals: &'a Intervals,
    /// The node's own address.
    pub host_ip: &'a str,
    /// The runtime's name, such as "containerd".
    pub runtime_name: &'a str,
    pub now: SystemTime,
}

/// The pod's status now. `previous` gives the times of what has not changed.
pub fn status(
    want: &Want,
    pod: &DesiredPod,
    observed: &Observed,
    memory: &Memory,
    previous: Option<&PodStatus>,
    context: &StatusContext<'_>,
) -> PodStatus {
    let uid = pod.uid();
    let stopping = want.is_end();
    let nothing_left = !observed.containers.iter().any(|run| run.uid == uid);
    let sandbox = observed.present_sandbox(&uid, &hash::sandbox_hash(pod));
    let stage = Stage::of(pod, observed, sandbox, context.intervals).unless_over(memory.over);
    let view = View {
        pod,
        uid: &uid,
        observed,
        memory,
        context,
        sandbox,
        stage: (!stopping).then_some(stage),
    };
    let (init_container_statuses, container_statuses, ephemeral_container_statuses) = match previous {
        // How the containers ended is known from before they were removed.
        Some(previous) if (stopping || memory.over) && nothing_left => (
            unready(&previous.init_container_statuses),
            unready(&previous.container_statuses),
            unready(&previous.ephemeral_container_statuses),
        ),
        _ => {
            // Held for as long as the pod is: with no more room than they need.
            let mut init = Vec::with_capacity(pod.spec().init_containers.len());
            let mut main = Vec::with_capacity(pod.spec().containers.len());
            for (role, container) in roles(pod.spec()) {
                let statuses = if role == Role::Main { &mut main } else { &mut init };
                statuses.push(container_status(&view, role, container));
            }
            (init, main, ephemeral_statuses(&view, previous))
        }
    };
    let phase = if matches!(want, Want::Evict { .. }) {
        "Failed".to_owned()
    } else if let Some(previous) = previous
        .filter(|previous| (memory.over || (stopping && nothing_left)) && is_terminal(&previous.phase))
    {
        previous.phase.clone()
    } else {
        let goes_on = goes_on(&view);
        phase(goes_on, stage, stopping, &container_statuses).to_owned()
    };
    let pod_ip = observed
        .address(pod, context.host_ip)
        .unwrap_or_default()
        .to_owned();
    let sandbox_failure = memory
        .failure(&Target::Pod, &hash::sandbox_hash(pod))
        .filter(|failure| failure.step == FailedStep::RunSandbox);
    let (reason, message) = match (want, sandbox_failure) {
        (Want::Refuse { refusal, .. }, _) => (refusal.reason.to_owned(), refusal.message.clone()),
        (Want::Evict { message, .. }, _) => (EVICTED.to_owned(), message.clone()),
        (_, Some(failure)) => ("FailedCreatePodSandBox".to_owned(), failure.message.clone()),
        _ => failed_init(pod, stage, stopping, observed)
            .or_else(|| {
                let previous = previous.filter(|_| memory.over)?;
                Some((previous.reason.clone(), previous.message.clone()))
            })
            .unwrap_or_default(),
    };
    let start_time = previous.and_then(|previous| previous.start_time).or_else(|| {
        let oldest = observed.sandboxes.iter().filter(|sandbox| sandbox.uid == uid);
        let since = oldest
            .map(|sandbox| sandbox.created_at)
            .min()
            .unwrap_or(context.now);
        Some(to_timestamp(since))
    });
    let facts = Facts {
        phase: &phase,
        sandbox_ready: observed.ready_sandbox(&uid).is_some(),
        init_containers: &init_container_statuses,
        containers: &container_statuses,
        stage,
        stopping,
        pod,
        eviction: match want {
            Want::Evict { message, .. } => Some(message),
            Want::Run(_) | Want::Stop { .. } | Want::Refuse { .. } => None,
        },
    };
    let conditions = conditions(&facts, previous, context.now);
    PodStatus {
        phase,
        conditions,
        message,
        reason,
        host_ip: context.host_ip.to_owned(),
        pod_ip,
        start_time,
        qos_class: QosClass::of(pod.spec()).map_or_else(|_| String::new(), |class| class.name().to_owned()),
        init_container_statuses,
        container_statuses,
        ephemeral_container_statuses,
        observed_generation: pod
            .pod
            .metadata
            .as_ref()
            .map_or(0, |metadata| metadata.generation),
    }
}

/// As they were, but that nothing runs any more; an init container that has succeeded has succeeded.
fn unready(statuses: &[ContainerStatus]) -> Vec<ContainerStatus> {
    let has_ended = |status: &ContainerStatus| {
        let state = status.state.as_ref().and_then(|state| state.state.as_ref());
        matches!(state, Some(State::Terminated(_)))
    };
    let statuses = statuses.iter().map(|status| ContainerStatus {
        ready: status.ready && has_ended(status),
        ..status.clone()
    });
    statuses.collect()
}

/// Why a pod has failed before its containers ever ran: a word and a sentence.
fn failed_init(
    pod: &DesiredPod,
    stage: Stage,
    stopping: bool,
    observed: &Observed,
) -> Option<(String, String)> {
    let (Stage::Failed(place), false) = (stage, stopping) else {
        return None;
    };
    let container = pod.spec().init_containers.get(place)?;
    let runs = observed.runs_of(&pod.uid(), &container.name);
    let RunState::Exited(exit) = &runs.first()?.state else {
        return None;
    };
    let message = format!(
        "init container {} ended with exit code {}, and the pod's restart policy is Never",
        container.name, exit.code
    );
    Some(("InitContainerFailed".to_owned(), message))
}

/// True for the phase of a pod that is over.
pub(super) fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// Kubernetes' phases, from the states of the containers and whether one that has ended is started again.
fn phase(goes_on: bool, stage: Stage, stopping: bool, containers: &[ContainerStatus]) -> &'static str {
    match stage {
        Stage::Failed(_) => return "Failed",
        // Containers that ran in a sandbox that is gone wait for another turn.
        Stage::Init(_) if !stopping => return "Pending",
        Stage::Init(_) | Stage::Main | Stage::Over => {}
    }
    let (mut never_ran, mut running, mut ended, mut succeeded) = (0, 0, 0, 0);
    for status in containers {
        match status.state.as_ref().and_then(|state| state.state.as_ref()) {
            Some(State::Running(_)) => running += 1,
            Some(State::Terminated(end)) => {
                ended += 1;
                succeeded += usize::from(end.exit_code == 0);
            }
            Some(State::Waiting(_)) if status.last_state.is_some() => ended += 1,
            Some(State::Waiting(_)) | None => never_ran += 1,
        }
    }
    if running > 0 && never_ran == 0 {
        return "Running";
    }
    if never_ran > 0 || ended == 0 {
        return "Pending";
    }
    if goes_on {
        "Running"
    } else if succeeded == ended {
        "Succeeded"
    } else {
        "Failed"
    }
}
