//! One side, and the CRI calls that the bench makes to it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;
use clone8s::cri::{self, runtime_service_client::RuntimeServiceClient};
use tonic::transport::Channel;

use super::{Network, account::Account};

/// A CRI server under measurement.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: String,
    channel: Channel,
    image: String,
    /// What the pods' cgroups lie in.
    cgroup_parent: String,
    log_dir: String,
    pub(super) account: Account,
    next: AtomicU32,
}

/// A pod of the bench.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) id: String,
    config: cri::PodSandboxConfig,
}

impl Pod {
    /// Its container's log (path).
    pub(super) fn log(&self) -> String {
        format!("{}/main.log", self.config.log_directory)
    }
}

impl Side {
    pub(super) fn new(name: &str, socket: &Path, image: &str, log_dir: &Path, account: Account) -> Self {
        Self {
            name: name.to_owned(),
            channel: clone8s_daemon::unix::channel(socket),
            image: image.to_owned(),
            cgroup_parent: account.pods(),
            log_dir: log_dir.display().to_string(),
            account,
            next: AtomicU32::new(0),
        }
    }

    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub(super) async fn run_sandbox(&self, network: Network) -> anyhow::Result<Pod> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let options = cri::NamespaceOption {
            network: match network {
                Network::Host => cri::NamespaceMode::Node.into(),
                Network::Pod => cri::NamespaceMode::Pod.into(),
            },
            pid: cri::NamespaceMode::Container.into(),
            ..Default::default()
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: format!("bench-{number}"),
                uid: format!("bench-uid-{number}"),
                namespace: "bench".into(),
                attempt: 0,
            }),
            hostname: match network {
                Network::Host => String::new(),
                Network::Pod => format!("bench-{number}"),
            },
            log_directory: format!("{}/{number}", self.log_dir),
            labels: BTreeMap::from([("app".to_owned(), "bench".to_owned())]),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{number}", self.cgroup_parent),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        // As a kubelet does: servers expect it to be there.
        std::fs::create_dir_all(&config.log_directory)?;
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let reply = self.runtime().run_pod_sandbox(request).await;
        let id = reply
            .with_context(|| self.failed("RunPodSandbox"))?
            .into_inner()
            .pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// A container that runs `command`, logging to `main.log` in the pod's log folder.
    pub(super) async fn create(
        &self,
        pod: &Pod,
        command: &[&str],
        mounts: Vec<cri::Mount>,
    ) -> anyhow::Result<String> {
        let options = pod
            .config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|security| security.namespace_options.clone());
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "main".into(),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: self.image.clone(),
                ..Default::default()
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: "main.log".into(),
            mounts,
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: options,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let reply = self.runtime().create_container(request).await;
        Ok(reply
            .with_context(|| self.failed("CreateContainer"))?
            .into_inner()
            .container_id)
    }

    pub(super) async fn start(&self, container: &str) -> anyhow::Result<()> {
        let container_id = container.to_owned();
        let reply = self
            .runtime()
            .start_container(cri::StartContainerRequest { container_id })
            .await;
        reply.map(drop).with_context(|| self.failed("StartContainer"))
    }

    pub(super) async fn has_image(&self) -> anyhow::Result<()> {
        let image = cri::ImageSpec {
            image: self.image.clone(),
            ..Default::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        let mut images = cri::image_service_client::ImageServiceClient::new(self.channel.clone());
        let status = images
            .image_status(request)
            .await
            .with_context(|| self.failed("ImageStatus"))?;
        status
            .into_inner()
            .image
            .with_context(|| format!("{} has no image {}", self.name, self.image))?;
        Ok(())
    }

    /// Killed at once: a container whose first process is `sleep` would only use up its grace.
    pub(super) async fn stop(&self, pod: &Pod, container: &str) -> anyhow::Result<()> {
        let request = cri::StopContainerRequest {
            container_id: container.to_owned(),
            timeout: 0,
        };
        let reply = self.runtime().stop_container(request).await;
        reply.with_context(|| self.failed("StopContainer"))?;
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        let reply = self.runtime().stop_pod_sandbox(request).await;
        reply.map(drop).with_context(|| self.failed("StopPodSandbox"))
    }

    pub(super) async fn remove(&self, pod: &Pod, container: &str) -> anyhow::Result<()> {
        let container_id = container.to_owned();
        let reply = self
            .runtime()
            .remove_container(cri::RemoveContainerRequest { container_id })
            .await;
        reply.with_context(|| self.failed("RemoveContainer"))?;
        self.remove_sandbox(&pod.id).await
    }

    async fn remove_sandbox(&self, id: &str) -> anyhow::Result<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let reply = self.runtime().remove_pod_sandbox(request).await;
        reply.map(drop).with_context(|| self.failed("RemovePodSandbox"))
    }

    pub(super) async fn is_exited(&self, container: &str) -> anyhow::Result<bool> {
        let request = cri::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        let reply = self.runtime().container_status(request).await;
        let status = reply
            .with_context(|| self.failed("ContainerStatus"))?
            .into_inner()
            .status;
        Ok(status.is_some_and(|status| status.state() == cri::ContainerState::ContainerExited))
    }

    pub(super) async fn exec(&self, container: &str, command: &[&str]) -> anyhow::Result<i32> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let reply = self.runtime().exec_sync(request).await;
        Ok(reply
            .with_context(|| self.failed("ExecSync"))?
            .into_inner()
            .exit_code)
    }

    /// Whatever a broken-off run has left; what cannot be removed is told.
    pub(super) async fn remove_everything(&self) {
        let filter = cri::PodSandboxFilter {
            label_selector: BTreeMap::from([("app".to_owned(), "bench".to_owned())]),
            ..Default::default()
        };
        let listed = self
            .runtime()
            .list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) })
            .await;
        let ours = listed.map_or_else(|_| Vec::new(), |reply| reply.into_inner().items);
        for sandbox in ours {
            let request = cri::StopPodSandboxRequest {
                pod_sandbox_id: sandbox.id.clone(),
            };
            // The removal tells what is wrong.
            let _ = self.runtime().stop_pod_sandbox(request).await;
            if let Err(error) = self.remove_sandbox(&sandbox.id).await {
                eprintln!("left behind: {error:#}");
            }
        }
    }

    fn failed(&self, call: &str) -> String {
        format!("{}: {call}", self.name)
    }
}
