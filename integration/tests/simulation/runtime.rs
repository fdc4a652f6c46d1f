//! A node's runtime: the one in memory, behind calls that fail, are lost, or take their time. What was begun goes on when
//! the kubelet that asked for it is gone, as in a process of its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clone8s::cri::{
    AuthConfig, Container, ContainerConfig, ContainerEventResponse, ContainerState, ContainerStats,
    ContainerStatus, Image, LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxStatus,
    StatusResponse, VersionResponse,
};
use clone8s_kubelet::{
    clock::Clock,
    desired::PodKey,
    identity,
    runtime::{
        ContainerId, ExecOutput, ImageRef, Inputs, Outputs, PullProgress, Runtime, RuntimeError,
        RuntimeErrorReason, SandboxId, Session,
        fake::{FakeRuntime, ImageBehavior},
    },
};
use futures::stream::BoxStream;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::oneshot, task::JoinSet, time::sleep};
use tonic::Status;

use crate::{
    history::{Fact, NodeName, Run},
    journal::Journal,
    schedule::{FAILING, JOB, STUBBORN, WEB},
};

/// A call that hangs is given up after this, as the kubelet gives up one of CRI.
const HANG: Duration = Duration::from_mins(1);

/// Clones are one runtime.
#[derive(Clone)]
pub(crate) struct FlakyRuntime {
    node: NodeName,
    runtime: FakeRuntime,
    journal: Journal,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: StdRng,
    /// Of a hundred calls so many go wrong.
    wrong: u32,
    running: BTreeMap<String, Run>,
    calls: JoinSet<()>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    before: Duration,
    refused: bool,
    after: Duration,
    /// It is done, and the caller does not hear of it.
    lost: bool,
}

impl FlakyRuntime {
    pub(crate) fn new(node: NodeName, seed: u64, journal: Journal) -> Self {
        let runtime = FakeRuntime::new(Clock::Wall);
        let ends = |seconds, code| ImageBehavior {
            exits: Some((Duration::from_secs(seconds), code)),
            ..ImageBehavior::default()
        };
        for image in WEB {
            runtime.add_image(image, ImageBehavior::default());
        }
        runtime.add_image(JOB, ends(4, 0));
        runtime.add_image(FAILING, ends(3, 1));
        let stubborn = ImageBehavior {
            ignores_stop_signal: true,
            ..ImageBehavior::default()
        };
        runtime.add_image(STUBBORN, stubborn);
        Self {
            node,
            runtime,
            journal,
            state: Arc::new(Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                wrong: 0,
                running: BTreeMap::new(),
                calls: JoinSet::new(),
            })),
        }
    }

    /// From now on so many of a hundred calls go wrong.
    pub(crate) fn set_wrong(&self, wrong: u32) {
        self.state().wrong = wrong;
    }

    /// Ends one of the running containers, if there are any.
    pub(crate) async fn exit(&self, choice: usize, code: i32) {
        let id = {
            let state = self.state();
            let count = state.running.len().max(1);
            state.running.keys().nth(choice % count).cloned()
        };
        if let Some(id) = id {
            self.runtime.exit(&id, code);
            self.look().await;
        }
    }

    /// The runs that are under way, by the container's id.
    pub(crate) fn running(&self) -> BTreeMap<String, Run> {
        self.state().running.clone()
    }

    /// The uids of all pods of which a sandbox or a container is left.
    pub(crate) async fn uids(&self) -> Vec<String> {
        let sandboxes = self.runtime.list_sandboxes(None).await.unwrap_or_default();
        let containers = self.runtime.list_containers(None).await.unwrap_or_default();
        let labels = sandboxes.into_iter().map(|one| one.labels);
        let labels = labels.chain(containers.into_iter().map(|one| one.labels));
        let mut uids: Vec<_> = labels
            .filter_map(|labels| labels.get(identity::POD_UID).cloned())
            .collect();
        uids.sort();
        uids.dedup();
        uids
    }

    /// Writes down what has come to run, and what no longer does.
    pub(crate) async fn look(&self) {
        let listed = self.runtime.list_containers(None).await.unwrap_or_default();
        let running: BTreeMap<_, _> = listed
            .iter()
            .filter(|one| one.state == i32::from(ContainerState::ContainerRunning))
            .filter_map(|one| Some((one.id.clone(), Run::of(one)?)))
            .collect();
        let before = std::mem::replace(&mut self.state().running, running.clone());
        let node = self.node;
        let is_new = |(id, _): &(&String, &Run)| !before.contains_key(*id);
        let started: Vec<_> = running
            .iter()
            .filter(is_new)
            .map(|(id, run)| (id.clone(), run.clone()))
            .collect();
        for id in before.into_keys().filter(|id| !running.contains_key(id)) {
            let status = self.runtime.container_status(&ContainerId::new(&id)).await;
            let code = status.ok().map(|status| status.exit_code);
            self.journal.write(Fact::Ended { node, id, code });
        }
        for (id, run) in started {
            self.journal.write(Fact::Started { node, id, run });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> Fate {
        let mut state = self.state();
        let wrong = state.wrong;
        let rng = &mut state.rng;
        let some = |rng: &mut StdRng| Duration::from_millis(rng.random_range(0..20));
        let (before, after) = (some(rng), some(rng));
        let well = Fate {
            before,
            after,
            ..Fate::default()
        };
        if rng.random_range(0..100) >= wrong {
            return well;
        }
        let long = Duration::from_millis(rng.random_range(500..15_000));
        match rng.random_range(0..5) {
            0 => Fate {
                refused: true,
                ..well
            },
            1 => Fate { lost: true, ..well },
            2 => Fate { before: long, ..well },
            3 => Fate { after: long, ..well },
            _ => Fate {
                after: HANG,
                lost: true,
                ..well
            },
        }
    }

    /// A call that changes nothing ends with its caller.
    async fn ask<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        let fate = self.fate();
        sleep(fate.before).await;
        if fate.refused {
            return Err(error(call, RuntimeErrorReason::Failed));
        }
        let answer = work.await;
        sleep(fate.after).await;
        if fate.lost {
            return Err(error(call, RuntimeErrorReason::Timeout));
        }
        answer
    }

    /// A call that changes something goes on without its caller.
    async fn order<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, RuntimeError>> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let (answer, answered) = oneshot::channel();
        let own = self.clone();
        {
            let mut state = self.state();
            while state.calls.try_join_next().is_some() {}
            state.calls.spawn(async move {
                let looking = own.clone();
                let work = async move {
                    let done = work.await;
                    looking.look().await;
                    done
                };
                // Nobody need wait for it.
                let _ = answer.send(own.ask(call, work).await);
            });
        }
        let ended = answered.await;
        ended.unwrap_or_else(|_| Err(error(call, RuntimeErrorReason::Unavailable)))
    }

    async fn run_of(&self, id: &ContainerId) -> Option<Run> {
        let listed = self.runtime.list_containers(None).await.ok()?;
        listed.iter().find(|one| one.id == id.as_str()).and_then(Run::of)
    }

    fn stop_asked(&self, id: String) {
        let node = self.node;
        self.journal.write(Fact::StopAsked { node, id });
    }

    /// The containers of a sandbox end with it.
    async fn sandbox_ends(&self, sandbox: &SandboxId) {
        let listed = self.runtime.list_containers(None).await.unwrap_or_default();
        for one in listed {
            if one.pod_sandbox_id == sandbox.as_str() {
                self.stop_asked(one.id);
            }
        }
    }
}

fn error(call: &'static str, reason: RuntimeErrorReason) -> RuntimeError {
    RuntimeError {
        call,
        reason,
        message: "the simulation has it so".to_owned(),
    }
}

#[async_trait]
impl Runtime for FlakyRuntime {
    async fn version(&self) -> Result<VersionResponse, RuntimeError> {
        self.ask("Version", self.runtime.version()).await
    }

    async fn status(&self) -> Result<StatusResponse, RuntimeError> {
        self.ask("Status", self.runtime.status()).await
    }

    async fn list_sandboxes(&self, of: Option<&PodKey>) -> Result<Vec<PodSandbox>, RuntimeError> {
        self.ask("ListPodSandbox", self.runtime.list_sandboxes(of)).await
    }

    async fn sandbox_status(&self, id: &SandboxId) -> Result<PodSandboxStatus, RuntimeError> {
        self.ask("PodSandboxStatus", self.runtime.sandbox_status(id))
            .await
    }

    async fn run_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<SandboxId, RuntimeError> {
        let (runtime, handler) = (self.runtime.clone(), handler.to_owned());
        let work = async move { runtime.run_sandbox(config, &handler).await };
        self.order("RunPodSandbox", work).await
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.sandbox_ends(id).await;
        let (runtime, id) = (self.runtime.clone(), id.clone());
        let work = async move { runtime.stop_sandbox(&id).await };
        self.order("StopPodSandbox", work).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.sandbox_ends(id).await;
        let (runtime, id) = (self.runtime.clone(), id.clone());
        let work = async move { runtime.remove_sandbox(&id).await };
        self.order("RemovePodSandbox", work).await
    }

    async fn list_containers(&self, of: Option<&PodKey>) -> Result<Vec<Container>, RuntimeError> {
        // Containers whose time is over end when somebody looks.
        self.look().await;
        self.ask("ListContainers", self.runtime.list_containers(of)).await
    }

    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        self.ask("ContainerStatus", self.runtime.container_status(id))
            .await
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let (runtime, sandbox) = (self.runtime.clone(), sandbox.clone());
        let work = async move { runtime.create_container(&sandbox, config, sandbox_config).await };
        self.order("CreateContainer", work).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        if let Some(run) = self.run_of(id).await {
            let node = self.node;
            self.journal.write(Fact::StartAsked { node, run });
        }
        let (runtime, id) = (self.runtime.clone(), id.clone());
        let work = async move { runtime.start_container(&id).await };
        self.order("StartContainer", work).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.stop_asked(id.as_str().to_owned());
        let (runtime, id) = (self.runtime.clone(), id.clone());
        let work = async move { runtime.stop_container(&id, grace).await };
        self.order("StopContainer", work).await
    }

    async fn update_container(
        &self,
        id: &ContainerId,
        limits: LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let (runtime, id) = (self.runtime.clone(), id.clone());
        let work = async move { runtime.update_container(&id, limits).await };
        self.order("UpdateContainerResources", work).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.stop_asked(id.as_str().to_owned());
        let (runtime, id) = (self.runtime.clone(), id.clone());
        let work = async move { runtime.remove_container(&id).await };
        self.order("RemoveContainer", work).await
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.ask("ReopenContainerLog", self.runtime.reopen_log(id)).await
    }

    async fn exec(
        &self,
        id: &ContainerId,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        self.ask("ExecSync", self.runtime.exec(id, command, limit)).await
    }

    async fn open(&self, session: Session, input: Inputs) -> Result<Outputs, Status> {
        self.runtime.open(session, input).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        self.ask("ImageStatus", self.runtime.image_status(image)).await
    }

    async fn pull_image(
        &self,
        image: &str,
        sandbox_config: PodSandboxConfig,
        credentials: Option<AuthConfig>,
    ) -> Result<ImageRef, RuntimeError> {
        let pulling = self.runtime.pull_image(image, sandbox_config, credentials);
        self.ask("PullImage", pulling).await
    }

    async fn pull_progress(&self, image: &str) -> Result<Option<PullProgress>, RuntimeError> {
        self.ask("PullProgress", self.runtime.pull_progress(image)).await
    }

    async fn import_image_archive(&self, path: &Path) -> Result<Vec<String>, RuntimeError> {
        self.ask("ImportImageArchive", self.runtime.import_image_archive(path))
            .await
    }

    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        self.ask("ListImages", self.runtime.list_images()).await
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<(), RuntimeError> {
        self.ask("RemoveImage", self.runtime.remove_image(image)).await
    }

    async fn image_folder(&self) -> Result<Option<PathBuf>, RuntimeError> {
        self.ask("ImageFsInfo", self.runtime.image_folder()).await
    }

    async fn sandbox_image(&self) -> Result<Option<String>, RuntimeError> {
        self.ask("Status", self.runtime.sandbox_image()).await
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        self.ask("ListContainerStats", self.runtime.list_container_stats())
            .await
    }

    async fn events(
        &self,
    ) -> Result<BoxStream<'static, Result<ContainerEventResponse, RuntimeError>>, RuntimeError> {
        self.ask("GetContainerEvents", self.runtime.events()).await
    }
}
