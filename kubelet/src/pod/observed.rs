//! What the runtime says is there of one pod.

use std::time::{Duration, SystemTime};

use clone8s::{
    cri::{Container, ContainerState, ContainerStatus, PodSandbox, PodSandboxState},
    v1::LifecycleHandler,
};

use super::resources::Allocation;
use crate::{
    clock::from_nanos,
    desired::{DesiredPod, PodKey, PodUid},
    identity,
    probe::Health,
    runtime::{ContainerId, SandboxId},
};

/// Everything of one pod's key, of whatever uid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Run>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: SandboxId,
    pub uid: PodUid,
    /// Counts the sandboxes of one pod, from 0.
    pub attempt: u32,
    pub ready: bool,
    pub created_at: SystemTime,
    /// Of what it was made from; empty when the annotation is missing.
    pub spec_hash: String,
    /// How long its containers have to stop.
    pub grace: Option<Duration>,
    /// None on the host network, and while it is not known.
    pub ip: Option<String>,
}

/// One container: one run of a container of the spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub uid: PodUid,
    /// The name in the spec.
    pub name: String,
    pub state: RunState,
    pub created_at: SystemTime,
    /// Of what it was made from; empty when the annotation is missing.
    pub spec_hash: String,
    /// How many runs came before.
    pub restart_count: u32,
    /// How many runs in a row ended early before it.
    pub backoff_step: u32,
    /// As asked for.
    pub image: String,
    /// As resolved by the runtime.
    pub image_id: String,
    /// What its probes have found, while it runs.
    pub health: Health,
    /// Of a sidecar: its place among the pod's init containers.
    pub sidecar: Option<usize>,
    /// What is done before it is stopped.
    pub pre_stop: Option<LifecycleHandler>,
    pub post_start: PostStart,
    /// None where neither the runtime nor the container's annotations tell.
    pub allocation: Option<Allocation>,
}

/// How far a run's postStart hook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PostStart {
    /// Done, or there is none.
    #[default]
    Over,
    /// To be done, or under way.
    Pending,
    Failed,
}

/// What a status tells of a run, and a list does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Details {
    pub state: RunState,
    pub allocation: Option<Allocation>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RunState {
    Created,
    Running {
        started_at: SystemTime,
    },
    Exited(Exit),
    /// The runtime has lost track of it: it may or may not run.
    Unknown,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    pub code: i32,
    /// Such as "Completed", "Error" or "OOMKilled".
    pub reason: String,
    pub message: String,
    pub started_at: Option<SystemTime>,
    pub finished_at: SystemTime,
}

impl RunState {
    /// Running, or perhaps so.
    pub fn may_run(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Unknown)
    }

    /// The state in a list.
    pub fn listed(&self) -> ContainerState {
        match self {
            Self::Created => ContainerState::ContainerCreated,
            Self::Running { .. } => ContainerState::ContainerRunning,
            Self::Exited(_) => ContainerState::ContainerExited,
            Self::Unknown => ContainerState::ContainerUnknown,
        }
    }
}

impl Details {
    pub fn of(status: &ContainerStatus) -> Self {
        let linux = status.resources.as_ref().and_then(|told| told.linux.as_ref());
        Self {
            state: full_state(status),
            allocation: linux.map(Allocation::told),
        }
    }
}

impl Observed {
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    pub fn sandbox(&self, id: &SandboxId) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|sandbox| sandbox.id == *id)
    }

    /// The pod's newest sandbox that is ready.
    pub fn ready_sandbox(&self, uid: &PodUid) -> Option<&Sandbox> {
        let ready = self
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready && sandbox.uid == *uid);
        ready.max_by_key(|sandbox| (sandbox.attempt, sandbox.created_at))
    }

    /// The sandbox that the pod's containers belong in.
    pub fn present_sandbox(&self, uid: &PodUid, spec_hash: &str) -> Option<&Sandbox> {
        let own = self
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready && sandbox.uid == *uid && sandbox.spec_hash == *spec_hash);
        // Where two fit, the one that more containers run in: the other came of a call whose answer was lost.
        own.max_by_key(|sandbox| {
            let running = self
                .containers
                .iter()
                .filter(|run| run.sandbox == sandbox.id && matches!(run.state, RunState::Running { .. }));
            (running.count(), sandbox.attempt, sandbox.created_at, &sandbox.id)
        })
    }

    /// Where the pod's servers can be reached: on the node's network, at the node's own address.
    pub fn address<'a>(&'a self, pod: &DesiredPod, host_ip: &'a str) -> Option<&'a str> {
        let sandbox = self.ready_sandbox(&pod.uid())?;
        if pod.spec().host_network {
            return Some(host_ip);
        }
        sandbox.ip.as_deref()
    }

    /// The runs of one container of one pod, newest first.
    pub fn runs_of(&self, uid: &PodUid, name: &str) -> Vec<&Run> {
        let mut runs: Vec<_> = self
            .containers
            .iter()
            .filter(|run| run.uid == *uid && run.name == name)
            .collect();
        runs.sort_by(|a, b| b.age_order().cmp(&a.age_order()));
        runs
    }
}

impl Run {
    /// Orders runs from the oldest to the newest.
    pub fn age_order(&self) -> (u32, SystemTime, &ContainerId) {
        (self.restart_count, self.created_at, &self.id)
    }
}

impl Sandbox {
    /// None for a sandbox that is not ours.
    pub fn parse(listed: &PodSandbox) -> Option<(PodKey, Self)> {
        let (key, uid) = owner(&listed.labels)?;
        let grace = listed
            .annotations
            .get(identity::GRACE_PERIOD)
            .and_then(|seconds| seconds.parse().ok());
        Some((
            key,
            Self {
                id: SandboxId::new(&listed.id),
                uid,
                attempt: listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
                ready: listed.state() == PodSandboxState::SandboxReady,
                created_at: from_nanos(listed.created_at).unwrap_or(SystemTime::UNIX_EPOCH),
                spec_hash: annotation(&listed.annotations, identity::SPEC_HASH),
                grace: grace.map(Duration::from_secs),
                ip: None,
            },
        ))
    }
}

impl Run {
    /// None for a container that is not ours. A run that is over, or is running, needs its details too.
    pub fn parse(listed: &Container, details: Option<&Details>) -> Option<(PodKey, Self)> {
        let (key, uid) = owner(&listed.labels)?;
        let name = listed.labels.get(identity::CONTAINER_NAME)?.clone();
        let created_at = from_nanos(listed.created_at).unwrap_or(SystemTime::UNIX_EPOCH);
        let image_id = [&listed.image_id, &listed.image_ref]
            .into_iter()
            .find(|id| !id.is_empty());
        let count = |key| annotation(&listed.annotations, key).parse().unwrap_or_default();
        Some((
            key,
            Self {
                id: ContainerId::new(&listed.id),
                sandbox: SandboxId::new(&listed.pod_sandbox_id),
                uid,
                name,
                state: details.map_or_else(
                    || bare_state(listed.state(), created_at),
                    |details| details.state.clone(),
                ),
                created_at,
                spec_hash: annotation(&listed.annotations, identity::SPEC_HASH),
                restart_count: count(identity::RESTART_COUNT),
                backoff_step: count(identity::BACKOFF_STEP),
                image: annotation(&listed.annotations, identity::IMAGE),
                image_id: image_id.cloned().unwrap_or_default(),
                health: Health::UNPROBED,
                sidecar: listed
                    .annotations
                    .get(identity::SIDECAR)
                    .and_then(|place| place.parse().ok()),
                pre_stop: listed
                    .annotations
                    .get(identity::PRE_STOP)
                    .and_then(|hook| serde_json::from_str(hook).ok()),
                post_start: PostStart::Over,
                allocation: details
                    .and_then(|details| details.allocation)
                    .or_else(|| Allocation::parse(listed.annotations.get(identity::ALLOCATION)?)),
            },
        ))
    }
}

fn owner(labels: &std::collections::BTreeMap<String, String>) -> Option<(PodKey, PodUid)> {
    if !labels.contains_key(identity::MANAGED) {
        return None;
    }
    let namespace = labels.get(identity::POD_NAMESPACE)?;
    let name = labels.get(identity::POD_NAME)?;
    let uid = labels.get(identity::POD_UID)?;
    Some((PodKey::new(namespace, name), PodUid::new(uid)))
}

fn annotation(annotations: &std::collections::BTreeMap<String, String>, key: &str) -> String {
    annotations.get(key).cloned().unwrap_or_default()
}

fn bare_state(state: ContainerState, created_at: SystemTime) -> RunState {
    match state {
        ContainerState::ContainerCreated => RunState::Created,
        ContainerState::ContainerRunning => RunState::Running {
            started_at: created_at,
        },
        ContainerState::ContainerExited => RunState::Exited(Exit {
            code: LOST_EXIT_CODE,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "the container runtime no longer tells how the container ended".to_owned(),
            started_at: None,
            finished_at: created_at,
        }),
        ContainerState::ContainerUnknown => RunState::Unknown,
    }
}

/// As a process that was killed.
pub const LOST_EXIT_CODE: i32 = 137;

fn full_state(status: &ContainerStatus) -> RunState {
    let created_at = from_nanos(status.created_at).unwrap_or(SystemTime::UNIX_EPOCH);
    let started_at = from_nanos(status.started_at);
    match status.state() {
        ContainerState::ContainerCreated => RunState::Created,
        ContainerState::ContainerRunning => RunState::Running {
            started_at: started_at.unwrap_or(created_at),
        },
        ContainerState::ContainerExited => RunState::Exited(Exit {
            code: status.exit_code,
            reason: match status.reason.as_str() {
                "" if status.exit_code == 0 => "Completed".to_owned(),
                "" => "Error".to_owned(),
                given => given.to_owned(),
            },
            message: status.message.clone(),
            started_at,
            finished_at: from_nanos(status.finished_at).unwrap_or(created_at),
        }),
        ContainerState::ContainerUnknown => RunState::Unknown,
    }
}
