//! Whether runtime and network are ready (CRI, Status).

use std::collections::BTreeMap;

use clone8s::cri;
use serde_json::json;

use crate::shim::{Readiness, Shim};

impl Shim {
    pub(crate) fn status(&self, verbose: bool) -> cri::StatusResponse {
        let readiness = self.readiness.borrow().clone();
        let (ready, reason, message) = match &readiness {
            Readiness::Ready { .. } => (true, "", String::new()),
            Readiness::Waiting(reason) => (false, "ContainerdNotReady", reason.clone()),
        };
        let runtime = condition("RuntimeReady", ready, reason, message);
        let network = match self.network.problem() {
            None => condition("NetworkReady", true, "", String::new()),
            Some(problem) => condition("NetworkReady", false, "NetworkPluginNotReady", problem),
        };
        let handlers = std::iter::once("")
            .chain(self.config.handlers.keys().map(String::as_str))
            .map(|name| cri::RuntimeHandler {
                name: name.to_owned(),
                features: Some(cri::RuntimeHandlerFeatures::default()),
            })
            .collect();
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![runtime, network],
            }),
            info: if verbose {
                self.info(&readiness)
            } else {
                BTreeMap::new()
            },
            runtime_handlers: handlers,
            features: Some(cri::RuntimeFeatures::default()),
        }
    }

    fn info(&self, readiness: &Readiness) -> BTreeMap<String, String> {
        let config = &self.config;
        let version = match readiness {
            Readiness::Ready { containerd_version } => Some(containerd_version),
            Readiness::Waiting(_) => None,
        };
        let handlers: BTreeMap<_, _> = config
            .handlers
            .iter()
            .map(|(name, handler)| {
                (
                    name,
                    json!({"runtime": handler.runtime, "binary": handler.binary}),
                )
            })
            .collect();
        let network = &config.network;
        let parts = [
            (
                "containerd",
                json!({
                    "socket": config.containerd,
                    "namespace": config.namespace,
                    "version": version,
                    "snapshotter": config.snapshotter,
                }),
            ),
            (
                "runtime",
                json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "defaultHandler": config.default_handler,
                    "handlers": handlers,
                    "stateDir": config.state_dir,
                }),
            ),
            (
                "network",
                json!({
                    "pluginDirs": network.plugin_dirs,
                    "confDir": network.conf_dir,
                    "network": self.network.name(),
                    "podCIDR": network.pod_cidr.to_string(),
                    "bridge": network.bridge_name,
                }),
            ),
        ];
        parts
            .map(|(part, value)| (part.to_owned(), value.to_string()))
            .into()
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: String) -> cri::RuntimeCondition {
    cri::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}
