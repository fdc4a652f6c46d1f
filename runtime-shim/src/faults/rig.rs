//! A shim on a containerd in memory, in a process life that can end at any moment.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clone8s::cri::{self, runtime_service_server::RuntimeService};
use clone8s_daemon::Shutdown;
use clone8s_integration::Image;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Request, Status};

use crate::{
    config::{Config, RUNC},
    containerd::{
        Bounded, Limits,
        fake::{Fake, Fault, State},
    },
    ids::LeaseId,
    link,
    server::Cri,
    shim::{Readiness, Shim},
    streams::server::Streaming,
};

const NAME: &str = "localhost/busybox:1";
/// Short, since many calls of the table wait for it; long enough for a machine under load to answer in.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long a whole step may take.
const STEP_LIMIT: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Step {
    Import,
    Run,
    Create,
    Start,
    StopContainer,
    RemoveContainer,
    StopSandbox,
    RemoveSandbox,
}

const LIFE: [Step; 8] = [
    Step::Import,
    Step::Run,
    Step::Create,
    Step::Start,
    Step::StopContainer,
    Step::RemoveContainer,
    Step::StopSandbox,
    Step::RemoveSandbox,
];

pub(super) struct Bench {
    archive_dir: TempDir,
    image: OnceLock<State>,
}

impl Bench {
    pub(super) fn new() -> Self {
        let archive_dir = tempfile::tempdir().expect("a folder");
        let image = Image::empty()
            .file("bin/true", 0o755, "not run")
            .cmd(["/bin/true"]);
        image
            .write_archive(&archive_dir.path().join("image.tar"), NAME)
            .expect("an archive");
        Self {
            archive_dir,
            image: OnceLock::new(),
        }
    }

    /// A containerd that has the image.
    pub(super) fn image(&self) -> State {
        let made = || {
            let mut life = self.start(State::default());
            life.go(Step::Import).expect("the image is imported");
            life.fake.state()
        };
        self.image.get_or_init(made).clone()
    }

    /// A first process on a containerd and a host that know of no pod.
    pub(super) fn start(&self, state: State) -> Life {
        let dir = tempfile::tempdir().expect("a folder");
        Life::new(Fake::new(state), Arc::new(dir), self.archive_dir.path())
    }

    /// One row of the table; which call went wrong, or nothing when the step does not make so many.
    pub(super) fn one(&self, step: Step, nth: usize, fault: Fault, dies: bool) -> Option<&'static str> {
        let context = format!("{step:?}, call {nth}, {fault:?}, dies: {dies}");
        let state = if step == Step::Import {
            State::default()
        } else {
            self.image()
        };
        let mut life = self.start(state);
        for before in LIFE
            .iter()
            .filter(|&&before| before < step && before > Step::Import)
        {
            life.go(*before)
                .unwrap_or_else(|error| panic!("{context}: {before:?}: {error:?}"));
        }
        life.fake.arm(nth, fault);
        let outcome = if dies {
            life.go_and_die(step)
        } else {
            Some(life.go(step))
        };
        let struck = life.fake.heal();
        let done = match outcome {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                assert!(struck.is_some(), "{context}: fails without a fault: {error:?}");
                false
            }
            None => {
                life = life.reborn();
                false
            }
        };
        life.ready();
        // The step again where it has not succeeded, and all that come after it.
        for step in LIFE
            .iter()
            .filter(|&&after| after > step || !done && after == step)
        {
            life.go(*step)
                .unwrap_or_else(|error| panic!("{context} ({struck:?}): then {step:?}: {error:?}"));
        }
        life.assert_nothing_left(&context);
        struck
    }
}

/// One process of the shim.
pub(super) struct Life {
    pub(super) fake: Arc<Fake>,
    runtime: Option<Runtime>,
    shim: Arc<Shim>,
    cri: Cri,
    dir: Arc<TempDir>,
    archives: std::path::PathBuf,
    sandbox: String,
    container: String,
}

impl Life {
    fn new(fake: Arc<Fake>, dir: Arc<TempDir>, archives: &Path) -> Self {
        let config = Config {
            state_dir: dir.path().join("state"),
            root_dir: dir.path().join("root"),
            default_handler: Some(RUNC.into()),
            ..Config::default()
        };
        let limits = Limits {
            record: PATIENCE,
            task: PATIENCE,
            content: PATIENCE,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let containerd = Arc::new(Bounded::new(Arc::clone(&fake), limits));
        let shim = Arc::new(runtime.block_on(Shim::new(config, containerd, Shutdown::new())));
        let bound = Streaming::bind(&shim.config.streams, Arc::clone(&shim));
        let (streaming, _) = runtime.block_on(bound).expect("an address of the loopback");
        let shutdown = Shutdown::new();
        let _entered = runtime.enter();
        let link = link::run(Arc::clone(&shim), shutdown.clone());
        shim.own(async move {
            let Ok(()) = link.await;
        });
        let life = Self {
            cri: Cri {
                shim: Arc::clone(&shim),
                streaming,
                shutdown,
            },
            shim,
            fake,
            runtime: Some(runtime),
            dir,
            archives: archives.to_owned(),
            sandbox: String::new(),
            container: String::new(),
        };
        life.ready();
        life
    }

    fn block<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("alive");
        let limited = async { tokio::time::timeout(STEP_LIMIT, work).await };
        runtime.block_on(limited).expect("no step takes so long")
    }

    pub(super) fn ready(&self) {
        let mut readiness = self.shim.readiness.subscribe();
        let ready = readiness.wait_for(|it| matches!(it, Readiness::Ready { .. }));
        self.block(async { drop(ready.await.expect("the shim lives")) });
    }

    /// Makes the call as a client does.
    pub(super) fn go(&mut self, step: Step) -> Result<(), Status> {
        let id = self.block(self.call(step))?;
        self.learn(step, id);
        Ok(())
    }

    /// Ends the process when a call goes wrong; the outcome when none does.
    pub(super) fn go_and_die(&mut self, step: Step) -> Option<Result<(), Status>> {
        let outcome = self.block(async {
            tokio::select! {
                biased;
                () = self.fake.struck() => None,
                outcome = self.call(step) => Some(outcome),
            }
        });
        let Some(outcome) = outcome else {
            self.end();
            return None;
        };
        Some(outcome.map(|id| self.learn(step, id)))
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// The next process on what this one has left.
    fn reborn(mut self) -> Self {
        self.end();
        let archives = self.archives.clone();
        let mut next = Self::new(Arc::clone(&self.fake), Arc::clone(&self.dir), &archives);
        next.sandbox = std::mem::take(&mut self.sandbox);
        next.container = std::mem::take(&mut self.container);
        next
    }

    pub(super) fn sandboxes(&self) -> Vec<cri::PodSandbox> {
        let request = cri::ListPodSandboxRequest::default();
        let reply = self.block(self.cri.list_pod_sandbox(Request::new(request)));
        reply.expect("a list").into_inner().items
    }

    fn learn(&mut self, step: Step, id: String) {
        match step {
            Step::Run => self.sandbox = id,
            Step::Create => self.container = id,
            _ => {}
        }
    }

    async fn call(&self, step: Step) -> Result<String, Status> {
        let cri = &self.cri;
        let pod_sandbox_id = self.sandbox.clone();
        let container_id = self.container.clone();
        match step {
            Step::Import => {
                let imported = self.shim.images.import(&self.archives.join("image.tar")).await;
                imported
                    .map_err(|error| crate::error::Error::from(error).into())
                    .map(|_| String::new())
            }
            Step::Run => {
                let config = Some(sandbox_config());
                let request = cri::RunPodSandboxRequest {
                    config,
                    ..Default::default()
                };
                let reply = cri.run_pod_sandbox(Request::new(request)).await?;
                Ok(reply.into_inner().pod_sandbox_id)
            }
            Step::Create => {
                let request = cri::CreateContainerRequest {
                    pod_sandbox_id,
                    config: Some(container_config()),
                    sandbox_config: Some(sandbox_config()),
                };
                let reply = cri.create_container(Request::new(request)).await?;
                Ok(reply.into_inner().container_id)
            }
            Step::Start => {
                let request = cri::StartContainerRequest { container_id };
                cri.start_container(Request::new(request))
                    .await
                    .map(|_| String::new())
            }
            Step::StopContainer => {
                let request = cri::StopContainerRequest {
                    container_id,
                    timeout: 1,
                };
                cri.stop_container(Request::new(request))
                    .await
                    .map(|_| String::new())
            }
            Step::RemoveContainer => {
                let request = cri::RemoveContainerRequest { container_id };
                cri.remove_container(Request::new(request))
                    .await
                    .map(|_| String::new())
            }
            Step::StopSandbox => {
                let request = cri::StopPodSandboxRequest { pod_sandbox_id };
                cri.stop_pod_sandbox(Request::new(request))
                    .await
                    .map(|_| String::new())
            }
            Step::RemoveSandbox => {
                let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
                cri.remove_pod_sandbox(Request::new(request))
                    .await
                    .map(|_| String::new())
            }
        }
    }

    /// Of the pod; the image stays.
    fn assert_nothing_left(self, context: &str) {
        // The state is read again shortly after a call has left something behind.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !self.left().is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.left(), Vec::<String>::new(), "{context}");
        // Leases of calls whose answer was lost are known to nobody until the next start, which leaves those of
        // images to the next pull or to their expiry.
        let next = self.reborn();
        let state = next.fake.state();
        let lost = state
            .leases
            .iter()
            .filter(|(id, _)| !LeaseId::from(id.as_str()).is_for_later());
        assert_eq!(lost.count(), 0, "{context}: {:?}", state.leases);
        assert_eq!(next.left(), Vec::<String>::new(), "{context}");
        assert_eq!(next.sandboxes(), [], "{context}");
    }

    fn left(&self) -> Vec<String> {
        let state = self.fake.state();
        let mut left: Vec<_> = state
            .containers
            .keys()
            .map(|id| format!("container {id}"))
            .collect();
        left.extend(state.tasks.keys().map(|id| format!("task of {id}")));
        left.extend(state.ingests.keys().map(|digest| format!("ingest of {digest}")));
        let of_containers = state.snapshots.keys().filter(|name| !name.starts_with("sha256:"));
        left.extend(of_containers.map(|name| format!("snapshot {name}")));
        for kind in ["sandboxes", "io"] {
            let entries = std::fs::read_dir(self.dir.path().join("state").join(kind));
            let entries = entries.into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        let ours = mounts.lines().filter(|mount| mount.contains(&dir));
        left.extend(ours.map(|mount| format!("mount {mount}")));
        left
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end();
        // Only what a failed test has left.
        for id in crate::pins::found(&self.shim.config.state_dir) {
            let _ = crate::pins::SandboxDir::new(&self.shim.config.state_dir, &id).remove();
        }
    }
}

/// On the host's network, which leaves namespaces to pin and nothing to plugins.
fn sandbox_config() -> cri::PodSandboxConfig {
    let options = cri::NamespaceOption {
        network: cri::NamespaceMode::Node.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "main".into(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: NAME.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
