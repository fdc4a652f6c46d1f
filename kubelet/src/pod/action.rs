//! What a plan is made of.

use std::time::SystemTime;

use super::{cri::RunNumbers, memory::Target};
use crate::{
    desired::PodUid,
    runtime::{ContainerId, ImageRef, SandboxId},
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
        image: ImageRef,
    },
    StartContainer {
        container: String,
        id: ContainerId,
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
            | Self::StartContainer { container, .. } => Target::Container(container.clone()),
            Self::StopContainer { id, .. } | Self::RemoveContainer { id } => Target::Run(id.clone()),
        }
    }
}
