//! What a plan is made of.

use std::time::SystemTime;

use super::{
    cri::RunNumbers,
    hash,
    hook::{Hook, HookCall},
    images::RunImages,
    memory::{FailedStep, Fingerprint, Target},
    resources::Allocation,
};
use crate::{
    desired::{DesiredPod, PodUid},
    probe::ProbeKind,
    runtime::{ContainerId, SandboxId},
};

/// One call to the runtime, or one change of the node's files.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    RunSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: SandboxId,
    },
    RemoveSandbox {
        id: SandboxId,
    },
    InspectImage {
        container: String,
        image: String,
    },
    PullImage {
        container: String,
        image: String,
    },
    CreateContainer {
        container: String,
        sandbox: SandboxId,
        run: RunNumbers,
        images: RunImages,
        /// The container whose processes it is to see.
        target: Option<ContainerId>,
    },
    StartContainer {
        container: String,
        id: ContainerId,
    },
    /// Changes the limits of a running container.
    ResizeContainer {
        container: String,
        id: ContainerId,
        allocation: Allocation,
    },
    /// What the container's spec says is to be done once it has started.
    PostStart(HookCall),
    /// What is to be done before the stop signal, until this time at the latest.
    PreStop {
        call: HookCall,
        until: SystemTime,
        cause: StopCause,
    },
    /// Killed at `kill_at`, if its stop signal has not ended it before.
    StopContainer {
        id: ContainerId,
        name: String,
        kill_at: SystemTime,
        cause: StopCause,
    },
    RemoveContainer {
        id: ContainerId,
    },
    /// Brings the volumes that show objects and the pod itself up to what this fingerprint stands for.
    RefreshVolumes {
        wanted: Fingerprint,
    },
    /// Takes down the mounts and removes the folders of a pod of which the runtime has nothing any more.
    CleanUp {
        uid: PodUid,
    },
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    PodDeleted,
    SpecChanged,
    /// Its pod takes too much of the node.
    Evicted,
    /// Its probe says that it has to start over.
    ProbeFailed(ProbeKind),
    /// What was to be done after its start has failed.
    PostStartFailed,
    /// What it was there for is over: the containers that a sidecar serves, or an init container's turn.
    NotNeeded,
    /// Its sandbox is gone, or another run has its place.
    OutOfPlace,
}

impl Action {
    pub fn target(&self) -> Target {
        match self {
            Self::RunSandbox { .. }
            | Self::StopSandbox { .. }
            | Self::RemoveSandbox { .. }
            | Self::CleanUp { .. } => Target::Pod,
            Self::InspectImage { container, .. }
            | Self::PullImage { container, .. }
            | Self::CreateContainer { container, .. }
            | Self::StartContainer { container, .. }
            | Self::ResizeContainer { container, .. } => Target::Container(container.clone()),
            Self::PostStart(call) => Target::Container(call.container.clone()),
            Self::PreStop { call, .. } => Target::Run(call.place.run().clone()),
            Self::StopContainer { id, .. } | Self::RemoveContainer { id } => Target::Run(id.clone()),
            Self::RefreshVolumes { .. } => Target::Volumes,
        }
    }

    /// The hook that it does.
    pub fn hook(&self) -> Option<(Hook, &HookCall)> {
        match self {
            Self::PostStart(call) => Some((Hook::PostStart, call)),
            Self::PreStop { call, .. } => Some((Hook::PreStop, call)),
            _ => None,
        }
    }

    /// Equal but for when it is to happen.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::StopContainer { id, .. }, Self::StopContainer { id: same, .. }) => id == same,
            (Self::PreStop { call, .. }, Self::PreStop { call: same, .. }) => call == same,
            _ => self == other,
        }
    }

    /// What of the spec it depends on: when that changes, past failures no longer count.
    pub fn spec_hash(&self, pod: &DesiredPod) -> String {
        match self {
            Self::RunSandbox { .. } => hash::sandbox_hash(pod),
            Self::InspectImage { container, .. }
            | Self::PullImage { container, .. }
            | Self::CreateContainer { container, .. }
            | Self::PostStart(HookCall { container, .. })
            | Self::StartContainer { container, .. } => {
                let spec = pod.spec().container(container);
                spec.map(|spec| hash::container_hash(pod, &spec))
                    .unwrap_or_default()
            }
            Self::ResizeContainer { allocation, .. } => allocation.to_string(),
            Self::StopSandbox { .. }
            | Self::RemoveSandbox { .. }
            | Self::PreStop { .. }
            | Self::StopContainer { .. }
            | Self::RemoveContainer { .. }
            | Self::RefreshVolumes { .. }
            | Self::CleanUp { .. } => String::new(),
        }
    }

    /// The step that has failed when it has.
    pub fn failed_step(&self) -> FailedStep {
        match self {
            Self::RunSandbox { .. } => FailedStep::RunSandbox,
            Self::InspectImage { .. } => FailedStep::InspectImage,
            Self::PullImage { .. } => FailedStep::PullImage,
            Self::CreateContainer { .. } => FailedStep::CreateContainer,
            Self::StartContainer { .. } => FailedStep::StartContainer,
            Self::ResizeContainer { .. } => FailedStep::ResizeContainer,
            Self::RefreshVolumes { .. } => FailedStep::RefreshVolumes,
            Self::PostStart(_) | Self::PreStop { .. } => FailedStep::RunHook,
            Self::StopSandbox { .. }
            | Self::RemoveSandbox { .. }
            | Self::StopContainer { .. }
            | Self::RemoveContainer { .. }
            | Self::CleanUp { .. } => FailedStep::TearDown,
        }
    }
}
