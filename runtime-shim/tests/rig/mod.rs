//! A shim as a real process on a real containerd, and short words for the CRI calls of the tests.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use clone8s::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use clone8s_integration::{
    Containerd, Image, Process, Sandbox as TestDir, command, counts::Places, network::pod_subnet, wait,
};
use tonic::{Status, transport::Channel};

/// The image of the archive that every rig starts with.
pub(crate) const BUSYBOX: &str = "localhost/busybox:1";
const NAMESPACE: &str = "clone8s";

/// One shim. Dropping it ends its containers.
pub(crate) struct Rig {
    pub(crate) shim: Process,
    pub(crate) containerd: Containerd,
    pub(crate) dir: TestDir,
    bridge: String,
    /// The first three parts of the pods' addresses.
    subnet: String,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(args: &[&str]) -> Self {
        Self::start_on("24", args).await
    }

    /// With so many bits of the pods' addresses fixed.
    pub(crate) async fn start_on(prefix: &str, args: &[&str]) -> Self {
        let handler = handler();
        let handler = handler.iter().map(String::as_str);
        let args: Vec<_> = handler.chain(args.iter().copied()).collect();
        Self::start_as(prefix, &args, |_, containerd| containerd.to_owned()).await
    }

    /// A shim that speaks to another socket than containerd's: what it is, given the test's folder and containerd's.
    pub(crate) async fn start_behind(socket: impl FnOnce(&Path, &Path) -> PathBuf) -> Self {
        let handler = handler();
        let args: Vec<_> = handler.iter().map(String::as_str).collect();
        Self::start_as("24", &args, socket).await
    }

    /// With the handlers of the arguments, whatever the run of the tests is for.
    pub(crate) async fn start_bare(args: &[&str]) -> Self {
        Self::start_as("24", args, |_, containerd| containerd.to_owned()).await
    }

    async fn start_as(prefix: &str, args: &[&str], socket: impl FnOnce(&Path, &Path) -> PathBuf) -> Self {
        let dir = TestDir::new();
        let containerd = Containerd::start(&dir).await;
        let archive = dir.dir().join("busybox.tar");
        Image::busybox()
            .write_archive(&archive, BUSYBOX)
            .expect("an archive");
        let bridge = format!("c8s{}", dir.id());
        let subnet = pod_subnet();
        let shim = dir
            .process("shim", env!("CARGO_BIN_EXE_runtime-shim"))
            .arg("--containerd")
            .arg(socket(dir.dir(), containerd.socket()))
            .args(["--namespace", NAMESPACE])
            .arg("--listen")
            .arg(dir.dir().join("shim.sock"))
            .arg("--state-dir")
            .arg(dir.dir().join("state"))
            .arg("--root-dir")
            .arg(dir.dir().join("root"))
            .arg("--cni-conf-dir")
            .arg(dir.dir().join("net.d"))
            .args(["--bridge-name", &bridge])
            .args(["--pod-cidr", &format!("{subnet}.0/{prefix}")])
            .arg("--archive")
            .arg(&archive)
            .args(["--log", "info,clone8s_runtime_shim=debug"])
            .args(args)
            .started();
        let rig = Self {
            shim,
            containerd,
            dir,
            bridge,
            subnet,
        };
        rig.ready().await;
        rig
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.dir().join("shim.sock")
    }

    pub(crate) fn channel(&self) -> Channel {
        clone8s_daemon::unix::channel(self.socket())
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        // What a command writes may be more than gRPC's usual 4 MiB.
        RuntimeServiceClient::new(self.channel()).max_decoding_message_size(64 << 20)
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel())
    }

    pub(crate) async fn ready(&self) {
        wait::until("the shim is ready", || async {
            let status = self
                .runtime()
                .status(cri::StatusRequest { verbose: false })
                .await?
                .into_inner();
            let conditions = status.status.context("a status")?.conditions;
            ensure!(
                conditions.iter().all(|condition| condition.status),
                "{conditions:?}"
            );
            Ok(())
        })
        .await;
    }

    pub(crate) fn bridge(&self) -> &str {
        &self.bridge
    }

    pub(crate) fn places(&self) -> Places<'_> {
        Places {
            shim: self.shim.pid(),
            containerd: &self.containerd,
            namespace: NAMESPACE,
            state_dir: self.dir.dir().join("state"),
            root_dir: self.dir.dir().join("root"),
            bridge: &self.bridge,
            subnet: format!("{}.", self.subnet),
            cgroups: format!("c8s-test-{}", self.dir.id()),
        }
    }

    /// An address of the pods' network.
    pub(crate) fn address(&self, last: u8) -> String {
        format!("{}.{last}", self.subnet)
    }

    /// A crash, and a new process.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.shim.kill();
        self.shim.start().expect("the shim starts again");
        self.ready().await;
    }

    /// Everything goes, and nothing stays: what `c8s down` promises.
    pub(crate) async fn finish(mut self) {
        let sandboxes = self.list_sandboxes().await;
        for sandbox in sandboxes {
            self.remove_sandbox(&sandbox.id).await.expect("the sandbox goes");
        }
        self.shim.stop().expect("the shim stops");
        self.tear_down(self.containerd.socket())
            .expect("teardown succeeds");
        assert!(
            !PathBuf::from("/sys/class/net").join(&self.bridge).exists(),
            "the bridge is left"
        );
        let namespaces = self
            .containerd
            .ctr("default", &["namespaces", "list", "--quiet"])
            .expect("ctr works");
        assert!(
            !namespaces.split_whitespace().any(|name| name == NAMESPACE),
            "left: {namespaces}"
        );
        let dir = self.dir.clone();
        drop(self);
        dir.assert_nothing_left().await;
    }

    fn tear_down(&self, containerd: &Path) -> anyhow::Result<String> {
        let mut teardown = Command::new(env!("CARGO_BIN_EXE_runtime-shim"));
        teardown
            .arg("teardown")
            .arg("--containerd")
            .arg(containerd)
            .arg("--state-dir")
            .arg(self.dir.dir().join("state"))
            .arg("--root-dir")
            .arg(self.dir.dir().join("root"))
            .arg("--cni-conf-dir")
            .arg(self.dir.dir().join("net.d"))
            .args(["--bridge-name", &self.bridge]);
        // The harness reaps the children of others, and must know its own.
        command::run(&mut teardown)
    }

    pub(crate) async fn run_sandbox(&self, config: cri::PodSandboxConfig) -> Result<String, Status> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        Ok(self
            .runtime()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let pod_sandbox_id = id.to_owned();
        self.runtime()
            .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })
            .await
            .map(drop)
    }

    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let pod_sandbox_id = id.to_owned();
        self.runtime()
            .stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id })
            .await
            .map(drop)
    }

    pub(crate) async fn sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, Status> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        Ok(self
            .runtime()
            .pod_sandbox_status(request)
            .await?
            .into_inner()
            .status
            .expect("a status"))
    }

    /// What is told to people who ask for more.
    pub(crate) async fn sandbox_info(&self, id: &str) -> serde_json::Value {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let reply = self
            .runtime()
            .pod_sandbox_status(request)
            .await
            .expect("a status");
        serde_json::from_str(&reply.into_inner().info["info"]).expect("JSON")
    }

    /// The runtime's status, with what is told to people who ask for more.
    pub(crate) async fn runtime_status(&self) -> cri::StatusResponse {
        let request = cri::StatusRequest { verbose: true };
        let reply = self.runtime().status(request).await.expect("a status");
        reply.into_inner()
    }

    /// What is told to people who ask for more.
    pub(crate) async fn container_info(&self, id: &str) -> serde_json::Value {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let reply = self.runtime().container_status(request).await.expect("a status");
        serde_json::from_str(&reply.into_inner().info["info"]).expect("JSON")
    }

    pub(crate) async fn list_sandboxes(&self) -> Vec<cri::PodSandbox> {
        let request = cri::ListPodSandboxRequest { filter: None };
        self.runtime()
            .list_pod_sandbox(request)
            .await
            .expect("a list")
            .into_inner()
            .items
    }

    pub(crate) async fn create(&self, sandbox: &str, config: cri::ContainerConfig) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self
            .runtime()
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), Status> {
        let container_id = id.to_owned();
        self.runtime()
            .start_container(cri::StartContainerRequest { container_id })
            .await
            .map(drop)
    }

    /// Created and started.
    pub(crate) async fn run(&self, sandbox: &str, config: cri::ContainerConfig) -> String {
        let id = self
            .create(sandbox, config)
            .await
            .expect("the container is created");
        self.start_container(&id).await.expect("the container starts");
        id
    }

    pub(crate) async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout,
        };
        self.runtime().stop_container(request).await.map(drop)
    }

    pub(crate) async fn remove(&self, id: &str) -> Result<(), Status> {
        let container_id = id.to_owned();
        self.runtime()
            .remove_container(cri::RemoveContainerRequest { container_id })
            .await
            .map(drop)
    }

    pub(crate) async fn status(&self, id: &str) -> Result<cri::ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        Ok(self
            .runtime()
            .container_status(request)
            .await?
            .into_inner()
            .status
            .expect("a status"))
    }

    /// The status once it has ended.
    pub(crate) async fn exited(&self, id: &str) -> cri::ContainerStatus {
        wait::until("the container has ended", || async {
            let status = self.status(id).await?;
            ensure!(
                status.state() == cri::ContainerState::ContainerExited,
                "{:?}",
                status.state()
            );
            Ok(status)
        })
        .await
    }

    /// Pid and start, as the kernel tells them: equal only for one and the same process.
    pub(crate) async fn process(&self, id: &str) -> (u64, String) {
        let info = self.container_info(id).await;
        let pid = info["pid"].as_u64().expect("a pid");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
        (pid, stat.split(' ').nth(21).expect("a start time").to_owned())
    }

    /// The parent of a container's process: containerd's shim.
    pub(crate) async fn parent(&self, id: &str) -> u64 {
        let (pid, _) = self.process(id).await;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
        stat.split(' ')
            .nth(3)
            .and_then(|parent| parent.parse().ok())
            .expect("a parent")
    }

    /// Nothing of the commands that have run is left.
    pub(crate) async fn no_commands_left(&self) {
        let io = self.dir.dir().join("state/io");
        wait::until("no command has left its FIFOs", || async {
            let names = fs::read_dir(&io)?.flatten().map(|entry| entry.file_name());
            let left: Vec<_> = names
                .filter(|name| name.to_string_lossy().contains('.'))
                .collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await;
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.dir().join("logs")
    }

    /// The entries of a container's log without their times.
    pub(crate) fn log(&self, path: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log_dir().join(path)).unwrap_or_default();
        // What comes after the last end of a line is an entry that is being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| line.split_once(' ').expect("a time").1.to_owned())
            .collect()
    }

    pub(crate) async fn log_becomes(&self, path: &str, expected: &[&str]) {
        wait::until(&format!("log {path} is complete"), || async {
            let log = self.log(path);
            ensure!(log == expected, "{log:?}");
            Ok(())
        })
        .await;
    }

    /// A pod on its own network.
    pub(crate) fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        self.pod_with(name, cri::NamespaceMode::Pod)
    }

    /// A pod on the host's network.
    pub(crate) fn host_pod(&self, name: &str) -> cri::PodSandboxConfig {
        self.pod_with(name, cri::NamespaceMode::Node)
    }

    fn pod_with(&self, name: &str, network: cri::NamespaceMode) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            log_directory: self.log_dir().display().to_string(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("/c8s-test-{}/{name}", self.dir.id()),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options(network)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A failed test has not come to its end, where the bridge goes and its rules with it.
        if PathBuf::from("/sys/class/net").join(&self.bridge).exists() {
            self.shim.kill();
            if let Err(error) = self.tear_down(Path::new("/nonexistent/containerd.sock")) {
                eprintln!("the bridge stays: {error:#}");
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // Only what the test's pods have left empty.
            let _ = fs::remove_dir(hierarchy.path().join(format!("c8s-test-{}", self.dir.id())));
        }
    }
}

/// The handler of the tests' pods: the shim's default, or one for a whole run of the tests, by its name or as
/// `--handler` takes it.
fn handler() -> Vec<String> {
    let Ok(handler) = std::env::var("CLONE8S_TEST_HANDLER") else {
        return Vec::new();
    };
    let default = |name: &str| ["--default-handler".to_owned(), name.to_owned()];
    match handler.split_once('=') {
        None => default(&handler).into(),
        Some((name, _)) => [default(name), ["--handler".to_owned(), handler.clone()]].concat(),
    }
}

fn options(network: cri::NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: network.into(),
        pid: cri::NamespaceMode::Container.into(),
        ..Default::default()
    }
}

/// A container of [`BUSYBOX`] that runs a shell script and logs to `<name>.log`.
pub(crate) fn script(name: &str, script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: BUSYBOX.into(),
            ..Default::default()
        }),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        labels: BTreeMap::from([("container".to_owned(), name.to_owned())]),
        ..Default::default()
    }
}

impl Rig {
    /// What a script writes in a container of its own that ends with it.
    pub(crate) async fn output(&self, pod: &str, container: cri::ContainerConfig) -> Vec<String> {
        let log = container.log_path.clone();
        let id = self.run(pod, container).await;
        let status = self.exited(&id).await;
        let lines = self.log(&log);
        assert_eq!(status.exit_code, 0, "{}: {lines:?}", status.message);
        lines
            .iter()
            .map(|line| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned())
            .collect()
    }

    /// What a command writes in a container that runs.
    pub(crate) async fn exec(&self, container: &str, command: &str) -> String {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
            timeout: 60,
        };
        let reply = self
            .runtime()
            .exec_sync(request)
            .await
            .expect("the command runs")
            .into_inner();
        assert_eq!(
            reply.exit_code,
            0,
            "{command}: {}",
            String::from_utf8_lossy(&reply.stderr)
        );
        String::from_utf8_lossy(&reply.stdout).trim_end().to_owned()
    }
}

/// The part of a container's config that says who it is.
pub(crate) fn security(container: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    container
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

/// The namespaces of a pod.
pub(crate) fn namespaces(pod: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    pod.linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
        .namespace_options
        .get_or_insert_default()
}
