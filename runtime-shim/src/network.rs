//! The pod network: CNI plugins where a configuration names some, else the built-in bridge.
//!
//! ```text
//! attach ─┬─ a configuration in the folder ─► cni::Cni       ADD by each plugin
//!         └─ none ─────────────────────────► bridge::Bridge  netlink
//! detach ──── by what the sandbox's record says, whatever the folder says by then
//! ```

mod bandwidth;
mod bridge;
mod cni;
mod netlink;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use clone8s::cri;
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    bandwidth::Bandwidth,
    bridge::{BridgeError, Protocol, set_loopback_up},
    cni::CniError,
};
use self::{
    bridge::{Bridge, Cable, Wish},
    cni::{Chain, Cni},
};
use crate::{
    config::{Config, PodRanges},
    error::{Error, Result},
    ids::SandboxId,
};

/// The interface inside the sandbox.
const INTERFACE: &str = "eth0";

/// Attaches sandboxes to the node's pod network.
#[derive(Debug)]
pub(crate) struct Network {
    cni: Cni,
    bridge: Arc<Bridge>,
}

/// Why a sandbox could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error(transparent)]
    Cni(#[from] CniError),
    #[error(transparent)]
    Bridge(#[from] BridgeError),
}

/// A sandbox to attach.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) sandbox: SandboxId,
    /// The pinned network namespace.
    pub(crate) netns: PathBuf,
    /// A file beside it, in which a chain of plugins that has begun is written down until the sandbox has a record.
    pub(crate) journal: PathBuf,
    pub(crate) pod: cri::PodSandboxMetadata,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) dns: Option<cri::DnsConfig>,
    pub(crate) cgroup: String,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) fixed_address: Option<IpAddr>,
    pub(crate) bandwidth: Bandwidth,
}

/// As in the CNI capability `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMapping {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: Protocol,
    /// None for every address of the host.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub(crate) host_ip: Option<IpAddr>,
}

/// How a sandbox has been attached: all that detaching it takes, whatever the configuration says by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    #[serde(flatten)]
    means: Means,
    /// The pod's addresses, the main one first.
    pub(crate) addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Means {
    Bridge {
        cable: Cable,
    },
    /// The built-in network's too, as it was made of plugins.
    Cni(Chain),
}

/// What CRI calls the condition `NetworkReady`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) ready: bool,
    /// Why not; or, of a network that is ready, which files of the folder were passed over.
    pub(crate) message: String,
}

impl Network {
    pub(crate) fn new(config: &Config) -> Self {
        let network = &config.network;
        Self {
            cni: Cni {
                plugin_dirs: network.plugin_dirs.clone(),
                conf_dir: network.conf_dir.clone(),
                time_limit: network.plugin_time_limit,
            },
            bridge: Arc::new(Bridge::new(&network.bridge_name, network.pod_cidr.clone())),
        }
    }

    /// Whether pods can be attached. What is missing of the built-in network is made.
    pub(crate) async fn condition(&self) -> Condition {
        let not_ready = |error: NetworkError| Condition {
            ready: false,
            message: error.to_string(),
        };
        match self.cni.configured() {
            Err(error) => not_ready(error.into()),
            Ok(None) => match self.bridge.ensure().await {
                Ok(()) => Condition {
                    ready: true,
                    message: String::new(),
                },
                Err(error) => not_ready(error.into()),
            },
            Ok(Some(configured)) => match self.cni.problem(&configured.list).await {
                Some(error) => not_ready(error.into()),
                None => Condition {
                    ready: true,
                    message: configured.passed_over(),
                },
            },
        }
    }

    /// The node's ranges for pods, for the built-in network from now on (CRI, UpdateRuntimeConfig).
    pub(crate) fn set_pod_cidr(&self, ranges: &str) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let ranges: PodRanges = ranges
            .parse()
            .map_err(|problem: String| Error::invalid("runtime_config.network_config.pod_cidr", problem))?;
        self.bridge.set_ranges(ranges);
        Ok(())
    }

    pub(crate) fn pod_cidr(&self) -> String {
        self.bridge.ranges().to_string()
    }

    /// The name of the network in force.
    pub(crate) fn name(&self) -> String {
        match self.cni.configured() {
            Ok(Some(configured)) => configured.list.name().to_owned(),
            Ok(None) => format!("{} (built in)", self.bridge.name()),
            Err(error) => error.to_string(),
        }
    }

    /// Takes up the sandboxes that there are, in the order in which they were made. At the start, before any call.
    pub(crate) async fn restore(&self, sandboxes: &[(SandboxId, Attachment)]) -> Result<(), NetworkError> {
        for (sandbox, attachment) in sandboxes {
            let (ports, cable) = match &attachment.means {
                Means::Bridge { cable } => (cable.ports().to_vec(), Some(cable)),
                Means::Cni(chain) => (chain.ports(), None),
            };
            self.bridge.restore(sandbox, &attachment.addresses, &ports, cable);
        }
        let on_bridge = |(_, attachment): &(_, Attachment)| matches!(attachment.means, Means::Bridge { .. });
        if sandboxes.iter().any(on_bridge) || matches!(self.cni.configured(), Ok(None)) {
            self.bridge.reconcile().await?;
        }
        Ok(())
    }

    /// Tells plugins that can collect garbage which sandboxes there are (CNI 1.1, GC).
    pub(crate) async fn collect_garbage(&self, sandboxes: &[SandboxId]) {
        if let Ok(Some(configured)) = self.cni.configured() {
            self.cni.collect_garbage(&configured.list, sandboxes).await;
        }
    }

    pub(crate) async fn attach(&self, request: &Request) -> Result<Attachment, NetworkError> {
        if let Some(configured) = self.cni.configured()? {
            let ranges = self.bridge.ranges();
            let (chain, addresses) = self.cni.attach(configured.list, request, &ranges).await?;
            return Ok(Attachment {
                means: Means::Cni(chain),
                addresses,
            });
        }
        let wish = Wish {
            sandbox: request.sandbox.clone(),
            netns: request.netns.clone(),
            ports: request.ports.clone(),
            fixed_address: request.fixed_address,
            bandwidth: request.bandwidth,
        };
        let cable = self.bridge.attach(&wish).await?;
        Ok(Attachment {
            addresses: cable.addresses().collect(),
            means: Means::Bridge { cable },
        })
    }

    /// Gives the network back. Repeatable.
    pub(crate) async fn detach(
        &self,
        sandbox: &SandboxId,
        netns: &std::path::Path,
        attachment: &Attachment,
    ) -> Result<(), NetworkError> {
        match &attachment.means {
            Means::Bridge { cable } => self.bridge.detach(sandbox, cable).await?,
            Means::Cni(chain) => {
                self.cni.detach(sandbox, netns, chain).await?;
                self.bridge.release(sandbox);
            }
        }
        Ok(())
    }

    /// Gives back what a sandbox may have that was never finished.
    pub(crate) async fn detach_unfinished(
        &self,
        sandbox: &SandboxId,
        netns: &std::path::Path,
        journal: &std::path::Path,
    ) -> Result<(), NetworkError> {
        if let Some(cable) = self.bridge.cable(sandbox) {
            self.bridge.detach(sandbox, &cable).await?;
        }
        self.cni.detach_unfinished(sandbox, netns, journal).await?;
        Ok(())
    }

    /// Whether the sandbox's network is as it was made (CNI, CHECK).
    pub(crate) async fn check(
        &self,
        sandbox: &SandboxId,
        netns: &std::path::Path,
        attachment: &Attachment,
    ) -> Result<(), NetworkError> {
        match &attachment.means {
            Means::Bridge { cable } => Ok(self.bridge.check(cable)?),
            Means::Cni(chain) => Ok(self.cni.check(sandbox, netns, chain).await?),
        }
    }

    /// Removes what is not any pod's.
    pub(crate) async fn tear_down(&self) -> Result<(), NetworkError> {
        Ok(self.bridge.tear_down().await?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_attachment_by_plugins_reads_back_as_records_have_it() {
        let stored = json!({
            "list": {
                "cniVersion": "1.0.0",
                "name": "clone8s-c8s0",
                "plugins": [
                    {"type": "bridge", "bridge": "c8s0", "capabilities": {"ips": true}},
                    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
                ],
            },
            "args": "IgnoreUnknown=1;K8S_POD_NAME=web",
            "capabilities": {"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]},
            "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.88.0.2/16"}]},
            "addresses": ["10.88.0.2"],
        });
        let attachment: Attachment = serde_json::from_value(stored).unwrap();
        let Means::Cni(chain) = &attachment.means else {
            panic!("{attachment:?}");
        };
        assert_eq!(chain.ports().len(), 1);
        let again = serde_json::to_value(&attachment).unwrap();
        assert_eq!(serde_json::from_value::<Attachment>(again).unwrap(), attachment);
    }

    #[test]
    fn an_attachment_to_the_bridge_reads_back_as_written() {
        let stored = json!({
            "cable": {
                "bridge": "c8s0",
                "interface": "c8s0123456789ab",
                "addresses": ["10.88.0.2/16", "fd00::2/64"],
                "ports": [{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "127.0.0.1"}],
            },
            "addresses": ["10.88.0.2", "fd00::2"],
        });
        let attachment: Attachment = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(serde_json::to_value(&attachment).unwrap(), stored);
    }
}
