//! Any CRI v1 runtime on a unix socket.

mod own;
mod sessions;

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use clone8s::cri::{
    AuthConfig, Container, ContainerConfig, ContainerEventResponse, ContainerFilter, ContainerStats,
    ContainerStatsFilter, ContainerStatus, ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest,
    GetEventsRequest, Image, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, LinuxContainerResources,
    ListContainerStatsRequest, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, PodSandboxStatusRequest, PullImageRequest,
    RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest, ReopenContainerLogRequest,
    RunPodSandboxRequest, StartContainerRequest, StatusRequest, StatusResponse, StopContainerRequest,
    StopPodSandboxRequest, UpdateContainerResourcesRequest, VersionRequest, VersionResponse,
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use clone8s_daemon::{channel::Channel, unix};
use futures::{StreamExt as _, stream::BoxStream};
use tonic::{Code, Response, Status};

use self::own::OwnCalls;
use super::{
    ContainerId, ExecOutput, ImageRef, Inputs, Outputs, PullProgress, Runtime, RuntimeError,
    RuntimeErrorReason, SandboxId, Session,
};
use crate::{desired::PodKey, identity};

/// Reads and small changes.
const QUICK: Duration = Duration::from_secs(15);
/// Calls that set up or tear down processes, mounts and networks.
const SLOW: Duration = Duration::from_mins(2);
/// A pull may move gigabytes over a slow line.
const PULL: Duration = Duration::from_hours(1);
/// A list of a full node is far below this.
const LARGEST_REPLY: usize = 64 << 20;

/// A client of a CRI v1 runtime. It connects on first use, and again after every break.
#[derive(Debug, Clone)]
pub struct CriRuntime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    own: OwnCalls,
    socket: PathBuf,
}

impl CriRuntime {
    pub fn new(socket: &Path) -> Self {
        let channel = Channel::from(unix::channel(socket));
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST_REPLY),
            own: OwnCalls::new(channel.clone()),
            images: ImageServiceClient::new(channel).max_decoding_message_size(LARGEST_REPLY),
            socket: socket.to_owned(),
        }
    }
}

#[async_trait]
impl Runtime for CriRuntime {
    async fn version(&self) -> Result<VersionResponse, RuntimeError> {
        let request = VersionRequest {
            version: "v1".to_owned(),
        };
        call("Version", QUICK, self.runtime.clone().version(request)).await
    }

    async fn status(&self) -> Result<StatusResponse, RuntimeError> {
        call(
            "Status",
            QUICK,
            self.runtime.clone().status(StatusRequest::default()),
        )
        .await
    }

    async fn list_sandboxes(&self, of: Option<&PodKey>) -> Result<Vec<PodSandbox>, RuntimeError> {
        let request = ListPodSandboxRequest {
            filter: of.map(|key| PodSandboxFilter {
                label_selector: selector(key),
                ..Default::default()
            }),
        };
        let response = call(
            "ListPodSandbox",
            QUICK,
            self.runtime.clone().list_pod_sandbox(request),
        )
        .await?;
        Ok(response.items)
    }

    async fn sandbox_status(&self, id: &SandboxId) -> Result<PodSandboxStatus, RuntimeError> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.as_str().to_owned(),
            verbose: false,
        };
        let response = call(
            "PodSandboxStatus",
            QUICK,
            self.runtime.clone().pod_sandbox_status(request),
        )
        .await?;
        response.status.ok_or_else(|| hollow("PodSandboxStatus"))
    }

    async fn run_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<SandboxId, RuntimeError> {
        let request = RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        let response = call(
            "RunPodSandbox",
            SLOW,
            Box::pin(self.runtime.clone().run_pod_sandbox(request)),
        )
        .await?;
        Ok(SandboxId::new(response.pod_sandbox_id))
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.as_str().to_owned(),
        };
        gone_is_done(
            call(
                "StopPodSandbox",
                SLOW,
                self.runtime.clone().stop_pod_sandbox(request),
            )
            .await,
        )
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.as_str().to_owned(),
        };
        gone_is_done(
            call(
                "RemovePodSandbox",
                SLOW,
                self.runtime.clone().remove_pod_sandbox(request),
            )
            .await,
        )
    }

    async fn list_containers(&self, of: Option<&PodKey>) -> Result<Vec<Container>, RuntimeError> {
        let request = ListContainersRequest {
            filter: of.map(|key| ContainerFilter {
                label_selector: selector(key),
                ..Default::default()
            }),
        };
        let response = call(
            "ListContainers",
            QUICK,
            self.runtime.clone().list_containers(request),
        )
        .await?;
        Ok(response.containers)
    }

    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        let request = ContainerStatusRequest {
            container_id: id.as_str().to_owned(),
            verbose: false,
        };
        let response = call(
            "ContainerStatus",
            QUICK,
            self.runtime.clone().container_status(request),
        )
        .await?;
        response.status.ok_or_else(|| hollow("ContainerStatus"))
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.as_str().to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let response = call(
            "CreateContainer",
            SLOW,
            Box::pin(self.runtime.clone().create_container(request)),
        )
        .await?;
        Ok(ContainerId::new(response.container_id))
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request = StartContainerRequest {
            container_id: id.as_str().to_owned(),
        };
        call(
            "StartContainer",
            SLOW,
            self.runtime.clone().start_container(request),
        )
        .await?;
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let request = StopContainerRequest {
            container_id: id.as_str().to_owned(),
            timeout: whole_seconds(grace),
        };
        let deadline = grace.saturating_add(SLOW);
        gone_is_done(
            call(
                "StopContainer",
                deadline,
                self.runtime.clone().stop_container(request),
            )
            .await,
        )
    }

    async fn update_container(
        &self,
        id: &ContainerId,
        limits: LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.as_str().to_owned(),
            linux: Some(limits),
            ..Default::default()
        };
        call(
            "UpdateContainerResources",
            QUICK,
            self.runtime.clone().update_container_resources(request),
        )
        .await?;
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request = RemoveContainerRequest {
            container_id: id.as_str().to_owned(),
        };
        gone_is_done(
            call(
                "RemoveContainer",
                SLOW,
                self.runtime.clone().remove_container(request),
            )
            .await,
        )
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let request = ReopenContainerLogRequest {
            container_id: id.as_str().to_owned(),
        };
        call(
            "ReopenContainerLog",
            QUICK,
            self.runtime.clone().reopen_container_log(request),
        )
        .await?;
        Ok(())
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        const CALL: &str = "ExecSync";
        let request = ExecSyncRequest {
            container_id: id.as_str().to_owned(),
            cmd: command.to_vec(),
            timeout: whole_seconds(limit),
        };
        let mut runtime = self.runtime.clone();
        // The limit is the command's, and the runtime keeps it. A runtime that is silent says nothing of the command.
        let late = |_| unavailable(CALL, limit + QUICK);
        let response = tokio::time::timeout(limit + QUICK, runtime.exec_sync(request))
            .await
            .map_err(late)?
            .map_err(|status| refused(CALL, &status))?
            .into_inner();
        let mut text = String::from_utf8_lossy(&response.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&response.stderr));
        Ok(ExecOutput {
            exit_code: response.exit_code,
            text,
        })
    }

    async fn open(&self, session: Session, input: Inputs) -> Result<Outputs, Status> {
        sessions::open(&self.socket, session, input).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let request = ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        match call("ImageStatus", QUICK, self.images.clone().image_status(request)).await {
            Ok(response) => Ok(response.image),
            // CRI says that absence is no error; some runtimes answer with one all the same.
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pull_image(
        &self,
        image: &str,
        sandbox_config: PodSandboxConfig,
        credentials: Option<AuthConfig>,
    ) -> Result<ImageRef, RuntimeError> {
        let request = PullImageRequest {
            image: Some(image_spec(image)),
            auth: credentials,
            sandbox_config: Some(sandbox_config),
        };
        let response = call(
            "PullImage",
            PULL,
            Box::pin(self.images.clone().pull_image(request)),
        )
        .await?;
        Ok(ImageRef::new(response.image_ref))
    }

    async fn pull_progress(&self, image: &str) -> Result<Option<PullProgress>, RuntimeError> {
        self.own.pull_progress(image).await
    }

    async fn import_image_archive(&self, path: &Path) -> Result<Vec<String>, RuntimeError> {
        self.own.import_image_archive(path).await
    }

    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        let request = ListImagesRequest::default();
        let response = call("ListImages", QUICK, self.images.clone().list_images(request)).await?;
        Ok(response.images)
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        let request = RemoveImageRequest {
            image: Some(image_spec(image.as_str())),
        };
        call("RemoveImage", SLOW, self.images.clone().remove_image(request)).await?;
        Ok(())
    }

    async fn image_folder(&self) -> Result<Option<PathBuf>, RuntimeError> {
        let request = ImageFsInfoRequest::default();
        let response = call("ImageFsInfo", QUICK, self.images.clone().image_fs_info(request)).await?;
        let disk = response.image_filesystems.into_iter().find_map(|disk| disk.fs_id);
        Ok(disk.map(|disk| disk.mountpoint.into()))
    }

    /// containerd's CRI plugin tells its configuration, as JSON, to who asks for all that there is.
    async fn sandbox_image(&self) -> Result<Option<String>, RuntimeError> {
        let request = StatusRequest { verbose: true };
        let response = call("Status", QUICK, self.runtime.clone().status(request)).await?;
        let config: Option<serde_json::Value> = response
            .info
            .get("config")
            .and_then(|config| serde_json::from_str(config).ok());
        let image = config.and_then(|config| Some(config.get("sandboxImage")?.as_str()?.to_owned()));
        Ok(image.filter(|image| !image.is_empty()))
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        let request = ListContainerStatsRequest {
            filter: Some(ContainerStatsFilter::default()),
        };
        let response = call(
            "ListContainerStats",
            QUICK,
            self.runtime.clone().list_container_stats(request),
        )
        .await?;
        Ok(response.stats)
    }

    async fn events(
        &self,
    ) -> Result<BoxStream<'static, Result<ContainerEventResponse, RuntimeError>>, RuntimeError> {
        const CALL: &str = "GetContainerEvents";
        // Not under a deadline: some runtimes answer with the first event only.
        let response = self
            .runtime
            .clone()
            .get_container_events(GetEventsRequest::default())
            .await
            .map_err(|status| refused(CALL, &status))?;
        Ok(response
            .into_inner()
            .map(|event| event.map_err(|status| refused(CALL, &status)))
            .boxed())
    }
}

async fn call<T>(
    name: &'static str,
    deadline: Duration,
    reply: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RuntimeError> {
    match tokio::time::timeout(deadline, reply).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(name, &status)),
        Err(_) => Err(RuntimeError {
            reason: RuntimeErrorReason::Timeout,
            ..unavailable(name, deadline)
        }),
    }
}

fn unavailable(call: &'static str, deadline: Duration) -> RuntimeError {
    RuntimeError {
        call,
        reason: RuntimeErrorReason::Unavailable,
        message: format!(
            "the container runtime did not answer within {} s",
            deadline.as_secs()
        ),
    }
}

fn refused(call: &'static str, status: &Status) -> RuntimeError {
    let reason = match status.code() {
        Code::NotFound => RuntimeErrorReason::NotFound,
        Code::Unavailable => RuntimeErrorReason::Unavailable,
        Code::DeadlineExceeded => RuntimeErrorReason::Timeout,
        Code::Unimplemented => RuntimeErrorReason::Unimplemented,
        _ => RuntimeErrorReason::Failed,
    };
    let message = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    RuntimeError {
        call,
        reason,
        message,
    }
}

/// A success without the content that CRI promises.
fn hollow(call: &'static str) -> RuntimeError {
    RuntimeError {
        call,
        reason: RuntimeErrorReason::Failed,
        message: "the container runtime answered without a status".to_owned(),
    }
}

/// CRI v1: stopping and removing what is not there is no error; some runtimes disagree.
fn gone_is_done<T>(outcome: Result<T, RuntimeError>) -> Result<(), RuntimeError> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn selector(key: &PodKey) -> BTreeMap<String, String> {
    BTreeMap::from([
        (identity::POD_NAMESPACE.to_owned(), key.namespace.clone()),
        (identity::POD_NAME.to_owned(), key.name.clone()),
    ])
}

fn image_spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        ..Default::default()
    }
}

/// Rounded up: a grace that is not over must not become a kill.
fn whole_seconds(grace: Duration) -> i64 {
    let rounded = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
    i64::try_from(rounded).unwrap_or(i64::MAX)
}
