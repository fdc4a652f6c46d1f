//! The conditions of a pod that its node sets.

use std::time::SystemTime;

use clone8s::{
    rules::DISRUPTION_TARGET,
    v1::{Condition, ContainerStatus, PodStatus},
};

use crate::{clock::to_timestamp, desired::DesiredPod, pod::stages::Stage};

/// The reason of DisruptionTarget where the node has ended the pod, as in Kubernetes.
pub const TERMINATION_BY_KUBELET: &str = "TerminationByKubelet";

/// What the conditions follow from.
pub(super) struct Facts<'a> {
    pub(super) phase: &'a str,
    pub(super) sandbox_ready: bool,
    pub(super) init_containers: &'a [ContainerStatus],
    pub(super) containers: &'a [ContainerStatus],
    pub(super) stage: Stage,
    pub(super) stopping: bool,
    pub(super) pod: &'a DesiredPod,
    /// Why the node evicts the pod, if it does.
    pub(super) eviction: Option<&'a str>,
}

/// Whether a condition holds, and if not why: a word for programs, a sentence for people.
type Finding = Result<(), (&'static str, String)>;

/// The conditions now. `previous` gives the times of those that have not changed.
pub(super) fn conditions(facts: &Facts<'_>, previous: Option<&PodStatus>, now: SystemTime) -> Vec<Condition> {
    let sandbox = facts.sandbox_ready.then_some(()).ok_or(("", String::new()));
    let initialized = initialized(facts, previous);
    let containers = containers_ready(facts);
    let ready = containers.clone().and_then(|()| gates_open(facts.pod));
    [
        ("PodScheduled", Ok(())),
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized),
        ("ContainersReady", containers),
        ("Ready", ready),
    ]
    .into_iter()
    .map(|(kind, finding)| condition(kind, finding, previous, now))
    .chain(facts.eviction.map(|why| Condition {
        reason: TERMINATION_BY_KUBELET.to_owned(),
        message: why.to_owned(),
        ..condition(DISRUPTION_TARGET, Ok(()), previous, now)
    }))
    .collect()
}

fn initialized(facts: &Facts<'_>, previous: Option<&PodStatus>) -> Finding {
    let was = |previous: &PodStatus| {
        let mut conditions = previous.conditions.iter();
        conditions.any(|old| old.r#type == "Initialized" && old.status == "True")
    };
    let turn = match facts.stage {
        Stage::Main | Stage::Over => return Ok(()),
        // A sandbox that goes with its pod takes back nothing.
        _ if facts.stopping && previous.is_some_and(was) => return Ok(()),
        Stage::Init(turn) | Stage::Failed(turn) => turn,
    };
    let open: Vec<_> = facts
        .init_containers
        .iter()
        .skip(turn)
        .map(|status| status.name.as_str())
        .collect();
    let message = format!("containers with incomplete status: [{}]", open.join(" "));
    Err(("ContainersNotInitialized", message))
}

fn containers_ready(facts: &Facts<'_>) -> Finding {
    match facts.phase {
        "Succeeded" => return Err(("PodCompleted", String::new())),
        "Failed" => return Err(("PodFailed", String::new())),
        _ => {}
    }
    let is_sidecar = |status: &&ContainerStatus| {
        let mut sidecars = facts.pod.spec().sidecars();
        sidecars.any(|sidecar| sidecar.name == status.name)
    };
    let sidecars = facts.init_containers.iter().filter(is_sidecar);
    let unready: Vec<_> = sidecars
        .chain(facts.containers)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    if unready.is_empty() && !facts.containers.is_empty() {
        return Ok(());
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Err(("ContainersNotReady", message))
}

fn gates_open(pod: &DesiredPod) -> Finding {
    let open = pod.open_gates();
    let gates = pod.spec().readiness_gates.iter();
    let closed: Vec<_> = gates
        .map(|gate| gate.condition_type.as_str())
        .filter(|kind| !open.contains(kind))
        .collect();
    if closed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "readiness gates whose condition is not True: [{}]",
        closed.join(" ")
    );
    Err(("ReadinessGatesNotReady", message))
}

fn condition(kind: &str, finding: Finding, previous: Option<&PodStatus>, now: SystemTime) -> Condition {
    let status = if finding.is_ok() { "True" } else { "False" };
    let (reason, message) = finding.err().unwrap_or_default();
    let unchanged = previous
        .and_then(|previous| previous.conditions.iter().find(|old| old.r#type == kind))
        .filter(|old| old.status == status)
        .and_then(|old| old.last_transition_time);
    Condition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: Some(unchanged.unwrap_or_else(|| to_timestamp(now))),
        last_heartbeat_time: None,
    }
}
