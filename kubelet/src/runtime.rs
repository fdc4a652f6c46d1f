//! The container runtime, as far as the kubelet uses it: CRI v1 with typed ids.
//!
//! Two implementations: [`CriRuntime`] for any CRI v1 socket, and [`fake::FakeRuntime`], which keeps everything in
//! memory and fails on request, for tests and hollow nodes.

mod cri;
pub mod fake;
mod session;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use clone8s::cri::{
    AuthConfig, Container, ContainerConfig, ContainerEventResponse, ContainerStats, ContainerStatus, Image,
    LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxStatus, StatusResponse, VersionResponse,
};
use futures::stream::BoxStream;
use tonic::Status;

use crate::desired::PodKey;

pub use cri::CriRuntime;
pub use session::{Input, Inputs, Output, Outputs, Session, TerminalSize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn new(id: impl Into<String>) -> Self {
                Self(id.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// The runtime's name for a sandbox.
    SandboxId,
    /// The runtime's name for a container.
    ContainerId,
    /// The runtime's name for an image that it has.
    ImageRef,
}

/// The CRI calls that the kubelet makes, and sessions. Each call ends within a deadline of its own.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn version(&self) -> Result<VersionResponse, RuntimeError>;
    async fn status(&self) -> Result<StatusResponse, RuntimeError>;

    /// The sandboxes of one pod, or of every program that uses the runtime.
    async fn list_sandboxes(&self, of: Option<&PodKey>) -> Result<Vec<PodSandbox>, RuntimeError>;
    async fn sandbox_status(&self, id: &SandboxId) -> Result<PodSandboxStatus, RuntimeError>;
    /// `handler` is empty for the runtime's default.
    async fn run_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<SandboxId, RuntimeError>;
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// The containers of one pod, or of every program that uses the runtime.
    async fn list_containers(&self, of: Option<&PodKey>) -> Result<Vec<Container>, RuntimeError>;
    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError>;
    /// `sandbox_config` is the one that the sandbox was made with.
    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<ContainerId, RuntimeError>;
    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Returns when the container has stopped: by its stop signal, or killed after `grace`. Dropping the call gives up
    /// the wait, not the stop; a second call with a shorter grace hurries it.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError>;
    /// Changes limits of a container that is created or runs; a limit of 0 stays as it is.
    async fn update_container(
        &self,
        id: &ContainerId,
        limits: LinuxContainerResources,
    ) -> Result<(), RuntimeError>;
    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Opens the container's log file anew, after a rotation has moved it away.
    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Runs a command in a running container to its end, or kills it at the limit with the reason
    /// [`RuntimeErrorReason::Timeout`].
    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError>;

    /// Opens a session, which lasts as long as both ends like; `input` is taken as fast as the other end takes it.
    async fn open(&self, session: Session, input: Inputs) -> Result<Outputs, Status>;

    /// None when the runtime does not have the image.
    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError>;
    /// Dropping the call gives the pull up. Without credentials it is anybody's.
    async fn pull_image(
        &self,
        image: &str,
        sandbox_config: PodSandboxConfig,
        credentials: Option<AuthConfig>,
    ) -> Result<ImageRef, RuntimeError>;
    /// How far a pull of the image is that is under way; None where there is none. [`RuntimeErrorReason::Unimplemented`]
    /// where the runtime is not ours.
    async fn pull_progress(&self, image: &str) -> Result<Option<PullProgress>, RuntimeError>;

    /// Imports the images of an archive that the runtime can read; their names. [`RuntimeErrorReason::Unimplemented`]
    /// where the runtime is not ours.
    async fn import_image_archive(&self, path: &Path) -> Result<Vec<String>, RuntimeError>;

    /// Every image that the runtime has.
    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError>;
    /// Under all of its names. One that is not there is no error.
    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError>;
    /// A folder on the disk that images are kept on; None where the runtime does not say.
    async fn image_folder(&self) -> Result<Option<PathBuf>, RuntimeError>;
    /// The image that the runtime needs for sandboxes, where it needs one and says so.
    async fn sandbox_image(&self) -> Result<Option<String>, RuntimeError>;

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError>;
    /// Every change of a container from now on. Hints: what is missed shows in the next list.
    async fn events(
        &self,
    ) -> Result<BoxStream<'static, Result<ContainerEventResponse, RuntimeError>>, RuntimeError>;
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    /// Of the image's layers as the registry has them; those that were here before count as well.
    pub bytes: u64,
    /// 0 until the registry has said of what the image consists; so is `layers_total`.
    pub bytes_total: u64,
    pub layers_unpacked: u32,
    pub layers_total: u32,
}

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub exit_code: i32,
    /// What it wrote, standard output first.
    pub text: String,
}

impl ExecOutput {
    /// For people, with the end of what the command wrote.
    pub fn describe(&self) -> String {
        const LONGEST: usize = 1024;
        let text = self.text.trim();
        let cut = text.len().saturating_sub(LONGEST);
        let end = &text[text.ceil_char_boundary(cut)..];
        if end.is_empty() {
            format!("exit code {}", self.exit_code)
        } else {
            format!("exit code {}: {end}", self.exit_code)
        }
    }
}

/// Why the runtime did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub struct RuntimeError {
    /// The CRI call, such as "PullImage".
    pub call: &'static str,
    pub reason: RuntimeErrorReason,
    /// In the runtime's words.
    pub message: String,
}

/// What a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeErrorReason {
    /// No such sandbox, container or image.
    NotFound,
    /// Nobody answers on the socket.
    Unavailable,
    /// No answer within the call's deadline.
    Timeout,
    /// The runtime does not know the call.
    Unimplemented,
    /// The runtime tried, and failed.
    Failed,
}

impl RuntimeError {
    pub fn is_not_found(&self) -> bool {
        self.reason == RuntimeErrorReason::NotFound
    }
}

/// Whether the node can run pods, for the Node's Ready condition. Kept by the relist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeHealth {
    pub ready: bool,
    /// One CamelCase word: "KubeletReady", "ContainerRuntimeNotReady", "NetworkPluginNotReady", "Starting" …
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// `<name>://<version>`, or empty before the first answer.
    pub version: String,
}

impl RuntimeHealth {
    /// Before the runtime has answered for the first time.
    pub fn starting() -> Self {
        Self {
            ready: false,
            reason: "Starting",
            message: "the container runtime has not answered yet".to_owned(),
            version: String::new(),
        }
    }
}
