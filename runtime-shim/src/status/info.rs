//! What a person wants to know of a runtime at a glance (CRI, Status with verbose; `crictl info`).

use std::{collections::BTreeMap, path::Path, time::Duration};

use clone8s::cri::{ContainerState, PodSandboxState};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    checkpoint,
    shim::{Readiness, Shim},
};

/// How long containerd may take to list its plugins: the rest of the answer does not need it.
const PLUGINS_LIMIT: Duration = Duration::from_secs(2);

impl Shim {
    pub(super) async fn info(&self, readiness: &Readiness) -> BTreeMap<String, String> {
        let (containerd, runtime) = tokio::join!(self.containerd_info(readiness), self.runtime_info());
        let parts = [
            ("config", self.config_info()),
            ("containerd", containerd),
            ("runtime", runtime),
            ("host", self.host_info().await),
            ("network", self.network_info()),
            ("counts", self.counts()),
            ("pulls", json!(self.images.pulls.now())),
        ];
        parts
            .map(|(part, value)| (part.to_owned(), value.to_string()))
            .into()
    }

    fn config_info(&self) -> Value {
        let config = &self.config;
        let handlers: BTreeMap<_, _> = config
            .handlers
            .iter()
            .map(|(name, handler)| {
                let of_one = json!({"runtime": handler.runtime, "binary": handler.binary});
                (name, of_one)
            })
            .collect();
        json!({
            "listen": config.listen,
            "stateDir": config.state_dir,
            "rootDir": config.root_dir,
            "containerd": config.containerd,
            "namespace": config.namespace,
            "snapshotter": config.snapshotter,
            "handlers": handlers,
            "archives": config.archives,
        })
    }

    async fn containerd_info(&self, readiness: &Readiness) -> Value {
        let (version, problem) = match readiness {
            Readiness::Ready { containerd_version } => (Some(containerd_version), None),
            Readiness::Waiting(reason) => (None, Some(reason)),
        };
        let plugins = match timeout(PLUGINS_LIMIT, self.containerd.list_plugins()).await {
            Ok(Ok(plugins)) => plugins
                .into_iter()
                .map(|plugin| json!({"type": plugin.kind, "id": plugin.id, "problem": plugin.problem}))
                .collect(),
            Ok(Err(error)) => json!(error.to_string()),
            Err(_) => json!("containerd does not answer"),
        };
        json!({
            "socket": self.config.containerd,
            "namespace": self.config.namespace,
            "version": version,
            "problem": problem,
            "snapshotter": self.config.snapshotter,
            "plugins": plugins,
        })
    }

    async fn runtime_info(&self) -> Value {
        let mut handlers = BTreeMap::new();
        for (name, handler) in &self.config.handlers {
            let program = match &handler.binary {
                Some(program) => self.programs.describe(program).await,
                None => Value::Null,
            };
            handlers.insert(name, json!({"runtime": handler.runtime, "program": program}));
        }
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "defaultHandler": self.default_handler.name,
            "defaultHandlerReason": self.default_handler.reason,
            "handlers": handlers,
        })
    }

    async fn host_info(&self) -> Value {
        let kernel = rustix::system::uname();
        let pressure = self.cgroups.is_unified() && Path::new("/proc/pressure/cpu").exists();
        json!({
            "kernel": kernel.release().to_string_lossy(),
            "cgroups": if self.cgroups.is_unified() { "v2" } else { "v1" },
            "pressure": pressure,
            "criu": self.programs.describe(checkpoint::PROGRAM).await,
            "seccomp": seccomp(),
        })
    }

    fn network_info(&self) -> Value {
        let network = &self.config.network;
        json!({
            "network": self.network.name(),
            "pluginDirs": network.plugin_dirs,
            "confDir": network.conf_dir,
            "podCIDR": self.network.pod_cidr(),
            "bridge": network.bridge_name,
        })
    }

    fn counts(&self) -> Value {
        let sandboxes = self.table.sandboxes();
        let containers = self.table.containers();
        let pods = |state: PodSandboxState| sandboxes.iter().filter(|it| it.state() == state).count();
        let count = |state: ContainerState| {
            containers
                .iter()
                .filter(|it| it.state().as_cri() == state)
                .count()
        };
        json!({
            "sandboxesReady": pods(PodSandboxState::SandboxReady),
            "sandboxesNotReady": pods(PodSandboxState::SandboxNotready),
            "containersCreated": count(ContainerState::ContainerCreated),
            "containersRunning": count(ContainerState::ContainerRunning),
            "containersExited": count(ContainerState::ContainerExited),
        })
    }
}

fn seccomp() -> bool {
    Path::new("/proc/sys/kernel/seccomp").exists()
}
