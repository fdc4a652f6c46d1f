//! Sandboxes: pinned namespaces, a network, and a containerd object without a task that remembers them.
//!
//! ```text
//!            RunPodSandbox: pins ─► network ─► object                 (the object makes it visible)
//! (nothing) ────────────────────────────────────────────► ready
//! ready ──StopPodSandbox: containers, network, pins──► not ready      (so too after a reboot)
//! ready | not ready ──RemovePodSandbox: stop, object, folder──► (nothing)
//! ```

mod config;
mod files;
mod limits;
mod processes;
mod run;
mod stop;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use clone8s::cri;
use tokio_util::sync::DropGuard;

pub(crate) use self::config::{is_privileged, namespace_options, user_mappings};
pub(crate) use self::limits::PodLimits;
use crate::{
    error::Result,
    ids::SandboxId,
    pins::{SandboxDir, Wanted},
    record::{SandboxDetail, SandboxRecord},
    shim::Shim,
    table::lock,
};

/// A sandbox as the shim knows it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) detail: SandboxDetail,
    pub(crate) wanted: Wanted,
    state: Mutex<cri::PodSandboxState>,
    /// Whether containerd has noted its stop.
    stop_noted: AtomicBool,
    /// Whether it was read back from containerd.
    adopted: AtomicBool,
    /// Whether someone has learned its id. Whoever asks for the same again, cut off before, is given this one.
    answered: AtomicBool,
    /// As of the last update; none where there was none.
    limits: Mutex<Option<PodLimits>>,
    /// One change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Who looks after the first process of its shared PID namespace; none while there is no such process.
    init_watch: tokio::sync::Mutex<Option<DropGuard>>,
}

impl Sandbox {
    pub(crate) fn from_record(record: SandboxRecord, state: cri::PodSandboxState) -> Result<Self> {
        Ok(Self {
            wanted: Wanted::from_options(&namespace_options(&record.config))?,
            id: record.id,
            config: record.config,
            detail: record.detail,
            state: Mutex::new(state),
            stop_noted: AtomicBool::new(record.stopped),
            adopted: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            limits: Mutex::new(record.limits),
            changing: tokio::sync::Mutex::new(()),
            init_watch: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> cri::PodSandboxState {
        *lock(&self.state)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state() == cri::PodSandboxState::SandboxReady
    }

    pub(crate) fn set_adopted(&self) {
        self.adopted.store(true, Ordering::Relaxed);
    }

    fn is_adopted(&self) -> bool {
        self.adopted.load(Ordering::Relaxed)
    }

    pub(crate) fn set_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    fn set_state(&self, state: cri::PodSandboxState) {
        *lock(&self.state) = state;
    }

    pub(crate) fn status(&self) -> cri::PodSandboxStatus {
        let mut addresses = self.detail.addresses().iter().map(ToString::to_string);
        let network = cri::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
        };
        cri::PodSandboxStatus {
            id: self.id.to_string(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: self.detail.created_at,
            network: Some(network),
            linux: Some(cri::LinuxPodSandboxStatus {
                namespaces: Some(cri::Namespace {
                    options: Some(namespace_options(&self.config)),
                }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.detail.handler.clone(),
        }
    }

    /// The handler that runs its containers.
    pub(crate) fn handler(&self) -> &str {
        match self.detail.served_by.as_str() {
            "" => &self.detail.handler,
            name => name,
        }
    }

    /// The host name of its containers.
    pub(crate) fn hostname(&self) -> String {
        if self.wanted.net {
            config::hostname(&self.config)
        } else {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
    }

    /// Of its own processes: that of a shared PID namespace.
    fn own_cgroup(&self) -> String {
        format!("{}/{}", self.cgroup_parent(), self.id)
    }

    /// Relative to the root of each cgroup hierarchy, with a slash in front.
    pub(crate) fn cgroup_parent(&self) -> String {
        config::cgroup_parent(&self.config, &self.id)
    }
}

impl From<&Sandbox> for cri::PodSandbox {
    fn from(sandbox: &Sandbox) -> Self {
        Self {
            id: sandbox.id.to_string(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.state().into(),
            created_at: sandbox.detail.created_at,
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.detail.handler.clone(),
        }
    }
}

impl Shim {
    /// For people (CRI, PodSandboxStatus with verbose).
    pub(crate) async fn sandbox_info(&self, sandbox: &Sandbox) -> BTreeMap<String, String> {
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        let check = match &sandbox.detail.attachment {
            Some(attachment) if sandbox.is_ready() => {
                let checked = self.network.check(&sandbox.id, &dir.net(), attachment).await;
                Some(checked.map_or_else(|error| error.to_string(), |()| "ok".to_owned()))
            }
            _ => None,
        };
        let limits = sandbox.limits();
        let info = serde_json::json!({
            "runtimeHandler": sandbox.handler(),
            "networkNamespace": sandbox.wanted.net.then(|| dir.net()),
            "network": sandbox.detail.attachment,
            "networkCheck": check,
            "cgroupParent": sandbox.cgroup_parent(),
            "memoryLimit": limits.resources.as_ref().map(|limits| limits.memory_limit_in_bytes),
            "cpuQuota": limits.resources.as_ref().map(|limits| limits.cpu_quota),
            // Of the first process of a shared PID namespace.
            "pid": dir.init().map(|init| init.pid),
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
    }
}
