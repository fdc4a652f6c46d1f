//! The calls of the runtime in memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use clone8s::cri::{
    AuthConfig, Container, ContainerConfig, ContainerEventResponse, ContainerEventType, ContainerResources,
    ContainerState, ContainerStats, ContainerStatus, Image, LinuxContainerResources, PodSandbox,
    PodSandboxConfig, PodSandboxNetworkStatus, PodSandboxStatus, RuntimeCondition, RuntimeStatus,
    StatusResponse, VersionResponse,
};
use futures::{StreamExt as _, stream::BoxStream};
use tokio_stream::wrappers::BroadcastStream;
use tonic::Status;

use super::{CommandBehavior, FakeContainer, FakeRuntime, FakeSandbox, KILLED, TERMINATED};
use crate::{
    clock::to_nanos,
    desired::PodKey,
    identity,
    runtime::{
        ContainerId, ExecOutput, ImageRef, Inputs, Outputs, PullProgress, Runtime, RuntimeError,
        RuntimeErrorReason, SandboxId, Session,
    },
};

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<VersionResponse, RuntimeError> {
        self.enter("Version", None).await?;
        Ok(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "1".to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self) -> Result<StatusResponse, RuntimeError> {
        self.enter("Status", None).await?;
        let conditions = ["RuntimeReady", "NetworkReady"].map(|kind| RuntimeCondition {
            r#type: kind.to_owned(),
            status: true,
            ..Default::default()
        });
        Ok(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: conditions.to_vec(),
            }),
            ..Default::default()
        })
    }

    async fn list_sandboxes(&self, of: Option<&PodKey>) -> Result<Vec<PodSandbox>, RuntimeError> {
        self.enter("ListPodSandbox", None).await?;
        let state = self.state();
        let listed = state
            .sandboxes
            .iter()
            .filter(|(_, one)| matches(&one.config.labels, of));
        Ok(listed
            .map(|(id, sandbox)| PodSandbox {
                id: id.clone(),
                metadata: sandbox.config.metadata.clone(),
                state: sandbox.cri_state().into(),
                created_at: sandbox.created_at,
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
                runtime_handler: sandbox.handler.clone(),
            })
            .collect())
    }

    async fn sandbox_status(&self, id: &SandboxId) -> Result<PodSandboxStatus, RuntimeError> {
        self.enter("PodSandboxStatus", None).await?;
        let state = self.state();
        let sandbox = state
            .sandboxes
            .get(id.as_str())
            .ok_or_else(|| missing("PodSandboxStatus", id.as_str()))?;
        Ok(PodSandboxStatus {
            id: id.as_str().to_owned(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.cri_state().into(),
            created_at: sandbox.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: sandbox.ip.clone(),
                ..Default::default()
            }),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            ..Default::default()
        })
    }

    async fn run_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<SandboxId, RuntimeError> {
        let name = config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default();
        self.enter("RunPodSandbox", Some(&name)).await?;
        let mut state = self.state();
        // CRI v1: the metadata names a sandbox among all there are.
        if state
            .sandboxes
            .values()
            .any(|other| other.config.metadata == config.metadata)
        {
            return Err(failure(
                "RunPodSandbox",
                format!("a sandbox for attempt of {name} exists already"),
            ));
        }
        let id = state.next_id("sandbox");
        let ip = config
            .annotations
            .get(identity::POD_IP)
            .cloned()
            .unwrap_or_else(|| format!("10.88.0.{}", state.serial));
        let sandbox = FakeSandbox {
            config,
            ready: true,
            created_at: to_nanos(self.clock.now()),
            ip,
            handler: handler.to_owned(),
        };
        state.sandboxes.insert(id.clone(), sandbox);
        Ok(SandboxId::new(id))
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.enter("StopPodSandbox", Some(id.as_str())).await?;
        let containers: Vec<_> = {
            let mut state = self.state();
            if let Some(sandbox) = state.sandboxes.get_mut(id.as_str()) {
                sandbox.ready = false;
            }
            let of_sandbox = state
                .containers
                .iter()
                .filter(|(_, one)| one.sandbox == id.as_str());
            of_sandbox.map(|(id, _)| id.clone()).collect()
        };
        for container in containers {
            self.end(&container, KILLED);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.enter("RemovePodSandbox", Some(id.as_str())).await?;
        let mut state = self.state();
        state.sandboxes.remove(id.as_str());
        state
            .containers
            .retain(|_, container| container.sandbox != id.as_str());
        Ok(())
    }

    async fn list_containers(&self, of: Option<&PodKey>) -> Result<Vec<Container>, RuntimeError> {
        self.enter("ListContainers", None).await?;
        let state = self.state();
        let listed = state
            .containers
            .iter()
            .filter(|(_, one)| matches(&one.config.labels, of));
        Ok(listed
            .map(|(id, container)| Container {
                id: id.clone(),
                pod_sandbox_id: container.sandbox.clone(),
                metadata: container.config.metadata.clone(),
                image: container.config.image.clone(),
                image_ref: container.image_id(),
                state: container.state.into(),
                created_at: container.created_at,
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
                image_id: container.image_id(),
            })
            .collect())
    }

    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        self.enter("ContainerStatus", None).await?;
        let state = self.state();
        let container = state
            .containers
            .get(id.as_str())
            .ok_or_else(|| missing("ContainerStatus", id.as_str()))?;
        Ok(ContainerStatus {
            id: id.as_str().to_owned(),
            metadata: container.config.metadata.clone(),
            state: container.state.into(),
            created_at: container.created_at,
            started_at: container.started_at,
            finished_at: container.finished_at,
            exit_code: container.exit_code,
            image: container.config.image.clone(),
            image_ref: container.image_id(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            log_path: container.log_path.clone(),
            image_id: container.image_id(),
            resources: container.config.linux.clone().map(|linux| ContainerResources {
                linux: linux.resources,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let name = config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default();
        self.enter("CreateContainer", Some(&name)).await?;
        let id = {
            let mut state = self.state();
            let of = state
                .sandboxes
                .get(sandbox.as_str())
                .filter(|sandbox| sandbox.ready);
            if of.is_none_or(|sandbox| sandbox.config.metadata != sandbox_config.metadata) {
                return Err(failure(
                    "CreateContainer",
                    format!("sandbox {sandbox} is not ready, or another's"),
                ));
            }
            let image = config.image.clone().unwrap_or_default().image;
            if !state.images.values().any(|id| *id == image) {
                return Err(missing("CreateContainer", &image));
            }
            let id = state.next_id("container");
            let container = FakeContainer {
                sandbox: sandbox.as_str().to_owned(),
                log_path: format!("{}/{}", sandbox_config.log_directory, config.log_path),
                config,
                state: ContainerState::ContainerCreated,
                created_at: to_nanos(self.clock.now()),
                started_at: 0,
                finished_at: 0,
                exit_code: 0,
            };
            state.containers.insert(id.clone(), container);
            id
        };
        self.tell(&id, ContainerEventType::ContainerCreatedEvent);
        Ok(ContainerId::new(id))
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter("StartContainer", Some(id.as_str())).await?;
        {
            let mut state = self.state();
            let now = to_nanos(self.clock.now());
            let container = state
                .containers
                .get_mut(id.as_str())
                .ok_or_else(|| missing("StartContainer", id.as_str()))?;
            if container.state != ContainerState::ContainerCreated {
                return Err(failure("StartContainer", format!("{id} was started before")));
            }
            container.state = ContainerState::ContainerRunning;
            container.started_at = now;
        }
        self.tell(id.as_str(), ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.enter("StopContainer", Some(id.as_str())).await?;
        if self.state().pretends_to_stop {
            return Ok(());
        }
        let stubborn = {
            let state = self.state();
            let container = state.containers.get(id.as_str());
            container.is_some_and(|container| state.behavior_of(container).ignores_stop_signal)
        };
        if stubborn {
            tokio::time::sleep(grace).await;
        }
        let killed = stubborn || grace.is_zero();
        self.end(id.as_str(), if killed { KILLED } else { TERMINATED });
        Ok(())
    }

    async fn update_container(
        &self,
        id: &ContainerId,
        limits: LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        self.enter("UpdateContainerResources", Some(id.as_str())).await?;
        let mut state = self.state();
        let container = state
            .containers
            .get_mut(id.as_str())
            .ok_or_else(|| missing("UpdateContainerResources", id.as_str()))?;
        container
            .config
            .linux
            .get_or_insert_default()
            .resources
            .replace(limits);
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter("RemoveContainer", Some(id.as_str())).await?;
        self.state().containers.remove(id.as_str());
        Ok(())
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter("ReopenContainerLog", Some(id.as_str())).await
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let line = command.join(" ");
        self.enter("ExecSync", Some(&line)).await?;
        let behavior = self.behavior_of_command(id, line);
        let CommandBehavior { takes, exit_code } =
            behavior.ok_or_else(|| missing("ExecSync", id.as_str()))?;
        tokio::time::sleep(takes.min(limit)).await;
        if takes > limit {
            return Err(RuntimeError {
                call: "ExecSync",
                reason: RuntimeErrorReason::Timeout,
                message: "the command did not end in time".to_owned(),
            });
        }
        Ok(ExecOutput {
            exit_code,
            text: String::new(),
        })
    }

    async fn open(&self, session: Session, input: Inputs) -> Result<Outputs, Status> {
        self.open_session(session, input).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        self.enter("ImageStatus", None).await?;
        let state = self.state();
        let named = |(name, id): &(&String, &String)| *name == image || *id == image;
        Ok(state.images.iter().find(named).map(|(name, id)| Image {
            id: id.clone(),
            repo_tags: vec![name.clone()],
            size: state.registry.get(name).map_or(0, |image| image.size),
            ..Default::default()
        }))
    }

    async fn pull_image(
        &self,
        image: &str,
        _sandbox: PodSandboxConfig,
        _credentials: Option<AuthConfig>,
    ) -> Result<ImageRef, RuntimeError> {
        self.enter("PullImage", Some(image)).await?;
        let behavior = self.state().registry.get(image).copied();
        let Some(behavior) = behavior else {
            return Err(missing("PullImage", image));
        };
        let _under_way = self.begin_pull(image);
        tokio::time::sleep(behavior.pull_time).await;
        let id = format!("sha256:{image}");
        self.state().images.insert(image.to_owned(), id.clone());
        Ok(ImageRef::new(id))
    }

    async fn pull_progress(&self, image: &str) -> Result<Option<PullProgress>, RuntimeError> {
        self.enter("ListImagePulls", None).await?;
        Ok(self.progress_of(image))
    }

    /// Here an archive is a text of its images' names; without one it is broken.
    async fn import_image_archive(&self, path: &Path) -> Result<Vec<String>, RuntimeError> {
        const CALL: &str = "ImportImageArchive";
        self.enter(CALL, path.to_str()).await?;
        let text = std::fs::read_to_string(path).map_err(|error| failure(CALL, error.to_string()))?;
        let names: Vec<_> = text.lines().map(str::to_owned).collect();
        if names.is_empty() {
            return Err(failure(CALL, format!("{} holds no image", path.display())));
        }
        let ids = names.iter().map(|name| (name.clone(), format!("sha256:{name}")));
        self.state().images.extend(ids);
        Ok(names)
    }

    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        self.enter("ListImages", None).await?;
        let state = self.state();
        let images = state.images.iter().map(|(name, id)| Image {
            id: id.clone(),
            repo_tags: vec![name.clone()],
            repo_digests: vec![format!("{name}@{id}")],
            size: state.registry.get(name).map_or(0, |image| image.size),
            ..Default::default()
        });
        Ok(images.collect())
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        self.enter("RemoveImage", Some(image.as_str())).await?;
        self.state().images.retain(|_, id| id != image.as_str());
        Ok(())
    }

    async fn image_folder(&self) -> Result<Option<PathBuf>, RuntimeError> {
        self.enter("ImageFsInfo", None).await?;
        Ok(Some("/".into()))
    }

    async fn sandbox_image(&self) -> Result<Option<String>, RuntimeError> {
        Ok(None)
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        self.enter("ListContainerStats", None).await?;
        Ok(Vec::new())
    }

    async fn events(
        &self,
    ) -> Result<BoxStream<'static, Result<ContainerEventResponse, RuntimeError>>, RuntimeError> {
        self.enter("GetContainerEvents", None).await?;
        let events = BroadcastStream::new(self.events.subscribe());
        Ok(events
            .map(|event| event.map_err(|error| failure("GetContainerEvents", error.to_string())))
            .boxed())
    }
}

fn matches(labels: &BTreeMap<String, String>, of: Option<&PodKey>) -> bool {
    of.is_none_or(|key| {
        labels.get(identity::POD_NAMESPACE) == Some(&key.namespace)
            && labels.get(identity::POD_NAME) == Some(&key.name)
    })
}

fn missing(call: &'static str, what: &str) -> RuntimeError {
    RuntimeError {
        call,
        reason: RuntimeErrorReason::NotFound,
        message: format!("{what}: not found"),
    }
}

fn failure(call: &'static str, message: String) -> RuntimeError {
    RuntimeError {
        call,
        reason: RuntimeErrorReason::Failed,
        message,
    }
}
