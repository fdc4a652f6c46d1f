//! One process of the shim, which can end at any moment, on what the one before has left.

use std::{sync::Arc, time::Duration};

use clone8s::cri::{
    self, image_service_server::ImageService as _, runtime_service_server::RuntimeService as _,
};
use clone8s_daemon::Shutdown;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::{Request, Status};

use super::{
    network::{self, Network},
    rig::{Source, Step, container_config, sandbox_config},
};
use crate::{
    config::{Config, RUNC},
    containerd::{Bounded, Limits, fake::Fake},
    ids::LeaseId,
    link,
    recover::Occasion,
    server::Cri,
    shim::{Readiness, Shim},
    streams::server::Streaming,
};

/// Short, since many calls of the table wait for it; long enough for a machine under load to answer in.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long a whole step may take.
const STEP_LIMIT: Duration = Duration::from_mins(1);

/// One process of the shim.
pub(super) struct Life {
    pub(super) fake: Arc<Fake>,
    runtime: Option<Runtime>,
    shim: Arc<Shim>,
    cri: Cri,
    dir: Arc<TempDir>,
    source: Arc<Source>,
    network: Network,
    sandbox: String,
    container: String,
}

impl Life {
    pub(super) fn new(fake: Arc<Fake>, dir: Arc<TempDir>, source: Arc<Source>, network: Network) -> Self {
        let mut config = Config {
            state_dir: dir.path().join("state"),
            root_dir: dir.path().join("root"),
            default_handler: Some(RUNC.into()),
            ..Config::default()
        };
        // No configuration: the bridge.
        config.network.conf_dir = dir.path().join("net.d");
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
            source,
            network,
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
    pub(super) fn reborn(mut self) -> Self {
        self.end();
        let (fake, dir) = (Arc::clone(&self.fake), Arc::clone(&self.dir));
        let mut next = Self::new(fake, dir, Arc::clone(&self.source), self.network);
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

    /// The id of what was made, where something was.
    async fn call(&self, step: Step) -> Result<String, Status> {
        let cri = &self.cri;
        let pod_sandbox_id = self.sandbox.clone();
        let container_id = self.container.clone();
        match step {
            Step::Import => {
                let imported = self.shim.images.import(&self.source.archive()).await;
                drop(imported.map_err(crate::error::Error::from)?);
            }
            Step::Pull => {
                let request = cri::PullImageRequest {
                    image: Some(self.source.image()),
                    ..Default::default()
                };
                drop(cri.pull_image(Request::new(request)).await?);
            }
            Step::Run => {
                let config = Some(sandbox_config(self.network));
                let request = cri::RunPodSandboxRequest {
                    config,
                    ..Default::default()
                };
                let reply = cri.run_pod_sandbox(Request::new(request)).await?;
                return Ok(reply.into_inner().pod_sandbox_id);
            }
            Step::Create => {
                let request = cri::CreateContainerRequest {
                    pod_sandbox_id,
                    config: Some(container_config(self.source.image())),
                    sandbox_config: Some(sandbox_config(self.network)),
                };
                let reply = cri.create_container(Request::new(request)).await?;
                return Ok(reply.into_inner().container_id);
            }
            Step::Start => {
                let request = cri::StartContainerRequest { container_id };
                drop(cri.start_container(Request::new(request)).await?);
            }
            Step::StopContainer => {
                let request = cri::StopContainerRequest {
                    container_id,
                    timeout: 1,
                };
                drop(cri.stop_container(Request::new(request)).await?);
            }
            Step::RemoveContainer => {
                let request = cri::RemoveContainerRequest { container_id };
                drop(cri.remove_container(Request::new(request)).await?);
            }
            Step::StopSandbox => {
                let request = cri::StopPodSandboxRequest { pod_sandbox_id };
                drop(cri.stop_pod_sandbox(Request::new(request)).await?);
            }
            Step::RemoveSandbox => {
                let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
                drop(cri.remove_pod_sandbox(Request::new(request)).await?);
            }
        }
        Ok(String::new())
    }

    /// Of the pod; the image stays.
    pub(super) fn assert_nothing_left(self, context: &str) {
        // The state is read again shortly after a call has left something behind.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !self.left().is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.left(), Vec::<String>::new(), "{context}");
        // Leases of calls whose answer was lost are known to nobody until the next look at what there is, which leaves
        // those of images to the next pull or to their expiry.
        let runtime = self.runtime.as_ref().expect("it lives");
        let looked = runtime.block_on(self.shim.recover(Occasion::Reconnect));
        assert!(looked.is_ok(), "{context}: {looked:?}");
        let leases: Vec<_> = self.fake.state().leases.keys().cloned().collect();
        let lost = leases
            .iter()
            .filter(|id| !LeaseId::from(id.as_str()).is_for_later());
        assert_eq!(lost.count(), 0, "{context}: {leases:?}");
        let next = self.reborn();
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
        if self.network == Network::Own {
            left.extend(network::left());
        }
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
