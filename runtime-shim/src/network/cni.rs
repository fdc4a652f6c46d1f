//! The pod network by CNI plugins, run one after the other (CNI specification 1.1, §3 and §4).
//!
//! ```text
//! attach: journal ─► ADD plugin 1 ─► ADD plugin 2 … ─► Chain      (on failure: detach, then the error)
//! detach: DEL plugin n ─► … ─► DEL plugin 1                       (repeatable)
//! ```
//!
//! The journal is what a killed process leaves of an ADD that has begun: the next one undoes it by that, whatever
//! the configuration says by then.

mod conf;
mod plugin;
mod result;
mod version;

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(super) use self::conf::Configured;
use self::{
    conf::{ConfError, NetworkList, Plugin},
    plugin::{Invocation, PluginError, Programs},
    result::CniResult,
    version::Version,
};
use super::{Bandwidth, INTERFACE, PortMapping, Request};
use crate::{config::PodRanges, ids::SandboxId, pins};

/// For what a whole node waits: its status, and the garbage that is collected at the start.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// Why a sandbox could not be attached or detached by plugins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    #[error(transparent)]
    Conf(#[from] ConfError),
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error("CNI network {network}: plugin {plugin} gave a result that is of no use: {problem}")]
    Result {
        network: String,
        plugin: String,
        problem: String,
    },
    #[error(
        "CNI network {network} cannot give a pod the fixed address {address}: none of its plugins has the capability \
         \"ips\""
    )]
    FixedAddress { network: String, address: IpAddr },
    #[error("CNI network {network} gave the pod no address")]
    NoAddress { network: String },
    #[error("CNI network: cannot {what} {path}: {cause}", path = .path.display())]
    Journal {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
}

/// A sandbox's chain of plugins: all that undoing it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Chain {
    list: NetworkList,
    args: String,
    capabilities: BTreeMap<String, Value>,
    /// Of the last plugin, in the configuration's version.
    result: Option<Value>,
}

impl Chain {
    /// The host's ports that its plugins lead to the pod.
    pub(super) fn ports(&self) -> Vec<PortMapping> {
        let ports = self.capabilities.get("portMappings").cloned();
        // Of a form that this version does not know there is nothing to say.
        ports
            .and_then(|ports| serde_json::from_value(ports).ok())
            .unwrap_or_default()
    }
}

/// Where plugins and their configuration are.
#[derive(Debug)]
pub(super) struct Cni {
    pub(super) plugin_dirs: Vec<PathBuf>,
    pub(super) conf_dir: PathBuf,
    /// For each plugin.
    pub(super) time_limit: Duration,
}

impl Cni {
    /// The configuration in force; none where the folder has no file. Read anew each time: a few small files, which
    /// may change at any time.
    pub(super) fn configured(&self) -> Result<Option<Configured>, CniError> {
        Ok(conf::load(&self.conf_dir)?)
    }

    fn programs(&self, time_limit: Duration) -> Programs<'_> {
        Programs {
            dirs: &self.plugin_dirs,
            time_limit,
        }
    }

    /// Why the network cannot serve pods, or nothing (CNI 1.1, STATUS, where the configuration is of that version).
    pub(super) async fn problem(&self, list: &NetworkList) -> Option<CniError> {
        let programs = self.programs(STATUS_LIMIT);
        for plugin in list.plugins() {
            if let Err(missing) = programs.find(plugin.program()) {
                return Some(missing.into());
            }
        }
        if !list.version().has_status() {
            return None;
        }
        for plugin in list.plugins() {
            let conf = list.plugin_conf(plugin, &BTreeMap::new(), None);
            if let Err(error) = programs
                .run(plugin.program(), &Invocation::of_network("STATUS"), &conf)
                .await
            {
                return Some(error.into());
            }
        }
        None
    }

    pub(super) async fn attach(
        &self,
        list: NetworkList,
        request: &Request,
        ranges: &PodRanges,
    ) -> Result<(Chain, Vec<IpAddr>), CniError> {
        if let Some(address) = request.fixed_address
            && !list.has_capability("ips")
        {
            return Err(CniError::FixedAddress {
                network: list.name().to_owned(),
                address,
            });
        }
        let mut chain = Chain {
            args: cni_args(request),
            capabilities: capabilities(request, ranges)
                .into_iter()
                .filter(|(name, _)| list.has_capability(name))
                .collect(),
            list,
            result: None,
        };
        write_journal(&request.journal, &chain)?;
        let error = match self.add(request, &mut chain).await {
            Ok(addresses) => return Ok((chain, addresses)),
            Err(error) => error,
        };
        // A plugin that failed, and those before it, may hold an address or rules.
        match self.detach(&request.sandbox, &request.netns, &chain).await {
            Ok(()) => remove_journal(&request.journal)?,
            Err(undo) => {
                tracing::warn!(sandbox = %request.sandbox, error = %undo, "failed network not cleaned up");
            }
        }
        Err(error)
    }

    async fn add(&self, request: &Request, chain: &mut Chain) -> Result<Vec<IpAddr>, CniError> {
        let programs = self.programs(self.time_limit);
        let mut last = CniResult::default();
        for plugin in chain.list.plugins() {
            let previous = chain.result.as_ref();
            let conf = chain.list.plugin_conf(plugin, &chain.capabilities, previous);
            let invocation = Invocation {
                command: "ADD",
                sandbox: request.sandbox.as_str(),
                netns: Some(&request.netns),
                interface: INTERFACE,
                args: &chain.args,
            };
            let output = programs.run(plugin.program(), &invocation, &conf).await?;
            let version = chain.list.version();
            last = CniResult::read(&output, version).map_err(|problem| CniError::Result {
                network: chain.list.name().to_owned(),
                plugin: plugin.program().to_owned(),
                problem,
            })?;
            chain.result = Some(last.write(version));
        }
        let addresses = last.addresses(INTERFACE);
        if addresses.is_empty() {
            return Err(CniError::NoAddress {
                network: chain.list.name().to_owned(),
            });
        }
        Ok(addresses)
    }

    /// The others' part is given back even when one fails; the first failure is told.
    pub(super) async fn detach(
        &self,
        sandbox: &SandboxId,
        netns: &Path,
        chain: &Chain,
    ) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in chain.list.plugins().rev() {
            // Before 0.4.0 DEL did not know the result of ADD.
            let previous = chain.result.as_ref().filter(|_| chain.list.version().has_check());
            if let Err(error) = self.call("DEL", sandbox, netns, chain, plugin, previous).await {
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    /// By the journal of a process that was killed during ADD, or before it had a record.
    pub(super) async fn detach_unfinished(
        &self,
        sandbox: &SandboxId,
        netns: &Path,
        journal: &Path,
    ) -> Result<(), CniError> {
        let Some(chain) = read_journal(journal)? else {
            return Ok(());
        };
        self.detach(sandbox, netns, &chain).await?;
        remove_journal(journal)
    }

    /// Nothing where the configuration does without it.
    pub(super) async fn check(
        &self,
        sandbox: &SandboxId,
        netns: &Path,
        chain: &Chain,
    ) -> Result<(), CniError> {
        if !chain.list.version().has_check() || chain.list.disables_check() {
            return Ok(());
        }
        for plugin in chain.list.plugins() {
            self.call("CHECK", sandbox, netns, chain, plugin, chain.result.as_ref())
                .await?;
        }
        Ok(())
    }

    async fn call(
        &self,
        command: &'static str,
        sandbox: &SandboxId,
        netns: &Path,
        chain: &Chain,
        plugin: &Plugin,
        previous: Option<&Value>,
    ) -> Result<(), CniError> {
        let conf = chain.list.plugin_conf(plugin, &chain.capabilities, previous);
        let invocation = Invocation {
            command,
            sandbox: sandbox.as_str(),
            // One that is gone, as after a reboot, leaves plugins only addresses and rules to give back.
            netns: pins::is_namespace(netns).then_some(netns),
            interface: INTERFACE,
            args: &chain.args,
        };
        let programs = self.programs(self.time_limit);
        programs.run(plugin.program(), &invocation, &conf).await?;
        Ok(())
    }

    pub(super) async fn collect_garbage(&self, list: &NetworkList, sandboxes: &[SandboxId]) {
        if !list.version().has_status() || list.disables_gc() {
            return;
        }
        let valid: Vec<_> = sandboxes
            .iter()
            .map(|sandbox| json!({"containerID": sandbox.as_str(), "ifname": INTERFACE}))
            .collect();
        let programs = self.programs(STATUS_LIMIT);
        for plugin in list.plugins() {
            let mut conf = list.plugin_conf(plugin, &BTreeMap::new(), None);
            conf["cni.dev/valid-attachments"] = json!(valid);
            // The older name, which plugins of the first 1.1 read.
            conf["cni.dev/attachments"] = json!(valid);
            if let Err(error) = programs
                .run(plugin.program(), &Invocation::of_network("GC"), &conf)
                .await
            {
                tracing::warn!(network = list.name(), %error, "garbage of a network not collected");
            }
        }
    }
}

/// What the runtime knows of a pod, by the names that plugins ask for (CNI conventions).
fn capabilities(request: &Request, ranges: &PodRanges) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::from([
        (
            "io.kubernetes.cri.pod-annotations".to_owned(),
            json!(request.annotations),
        ),
        ("cgroupPath".to_owned(), json!(request.cgroup)),
        (
            "ipRanges".to_owned(),
            ranges
                .iter()
                .map(|range| json!([{"subnet": range.to_string()}]))
                .collect(),
        ),
    ]);
    if !request.ports.is_empty() {
        all.insert("portMappings".to_owned(), json!(request.ports));
    }
    if let Some(address) = request.fixed_address {
        all.insert("ips".to_owned(), json!([address]));
    }
    if let Some(dns) = &request.dns {
        let dns = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        all.insert("dns".to_owned(), dns);
    }
    if request.bandwidth != Bandwidth::default() {
        all.insert("bandwidth".to_owned(), bandwidth(request.bandwidth));
    }
    all
}

fn bandwidth(limits: Bandwidth) -> Value {
    /// As large as the plugin takes: a limit is one of the rate alone.
    const BURST: u32 = i32::MAX as u32;
    let mut fields = serde_json::Map::new();
    for (limit, rate, burst) in [
        (limits.ingress, "ingressRate", "ingressBurst"),
        (limits.egress, "egressRate", "egressBurst"),
    ] {
        if let Some(limit) = limit {
            fields.insert(rate.into(), limit.into());
            fields.insert(burst.into(), BURST.into());
        }
    }
    fields.into()
}

/// Names the pod to plugins that care (CNI conventions, "Kubernetes").
fn cni_args(request: &Request) -> String {
    let pairs = [
        ("K8S_POD_NAMESPACE", request.pod.namespace.as_str()),
        ("K8S_POD_NAME", request.pod.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", request.sandbox.as_str()),
        ("K8S_POD_UID", request.pod.uid.as_str()),
    ];
    pairs
        .into_iter()
        // The list's own separators cannot be escaped in it.
        .filter(|(_, value)| !value.contains([';', '=']))
        .fold("IgnoreUnknown=1".to_owned(), |list, (key, value)| {
            format!("{list};{key}={value}")
        })
}

fn write_journal(path: &Path, chain: &Chain) -> Result<(), CniError> {
    let text = json!(chain).to_string();
    fs::write(path, text).map_err(journal("write", path))
}

/// None where no chain has begun.
fn read_journal(path: &Path) -> Result<Option<Chain>, CniError> {
    match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(chain) => Ok(Some(chain)),
            // Cut off within its writing: no plugin had been run by then.
            Err(_) => Ok(None),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(journal("read", path)(cause)),
    }
}

fn remove_journal(path: &Path) -> Result<(), CniError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(journal("remove", path)(error)),
        _ => Ok(()),
    }
}

fn journal(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniError {
    let path = path.to_owned();
    move |cause| CniError::Journal { what, path, cause }
}

#[cfg(test)]
mod tests;
