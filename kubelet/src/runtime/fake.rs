//! A runtime in memory: it keeps time by a clock, makes containers exit when told, and fails on request.

mod calls;
mod pulls;
mod sessions;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clone8s::cri::{
    ContainerConfig, ContainerEventResponse, ContainerEventType, ContainerState, ImageSpec, PodSandboxConfig,
    PodSandboxState, PodSandboxStatus,
};
use tokio::{sync::broadcast, time::Instant};

use super::RuntimeError;
use crate::{
    clock::{Clock, to_nanos},
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
    /// Those under way, in the order of their numbers: of what, and since when.
    pulls: BTreeMap<u32, (String, Instant)>,
    /// What commands do, by container and command line; others succeed at once.
    commands: BTreeMap<(String, String), CommandBehavior>,
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
    /// Bytes.
    pub size: u64,
}

/// How a command in a container behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommandBehavior {
    pub takes: Duration,
    pub exit_code: i32,
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

    /// From now on a command, its words joined by spaces, behaves so in the containers of this name.
    pub fn set_command(&self, container: &str, line: &str, behavior: CommandBehavior) {
        let key = (container.to_owned(), line.to_owned());
        self.state().commands.insert(key, behavior);
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

    /// As if somebody had removed a container behind the kubelet's back.
    pub fn forget(&self, id: &str) {
        self.state().containers.remove(id);
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

    /// The config that a pod's newest sandbox was made with.
    pub fn sandbox_config_of(&self, pod: &str) -> Option<PodSandboxConfig> {
        let state = self.state();
        let of_pod = state.sandboxes.values().filter(|sandbox| {
            let metadata = sandbox.config.metadata.as_ref();
            metadata.is_some_and(|metadata| metadata.name == pod)
        });
        let newest = of_pod.max_by_key(|sandbox| sandbox.created_at);
        newest.map(|sandbox| sandbox.config.clone())
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
