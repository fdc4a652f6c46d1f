//! One node: containerd, the runtime shim and a kubelet, each a real process of its own.

mod plugin;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clone8s::cri::{
    ContainerState, ExecSyncRequest, ListContainersRequest, ListPodSandboxRequest, StatusRequest,
    VersionRequest, runtime_service_client::RuntimeServiceClient,
};
use clone8s_daemon::cgroups::Cgroups;
use containerd_client::services::v1::ListTasksRequest;
use tonic::transport::Channel;

use crate::{
    Containerd, ControlPlane, Process, Sandbox,
    containerd::CriPlugin,
    counts::Places,
    network::pod_subnet,
    process::{self, stat},
    programs::program,
    wait,
};

/// Which container of which pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub pod: String,
    pub container: String,
}

/// One run of a container: two of them are equal only if nothing was restarted in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: String,
    /// How often the container was started before, as the runtime was told.
    pub attempt: u32,
    pub image: String,
    pub pid: u32,
    /// Clock ticks after boot.
    pub started: u64,
}

/// What a node runs.
pub type Runs = BTreeMap<Place, Run>;

/// Which CRI server a node's kubelet speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Ours, over containerd's native API.
    Shim,
    /// containerd's own.
    CriPlugin,
}

impl RuntimeKind {
    /// containerd's namespace of the runtime.
    fn namespace(self) -> &'static str {
        match self {
            Self::Shim => Node::NAMESPACE,
            Self::CriPlugin => "k8s.io",
        }
    }
}

/// As the systemd units of the daemons set it.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "65536")];
/// That of the kubelet: one heap for all threads.
const KUBELET_ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

/// The processes of one node. Dropping it ends its containers.
#[derive(Debug)]
pub struct Node {
    pub kubelet: Process,
    /// Not started where the runtime is containerd's own.
    pub shim: Process,
    pub containerd: Containerd,
    kind: RuntimeKind,
    name: String,
    dir: PathBuf,
    bridge: String,
    /// The first three parts of the pods' addresses.
    subnet: String,
    // Last: the runtime's end empties it.
    cgroup_root: CgroupRoot,
}

/// The cgroup above a node's pods; goes with what is left in it.
#[derive(Debug)]
struct CgroupRoot(String);

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        if let Err(error) = Cgroups::of_host().remove(&self.0) {
            eprintln!("cgroups of a test stay: {error}");
        }
    }
}

impl Node {
    /// containerd's namespace of our shim.
    pub const NAMESPACE: &'static str = "clone8s";

    /// Starts containerd and the shim; the kubelet follows with [`Self::start_kubelet`].
    pub async fn start(sandbox: &Sandbox, name: &str) -> Self {
        Self::start_on(sandbox, name, RuntimeKind::Shim).await
    }

    /// The same on a runtime of choice.
    pub async fn start_on(sandbox: &Sandbox, name: &str, kind: RuntimeKind) -> Self {
        let dir = sandbox.make_dir(name);
        let containerd_name = format!("{name}-containerd");
        let containerd = match kind {
            RuntimeKind::Shim => Containerd::launch(sandbox, &containerd_name, CriPlugin::Off).await,
            RuntimeKind::CriPlugin => plugin::launch(sandbox, &containerd_name, &dir).await,
        };
        // At most 15 characters, and the node's own.
        let bridge = format!("c8t{}{}", sandbox.id(), name.len() % 10);
        let subnet = pod_subnet();
        let shim = sandbox
            .process(&format!("{name}-shim"), program("runtime-shim"))
            .envs(ALLOCATOR)
            .arg("--containerd")
            .arg(containerd.socket())
            .args(["--namespace", Self::NAMESPACE])
            .arg("--listen")
            .arg(dir.join("shim.sock"))
            .arg("--state-dir")
            .arg(dir.join("shim-state"))
            .arg("--root-dir")
            .arg(dir.join("shim-root"))
            .arg("--cni-conf-dir")
            .arg(dir.join("net.d"))
            .args(["--bridge-name", &bridge])
            .args(["--pod-cidr", &format!("{subnet}.0/24")]);
        let cgroup_root = CgroupRoot(format!("/clone8s-test-{}-{name}", sandbox.id()));
        let manifests = dir.join("manifests");
        fs::create_dir_all(&manifests).expect("a folder");
        let kubelet = sandbox
            .process(&format!("{name}-kubelet"), program("kubelet"))
            .envs(KUBELET_ALLOCATOR)
            .args(["--node-name", name])
            .arg("--runtime")
            .arg(match kind {
                RuntimeKind::Shim => dir.join("shim.sock"),
                RuntimeKind::CriPlugin => containerd.socket().to_owned(),
            })
            .arg("--manifests")
            .arg(&manifests)
            .arg("--data-dir")
            .arg(dir.join("kubelet"))
            .arg("--log-root")
            .arg(dir.join("logs"))
            .args(["--cgroup-root", &cgroup_root.0])
            // Tests wait for what these make happen.
            .args(["--backoff-base", "1", "--heartbeat-interval", "2"])
            .args(["--node-status-interval", "2"]);
        let node = Self {
            kubelet,
            shim: match kind {
                RuntimeKind::Shim => shim.started(),
                RuntimeKind::CriPlugin => shim,
            },
            containerd,
            kind,
            name: name.to_owned(),
            dir,
            bridge,
            subnet,
            cgroup_root,
        };
        node.shim_ready().await;
        node
    }

    /// Starts the kubelet with further arguments, which later starts keep.
    pub fn start_kubelet<A: Into<OsString>>(&mut self, args: impl IntoIterator<Item = A>) {
        self.kubelet.args_mut().extend(args.into_iter().map(Into::into));
        self.kubelet.start().expect("the kubelet starts");
    }

    /// Starts the kubelet as a member of the cluster, with a fresh join token for its own name.
    pub async fn join(&mut self, plane: &ControlPlane, amqp: Option<&str>) {
        let token = plane.join_token(&self.name, 600).await;
        self.join_with(plane, &token, amqp);
    }

    /// The same with any token.
    pub fn join_with(&mut self, plane: &ControlPlane, token: &str, amqp: Option<&str>) {
        let token_file = self.dir.join("join-token");
        process::write_private(&token_file, token).expect("a file");
        let mut args = vec![
            OsString::from("--apiserver"),
            plane.url().into(),
            OsString::from("--join-token-file"),
            token_file.into(),
        ];
        if let Some(amqp) = amqp {
            args.extend(["--amqp".into(), amqp.into()]);
        }
        self.start_kubelet(args);
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    pub fn shim_socket(&self) -> PathBuf {
        self.dir.join("shim.sock")
    }

    /// Where the node's runtime serves CRI.
    pub fn runtime_socket(&self) -> PathBuf {
        match self.kind {
            RuntimeKind::Shim => self.shim_socket(),
            RuntimeKind::CriPlugin => self.containerd.socket().to_owned(),
        }
    }

    /// The cgroup above the node's pods.
    pub fn cgroup_root(&self) -> &str {
        &self.cgroup_root.0
    }

    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// What our shim makes pods of.
    pub fn places(&self) -> Places<'_> {
        Places {
            shim: self.shim.pid(),
            containerd: &self.containerd,
            namespace: Self::NAMESPACE,
            state_dir: self.dir.join("shim-state"),
            root_dir: self.dir.join("shim-root"),
            bridge: &self.bridge,
            subnet: format!("{}.", self.subnet),
            cgroups: self.cgroup_root().trim_start_matches('/').to_owned(),
        }
    }

    /// The node's runtime, beside the kubelet's own connection.
    pub fn cri(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(clone8s_daemon::unix::channel(self.runtime_socket()))
    }

    pub async fn shim_ready(&self) {
        wait::until("the shim answers and its runtime is ready", || async {
            self.cri().version(VersionRequest::default()).await?;
            let status = self.cri().status(StatusRequest::default()).await?.into_inner();
            let conditions = status.status.context("no status")?.conditions;
            let ready = conditions
                .iter()
                .any(|it| it.r#type == "RuntimeReady" && it.status);
            ensure!(ready, "{conditions:?}");
            Ok(())
        })
        .await;
    }

    /// What runs now, by place; an error when one place has two running containers.
    pub async fn runs(&self) -> anyhow::Result<Runs> {
        let sandboxes = self
            .cri()
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await?
            .into_inner()
            .items;
        let pods: BTreeMap<_, _> = sandboxes
            .into_iter()
            .filter_map(|it| Some((it.id, it.metadata?.name)))
            .collect();
        let containers = self
            .cri()
            .list_containers(ListContainersRequest::default())
            .await?
            .into_inner()
            .containers;
        let tasks = self.tasks().await?;
        let mut runs = Runs::new();
        for container in containers {
            if container.state != ContainerState::ContainerRunning as i32 {
                continue;
            }
            let metadata = container.metadata.context("a container without metadata")?;
            let pod = pods
                .get(&container.pod_sandbox_id)
                .context("a container without a sandbox")?;
            let pid = *tasks
                .get(&container.id)
                .with_context(|| format!("no task for {}", container.id))?;
            let place = Place {
                pod: pod.clone(),
                container: metadata.name,
            };
            let run = Run {
                id: container.id,
                attempt: metadata.attempt,
                image: container.image.map(|image| image.image).unwrap_or_default(),
                pid,
                started: stat(pid)
                    .with_context(|| format!("process {pid} is gone"))?
                    .started,
            };
            if let Some(other) = runs.insert(place.clone(), run.clone()) {
                anyhow::bail!("{place:?} runs twice: {other:?} and {run:?}");
            }
        }
        Ok(runs)
    }

    /// The process of a pod's only container.
    pub async fn pid_of(&self, pod: &str) -> u32 {
        let runs = self.runs().await.expect("the runtime answers");
        let mut own = runs.iter().filter(|(place, _)| place.pod == pod);
        own.next().expect("it runs").1.pid
    }

    /// Container id to process id, from containerd itself.
    pub async fn tasks(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let mut request = tonic::Request::new(ListTasksRequest::default());
        request
            .metadata_mut()
            .insert("containerd-namespace", self.kind.namespace().parse()?);
        let tasks = self.containerd.tasks().list(request).await?.into_inner().tasks;
        Ok(tasks.into_iter().map(|task| (task.id, task.pid)).collect())
    }

    /// What a shell in a running container writes.
    pub async fn shell(&self, pod: &str, container: &str, line: &str) -> anyhow::Result<String> {
        let place = Place {
            pod: pod.to_owned(),
            container: container.to_owned(),
        };
        let runs = self.runs().await?;
        let run = runs.get(&place).with_context(|| format!("it runs {runs:?}"))?;
        let request = ExecSyncRequest {
            container_id: run.id.clone(),
            cmd: ["/bin/sh", "-c", line].map(str::to_owned).into(),
            timeout: 60,
        };
        let output = self.cri().exec_sync(request).await?.into_inner();
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits until exactly these containers run, and gives them; with none, until every sandbox is gone too.
    pub async fn runs_exactly(&self, places: &[(&str, &str)]) -> Runs {
        let mut wanted: Vec<_> = places
            .iter()
            .map(|(pod, container)| Place {
                pod: (*pod).to_owned(),
                container: (*container).to_owned(),
            })
            .collect();
        wanted.sort();
        wait::until(&format!("node {} runs exactly {places:?}", self.name), || async {
            let runs = self.runs().await?;
            ensure!(runs.keys().eq(&wanted), "it runs {runs:?}");
            if wanted.is_empty() {
                let request = ListPodSandboxRequest::default();
                let left = self.cri().list_pod_sandbox(request).await?.into_inner().items;
                ensure!(left.is_empty(), "it has {left:?}");
            }
            Ok(runs)
        })
        .await
    }

    /// Puts a manifest into the node's folder, as an editor does: whole, by a rename.
    pub fn write_manifest(&self, file: &str, content: &str) {
        let hidden = self.manifests().join(format!(".{file}.tmp"));
        fs::write(&hidden, content).expect("a file");
        fs::rename(hidden, self.manifests().join(file)).expect("a rename");
    }

    pub fn remove_manifest(&self, file: &str) {
        fs::remove_file(self.manifests().join(file)).expect("a manifest");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // First whoever would start again what ends.
        self.kubelet.kill();
        self.shim.kill();
        // The bridge goes, and its rules. containerd is left out: what it holds goes with the test's folder.
        let mut teardown = std::process::Command::new(program("runtime-shim"));
        teardown
            .arg("teardown")
            .arg("--containerd")
            .arg(self.dir.join("no-containerd.sock"))
            .arg("--state-dir")
            .arg(self.dir.join("shim-state"))
            .arg("--root-dir")
            .arg(self.dir.join("shim-root"))
            .arg("--cni-conf-dir")
            .arg(self.dir.join("net.d"))
            .args(["--bridge-name", &self.bridge]);
        if let Err(error) = crate::command::run(&mut teardown) {
            eprintln!("the bridge stays: {error:#}");
        }
    }
}
