//! The pod network: CNI plugins, run one after the other (CNI specification 1.0, §3 and §4).
//!
//! ```text
//! attach: ADD plugin 1 ─► ADD plugin 2 … ─► Attachment        (on failure: detach, then the error)
//! detach: DEL plugin n ─► … ─► DEL plugin 1                   (repeatable)
//! ```

mod conf;
mod plugin;
mod result;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Mutex,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::conf::NetworkList;
pub(crate) use self::{conf::ConfError, plugin::PluginError};
use crate::{config::Config, error::Error, ids::SandboxId, network::plugin::Invocation, pins, table::lock};

/// The interface inside the sandbox.
const INTERFACE: &str = "eth0";

/// Attaches sandboxes to the node's pod network.
#[derive(Debug)]
pub(crate) struct Network {
    plugin_dirs: Vec<PathBuf>,
    conf_dir: PathBuf,
    /// The built-in network, for the range that the caller has given last.
    builtin: Mutex<NetworkList>,
    bridge: String,
    leases: PathBuf,
}

/// Why a sandbox could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error(transparent)]
    Conf(#[from] ConfError),
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error(
        "network {network} cannot give a pod the fixed address {address}: none of its plugins has the capability \
         \"ips\""
    )]
    FixedAddress { network: String, address: IpAddr },
    #[error("network {network} gave the pod no address")]
    NoAddress { network: String },
}

/// A sandbox to attach.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) sandbox: SandboxId,
    /// The pinned network namespace.
    pub(crate) netns: PathBuf,
    pub(crate) pod_namespace: String,
    pub(crate) pod_name: String,
    pub(crate) pod_uid: String,
    pub(crate) ports: Vec<PortMapping>,
    pub(crate) fixed_address: Option<IpAddr>,
}

/// As in the CNI capability `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMapping {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
    #[serde(rename = "hostIP", default, skip_serializing_if = "String::is_empty")]
    pub(crate) host_ip: String,
}

/// How a sandbox has been attached: all that detaching it takes, whatever the configuration says by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    list: NetworkList,
    args: String,
    capabilities: BTreeMap<String, Value>,
    result: Option<Value>,
    /// The pod's addresses, the main one first.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Network {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            plugin_dirs: config.network.plugin_dirs.clone(),
            conf_dir: config.network.conf_dir.clone(),
            builtin: Mutex::new(NetworkList::builtin(
                &config.network.bridge_name,
                config.network.pod_cidr,
                &config.cni_state_dir(),
            )),
            bridge: config.network.bridge_name.clone(),
            leases: config.cni_state_dir(),
        }
    }

    /// Why pods cannot be attached, or nothing.
    pub(crate) fn problem(&self) -> Option<String> {
        let list = match self.list() {
            Ok(list) => list,
            Err(error) => return Some(error.to_string()),
        };
        list.programs()
            .find_map(|program| plugin::find(&self.plugin_dirs, program).err())
            .map(|error| error.to_string())
    }

    /// The node's range for pods, for the built-in network from now on (CRI, UpdateRuntimeConfig). Of two ranges the
    /// first of IPv4 is used.
    pub(crate) fn set_pod_cidr(&self, ranges: &str) -> Result<(), Error> {
        if ranges.is_empty() {
            return Ok(());
        }
        let parsed = ranges
            .split(',')
            .find_map(|range| range.trim().parse::<Ipv4Net>().ok());
        let Some(range) = parsed.filter(|range| range.prefix_len() <= 30) else {
            return Err(Error::invalid(
                "runtime_config.network_config.pod_cidr",
                format!("{ranges:?} has no IPv4 range of 30 bits or fewer"),
            ));
        };
        *lock(&self.builtin) = NetworkList::builtin(&self.bridge, range, &self.leases);
        Ok(())
    }

    /// The name of the network in force.
    pub(crate) fn name(&self) -> String {
        self.list()
            .map_or_else(|error| error.to_string(), |list| list.name)
    }

    pub(crate) async fn attach(&self, request: &Request) -> Result<Attachment, NetworkError> {
        let list = self.list()?.fitted(!request.ports.is_empty());
        let mut capabilities = BTreeMap::new();
        if !request.ports.is_empty() {
            capabilities.insert("portMappings".to_owned(), serde_json::json!(request.ports));
        }
        if let Some(address) = request.fixed_address {
            if !list.has_capability("ips") {
                return Err(NetworkError::FixedAddress {
                    network: list.name,
                    address,
                });
            }
            capabilities.insert("ips".to_owned(), serde_json::json!([address]));
        }
        let mut attachment = Attachment {
            args: cni_args(request),
            list,
            capabilities,
            result: None,
            addresses: Vec::new(),
        };
        let added = self.add(request, &mut attachment).await;
        let Err(error) = added else { return Ok(attachment) };
        // A plugin that failed, and those before it, may hold an address or rules.
        if let Err(undo) = self
            .detach(&request.sandbox, &request.netns, Some(&attachment))
            .await
        {
            tracing::warn!(sandbox = %request.sandbox, error = %undo, "failed network not cleaned up");
        }
        Err(error)
    }

    async fn add(&self, request: &Request, attachment: &mut Attachment) -> Result<(), NetworkError> {
        for plugin in &attachment.list.plugins {
            let conf =
                attachment
                    .list
                    .plugin_conf(plugin, &attachment.capabilities, attachment.result.as_ref());
            let invocation = Invocation {
                command: "ADD",
                sandbox: &request.sandbox,
                netns: Some(&request.netns),
                interface: INTERFACE,
                args: &attachment.args,
            };
            let output = plugin::run(&self.plugin_dirs, plugin, &invocation, &conf).await?;
            attachment.result = Some(output);
        }
        let result = attachment.result.as_ref();
        attachment.addresses = result
            .map(|result| result::addresses(result, INTERFACE))
            .unwrap_or_default();
        if attachment.addresses.is_empty() {
            return Err(NetworkError::NoAddress {
                network: attachment.list.name.clone(),
            });
        }
        Ok(())
    }

    /// Gives the network back. Without an attachment, as for a sandbox that was never finished, what the
    /// configuration in force would have made is undone.
    pub(crate) async fn detach(
        &self,
        sandbox: &SandboxId,
        netns: &Path,
        attachment: Option<&Attachment>,
    ) -> Result<(), NetworkError> {
        let (list, args, capabilities, result) = match attachment {
            Some(known) => (
                known.list.clone(),
                known.args.as_str(),
                known.capabilities.clone(),
                known.result.as_ref(),
            ),
            None => (self.list()?, "", BTreeMap::new(), None),
        };
        // A namespace that is gone, as after a reboot, leaves the plugins only addresses and rules to give back.
        let netns = pins::is_namespace(netns).then_some(netns);
        let mut outcome = Ok(());
        for plugin in list.plugins.iter().rev() {
            let conf = list.plugin_conf(plugin, &capabilities, result);
            let invocation = Invocation {
                command: "DEL",
                sandbox,
                netns,
                interface: INTERFACE,
                args,
            };
            // The others' part is given back even when one fails; the first failure is told.
            if let Err(error) = plugin::run(&self.plugin_dirs, plugin, &invocation, &conf).await {
                outcome = outcome.and(Err(error.into()));
            }
        }
        outcome
    }

    /// The configuration in force: the first in the folder, or the built-in one.
    fn list(&self) -> Result<NetworkList, ConfError> {
        Ok(conf::load(&self.conf_dir)?.unwrap_or_else(|| lock(&self.builtin).clone()))
    }
}

/// Names the pod to plugins that care (CNI conventions, "Kubernetes").
fn cni_args(request: &Request) -> String {
    let pairs = [
        ("K8S_POD_NAMESPACE", request.pod_namespace.as_str()),
        ("K8S_POD_NAME", request.pod_name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", request.sandbox.as_str()),
        ("K8S_POD_UID", request.pod_uid.as_str()),
    ];
    pairs
        .into_iter()
        // The list's own separators cannot be escaped in it.
        .filter(|(_, value)| !value.contains([';', '=']))
        .fold("IgnoreUnknown=1".to_owned(), |list, (key, value)| {
            format!("{list};{key}={value}")
        })
}
