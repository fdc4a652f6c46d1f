//! A runtime in memory: it keeps time by a clock, makes containers exit when told, and fails on request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clone8s::cri::{
    Container, ContainerConfig, ContainerEventResponse, ContainerEventType, ContainerState, ContainerStats,
    ContainerStatus, Image, ImageSpec, PodSandbox, PodSandboxConfig, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus, RuntimeCondition, RuntimeStatus, StatusResponse, VersionResponse,
};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::{ContainerId, ImageRef, Runtime, RuntimeError, RuntimeErrorReason, SandboxId};
use crate::{
    clock::{Clock, to_nanos},
    desired::PodKey,
    identity,
};

/// Events that a slow listener may lag behind before it misses some.
const EVENTS: usize = 256;
/// As a process that a kill has ended.
const KILLED: i32 = 137;
/// As a process that its stop signal has ended.
const TERMINATED: i32 = 143;

/// A container runtime in memory. Clones are one runtime.
#[derive(Debug, Clone)]
pub struct FakeRuntime {
    clock: Clock,
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<ContainerEventResponse>,
}

#[derive(Debug, Default)]
struct State {
    serial: u32,
    sandboxes: BTreeMap<String, FakeSandbox>,
    containers: BTreeMap<String, FakeContainer>,
    /// What a pull brings, and what is here already.
    registry: BTreeMap<String, ImageBehavior>,
    images: BTreeMap<String, String>,
    faults: BTreeMap<&'static str, Vec<Fault>>,
    calls: Vec<String>,
    silent: bool,
    pretends_to_stop: bool,
}

#[derive(Debug, Clone)]
struct FakeSandbox {
    config: PodSandboxConfig,
    ready: bool,
    created_at: i64,
    ip: String,
    handler: String,
}

#[derive(Debug, Clone)]
struct FakeContainer {
    sandbox: String,
    config: ContainerConfig,
    state: ContainerState,
    created_at: i64,
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    log_path: String,
}

/// How containers of an image behave.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageBehavior {
    /// How long a pull takes.
    pub pull_time: Duration,
    /// Containers exit by themselves after this time with this code.
    pub exits: Option<(Duration, i32)>,
    /// Containers take no notice of their stop signal.
    pub ignores_stop_signal: bool,
}

/// What a call does instead of its work.
#[derive(Debug, Clone)]
pub enum Fault {
    Fail(RuntimeError),
    /// No answer, ever.
    Hang,
}

impl FakeRuntime {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
            events: broadcast::Sender::new(EVENTS),
        }
    }

    /// Makes an image known to the registry.
    pub fn add_image(&self, image: &str, behavior: ImageBehavior) {
        self.state().registry.insert(image.to_owned(), behavior);
    }

    /// The next `call` meets this fault; faults of one call queue up.
    pub fn inject(&self, call: &'static str, fault: Fault) {
        self.state().faults.entry(call).or_default().push(fault);
    }

    /// From now on the runtime sends no events.
    pub fn send_no_events(&self) {
        self.state().silent = true;
    }

    /// From now on `StopContainer` answers with success and does nothing.
    pub fn pretend_to_stop(&self) {
        self.state().pretends_to_stop = true;
    }

    /// Ends a running container as if its process had ended.
    pub fn exit(&self, id: &str, code: i32) {
        self.end(id, code);
    }

    /// As a reboot: nothing runs any more, and all is still listed.
    pub fn reboot(&self) {
        let ids: Vec<_> = self.state().containers.keys().cloned().collect();
        for id in ids {
            self.end(&id, KILLED);
        }
        for sandbox in self.state().sandboxes.values_mut() {
            sandbox.ready = false;
        }
    }

    /// Adds a sandbox and a running container of another program.
    pub fn add_foreign(&self, name: &str) {
        let mut state = self.state();
        let now = to_nanos(self.clock.now());
        let config = PodSandboxConfig::default();
        let sandbox = FakeSandbox {
            config,
            ready: true,
            created_at: now,
            ip: String::new(),
            handler: String::new(),
        };
        state.sandboxes.insert(format!("{name}-sandbox"), sandbox);
        let container = FakeContainer {
            sandbox: format!("{name}-sandbox"),
            config: ContainerConfig::default(),
            state: ContainerState::ContainerRunning,
            created_at: now,
            started_at: now,
            finished_at: 0,
            exit_code: 0,
            log_path: String::new(),
        };
        state.containers.insert(name.to_owned(), container);
    }

    /// Every call that changes something, as "StartContainer web", in order.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// The running containers, as "pod/container#restart", in order.
    pub fn running(&self) -> Vec<String> {
        let state = self.state();
        let mut running: Vec<_> = state
            .containers
            .values()
            .filter(|container| container.state == ContainerState::ContainerRunning)
            .filter_map(|container| {
                let labels = &container.config.labels;
                let pod = labels.get(identity::POD_NAME)?;
                let name = labels.get(identity::CONTAINER_NAME)?;
                let restart = container.config.annotations.get(identity::RESTART_COUNT)?;
                Some(format!("{pod}/{name}#{restart}"))
            })
            .collect();
        running.sort();
        running
    }

    /// The ids of the running containers of one name.
    pub fn running_ids(&self, container: &str) -> Vec<String> {
        let state = self.state();
        let of_name = state.containers.iter().filter(|(_, one)| {
            one.state == ContainerState::ContainerRunning
                && one
                    .config
                    .labels
                    .get(identity::CONTAINER_NAME)
                    .is_some_and(|name| name == container)
        });
        of_name.map(|(id, _)| id.clone()).collect()
    }

    /// How many sandboxes and containers there are, foreign ones included.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.sandboxes.len(), state.containers.len())
    }

    /// The config that a running container was made with.
    pub fn config_of(&self, id: &str) -> Option<ContainerConfig> {
        self.state()
            .containers
            .get(id)
            .map(|container| container.config.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Meets the next fault of a call, and notes the call if it changes something.
    async fn enter(&self, call: &'static str, of: Option<&str>) -> Result<(), RuntimeError> {
        let fault = {
            let mut state = self.state();
            if let Some(of) = of {
                state.calls.push(format!("{call} {of}"));
            }
            let faults = state.faults.get_mut(call).filter(|faults| !faults.is_empty());
            faults.map(|faults| faults.remove(0))
        };
        self.settle();
        match fault {
            None => Ok(()),
            Some(Fault::Fail(error)) => Err(error),
            Some(Fault::Hang) => std::future::pending().await,
        }
    }

    /// Ends the containers whose time has come.
    fn settle(&self) {
        let now = to_nanos(self.clock.now());
        let due: Vec<_> = {
            let state = self.state();
            let running = state
                .containers
                .iter()
                .filter(|(_, container)| container.state == ContainerState::ContainerRunning);
            running
                .filter_map(|(id, container)| {
                    let (after, code) = state.behavior_of(container).exits?;
                    let at = container.started_at + i64::try_from(after.as_nanos()).unwrap_or(i64::MAX);
                    (at <= now).then(|| (id.clone(), code, at))
                })
                .collect()
        };
        for (id, code, at) in due {
            self.end_at(&id, code, at);
        }
    }

    fn end(&self, id: &str, code: i32) {
        self.end_at(id, code, to_nanos(self.clock.now()));
    }

    fn end_at(&self, id: &str, code: i32, at: i64) {
        let ended = {
            let mut state = self.state();
            match state.containers.get_mut(id) {
                Some(container) if container.state == ContainerState::ContainerRunning => {
                    container.state = ContainerState::ContainerExited;
                    container.finished_at = at;
                    container.exit_code = code;
                    true
                }
                _ => false,
            }
        };
        if ended {
            self.tell(id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    fn tell(&self, id: &str, kind: ContainerEventType) {
        let state = self.state();
        let sandbox = state
            .containers
            .get(id)
            .and_then(|container| state.sandboxes.get(&container.sandbox));
        if state.silent {
            return;
        }
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: to_nanos(self.clock.now()),
            pod_sandbox_status: sandbox.map(|sandbox| PodSandboxStatus {
                metadata: sandbox.config.metadata.clone(),
                ..Default::default()
            }),
            containers_statuses: Vec::new(),
        };
        // Nobody need listen.
        let _ = self.events.send(event);
    }
}

impl State {
    fn next_id(&mut self, kind: &str) -> String {
        self.serial += 1;
        format!("{kind}-{}", self.serial)
    }

    fn behavior_of(&self, container: &FakeContainer) -> ImageBehavior {
        let image = container
            .config
            .image
            .as_ref()
            .map(|image| image.user_specified_image.as_str());
        image
            .and_then(|image| self.registry.get(image))
            .copied()
            .unwrap_or_default()
    }
}

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

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter("RemoveContainer", Some(id.as_str())).await?;
        self.state().containers.remove(id.as_str());
        Ok(())
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.enter("ReopenContainerLog", Some(id.as_str())).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        self.enter("ImageStatus", None).await?;
        Ok(self.state().images.get(image).map(|id| Image {
            id: id.clone(),
            repo_tags: vec![image.to_owned()],
            ..Default::default()
        }))
    }

    async fn pull_image(&self, image: &str, _sandbox: PodSandboxConfig) -> Result<ImageRef, RuntimeError> {
        self.enter("PullImage", Some(image)).await?;
        let behavior = self.state().registry.get(image).copied();
        let Some(behavior) = behavior else {
            return Err(missing("PullImage", image));
        };
        tokio::time::sleep(behavior.pull_time).await;
        let id = format!("sha256:{image}");
        self.state().images.insert(image.to_owned(), id.clone());
        Ok(ImageRef::new(id))
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

impl FakeSandbox {
    fn cri_state(&self) -> PodSandboxState {
        if self.ready {
            PodSandboxState::SandboxReady
        } else {
            PodSandboxState::SandboxNotready
        }
    }
}

impl FakeContainer {
    fn image_id(&self) -> String {
        self.config
            .image
            .as_ref()
            .map(|ImageSpec { image, .. }| image.clone())
            .unwrap_or_default()
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
