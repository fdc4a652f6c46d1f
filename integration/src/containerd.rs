//! A real containerd of its own root, state and socket.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use containerd_client::services::v1::{
    containers_client::ContainersClient, tasks_client::TasksClient, version_client::VersionClient,
};
use tonic::transport::Channel;

use crate::{Process, Sandbox, command, process, wait};

/// Whether containerd serves CRI itself, beside its own API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CriPlugin {
    On,
    Off,
}

/// One containerd. Dropping it ends every container that it has.
#[derive(Debug)]
pub struct Containerd {
    pub process: Process,
    dir: PathBuf,
    socket: PathBuf,
    _sandbox: Sandbox,
}

impl Containerd {
    pub async fn start(sandbox: &Sandbox) -> Self {
        Self::launch(sandbox, "containerd", CriPlugin::Off).await
    }

    /// Several in one test need a name each.
    pub async fn launch(sandbox: &Sandbox, name: &str, cri: CriPlugin) -> Self {
        Self::launch_with(sandbox, name, cri, "").await
    }

    /// With more sections of containerd's configuration (TOML).
    pub async fn launch_with(sandbox: &Sandbox, name: &str, cri: CriPlugin, more: &str) -> Self {
        let dir = sandbox.make_dir(name);
        let socket = dir.join("c.sock");
        let disabled = match cri {
            CriPlugin::On => "",
            CriPlugin::Off => r#""io.containerd.grpc.v1.cri", "#,
        };
        let config = format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [{disabled}"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{socket}"
[debug]
level = "warn"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
{more}"#,
            dir = dir.display(),
            socket = socket.display(),
        );
        fs::write(dir.join("config.toml"), config).expect("a file");
        let process = sandbox
            .process(name, "containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            // As under systemd (Type=notify): nothing that containerd starts may take it for its own.
            .env("NOTIFY_SOCKET", dir.join("notify.sock"))
            .started();
        let containerd = Self {
            process,
            dir,
            socket,
            _sandbox: sandbox.clone(),
        };
        containerd.ready().await;
        containerd
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A new connection.
    pub fn channel(&self) -> Channel {
        clone8s_daemon::unix::channel(&self.socket)
    }

    pub async fn ready(&self) {
        wait::until("containerd answers", || async {
            VersionClient::new(self.channel()).version(()).await?;
            Ok(())
        })
        .await;
    }

    pub async fn start_again(&mut self) {
        self.process.start().expect("containerd starts");
        self.ready().await;
    }

    /// containerd's own tool, for a look from outside or for the image that a test needs.
    pub fn ctr(&self, namespace: &str, args: &[&str]) -> anyhow::Result<String> {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address")
            .arg(&self.socket)
            .args(["--namespace", namespace])
            .args(args);
        command::run(&mut ctr)
    }

    pub fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel())
    }

    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel())
    }

    /// The shims that this containerd has started.
    fn shims(&self) -> Vec<u32> {
        let socket = self.socket.to_string_lossy().into_owned();
        process::pids()
            .filter(|&pid| {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let words: Vec<_> = command
                    .split(|&byte| byte == 0)
                    .map(String::from_utf8_lossy)
                    .collect();
                words
                    .first()
                    .is_some_and(|program| program.contains("containerd-shim"))
                    && words.iter().any(|word| *word == socket)
            })
            .collect()
    }

    /// Ends what a failed test left, by containerd's own tool: nothing here may wait for an async runtime.
    fn remove_containers(&self) -> anyhow::Result<()> {
        for namespace in self
            .ctr("default", &["namespaces", "list", "--quiet"])?
            .split_whitespace()
        {
            for task in self
                .ctr(namespace, &["tasks", "list", "--quiet"])?
                .split_whitespace()
            {
                // One that cannot be ended must not keep the others.
                let _ = self.ctr(namespace, &["tasks", "delete", "--force", task]);
            }
            for container in self
                .ctr(namespace, &["containers", "list", "--quiet"])?
                .split_whitespace()
            {
                let _ = self.ctr(namespace, &["containers", "delete", container]);
            }
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if !self.shims().is_empty() {
            if !self.process.running() && self.process.start().is_err() {
                eprintln!("containerd does not start again: its containers stay");
            }
            if let Err(error) = self.remove_containers() {
                eprintln!("cannot end the containers of a test: {error:#}");
            }
        }
        self.process.kill();
        for pid in self.shims() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                // An error only says that the shim has ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        crate::leak::unmount_below(&self.dir);
    }
}
