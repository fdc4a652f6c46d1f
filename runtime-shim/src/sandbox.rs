//! Sandboxes: pinned namespaces, a network, and a containerd object without a task that remembers them.
//!
//! ```text
//!            RunPodSandbox: pins ─► network ─► object                 (the object makes it visible)
//! (nothing) ────────────────────────────────────────────► ready
//! ready ──StopPodSandbox: containers, network, pins──► not ready      (so too after a reboot)
//! ready | not ready ──RemovePodSandbox: stop, object, folder──► (nothing)
//! ```

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use clone8s::cri;
use containerd_client::services::v1::{self as api, container::Runtime};
use futures::future::try_join_all;

use crate::{
    containerd::already_gone,
    error::{Error, Result},
    ids::SandboxId,
    network::{self, PortMapping},
    pins::{SandboxDir, Wanted},
    record::{self, SandboxDetail, SandboxRecord},
    sandbox_files,
    shim::Shim,
    steps::timed,
    table::lock,
    time::now_nanos,
};

/// On a sandbox: the address that its pod must have.
const FIXED_ADDRESS: &str = "clone8s.io/pod-ip";

/// A sandbox as the shim knows it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) detail: SandboxDetail,
    pub(crate) wanted: Wanted,
    state: Mutex<cri::PodSandboxState>,
    /// One change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn from_record(record: SandboxRecord, state: cri::PodSandboxState) -> Result<Self> {
        Ok(Self {
            wanted: Wanted::from_options(&namespace_options(&record.config))?,
            id: record.id,
            config: record.config,
            detail: record.detail,
            state: Mutex::new(state),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    pub(crate) fn state(&self) -> cri::PodSandboxState {
        *lock(&self.state)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state() == cri::PodSandboxState::SandboxReady
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

    /// The host name of its containers.
    pub(crate) fn hostname(&self) -> String {
        hostname(&self.config)
    }

    /// Relative to the root of each cgroup hierarchy, with a slash in front.
    pub(crate) fn cgroup_parent(&self) -> String {
        cgroup_parent(&self.config, &self.id)
    }
}

/// A config without options means the usual: all namespaces the sandbox's own, but processes each container's.
pub(crate) fn namespace_options(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    security
        .and_then(|security| security.namespace_options.clone())
        .unwrap_or(cri::NamespaceOption {
            pid: cri::NamespaceMode::Container.into(),
            ..Default::default()
        })
}

fn hostname(config: &cri::PodSandboxConfig) -> String {
    let name = match config.hostname.as_str() {
        "" => config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default(),
        name => name.to_owned(),
    };
    // The kernel's limit (uname(2), __NEW_UTS_LEN) less one.
    name.chars().take(63).collect()
}

fn cgroup_parent(config: &cri::PodSandboxConfig, id: &SandboxId) -> String {
    let parent = config
        .linux
        .as_ref()
        .map(|linux| linux.cgroup_parent.trim_matches('/'))
        .unwrap_or_default();
    match parent {
        "" => format!("/clone8s/{id}"),
        parent => format!("/{parent}"),
    }
}

/// What a sandbox is to the one who asked for it: no two of these at a time.
fn name(metadata: &cri::PodSandboxMetadata) -> String {
    format!(
        "{}/{} {} attempt {}",
        metadata.namespace, metadata.name, metadata.uid, metadata.attempt
    )
}

/// Port mappings that concern the host; the others only document the pod.
fn port_mappings(config: &cri::PodSandboxConfig) -> Result<Vec<PortMapping>> {
    let port = |port: i32| {
        u16::try_from(port).map_err(|_| Error::invalid("port_mappings", format!("no port {port}")))
    };
    let mapped = config
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0);
    mapped
        .map(|mapping| {
            Ok(PortMapping {
                host_port: port(mapping.host_port)?,
                container_port: port(mapping.container_port)?,
                protocol: match mapping.protocol() {
                    cri::Protocol::Tcp => "tcp",
                    cri::Protocol::Udp => "udp",
                    cri::Protocol::Sctp => "sctp",
                }
                .to_owned(),
                host_ip: mapping.host_ip.clone(),
            })
        })
        .collect()
}

/// The address that the pod must have; none where the annotation is absent or means any address.
fn fixed_address(config: &cri::PodSandboxConfig) -> Result<Option<IpAddr>> {
    let Some(text) = config
        .annotations
        .get(FIXED_ADDRESS)
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let address: IpAddr = text.parse().map_err(|_| {
        Error::invalid(
            "annotations[clone8s.io/pod-ip]",
            format!("{text:?} is not an IP address"),
        )
    })?;
    Ok((!address.is_unspecified()).then_some(address))
}

impl Shim {
    pub(crate) async fn run_sandbox(
        self: Arc<Self>,
        config: cri::PodSandboxConfig,
        handler: String,
    ) -> Result<SandboxId> {
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Error::invalid("config.metadata", "missing"))?;
        let runtime = self.runtime(&handler)?;
        let wanted = Wanted::from_options(&namespace_options(&config))?;
        let ports = port_mappings(&config)?;
        let address = fixed_address(&config)?;
        let name = name(&metadata);
        let _claim = self.table.claim("sandbox", name.clone())?;
        let sandboxes = self.table.sandboxes();
        if let Some(other) = sandboxes
            .iter()
            .find(|other| other.config.metadata.as_ref() == Some(&metadata))
        {
            return Err(Error::Exists {
                kind: "sandbox",
                name,
                id: other.id.to_string(),
            });
        }

        let id = SandboxId::random();
        let dir = SandboxDir::new(&self.config.state_dir, &id);
        let request = network::Request {
            sandbox: id.clone(),
            netns: dir.net(),
            pod_namespace: metadata.namespace,
            pod_name: metadata.name,
            pod_uid: metadata.uid,
            ports,
            fixed_address: address,
        };
        let made = self
            .make_sandbox(&dir, wanted, config, handler, runtime, &request)
            .await;
        match made {
            Ok(sandbox) => {
                self.table.insert_sandbox(Arc::new(sandbox));
                Ok(id)
            }
            Err(error) => {
                self.discard_sandbox(&id).await;
                Err(error)
            }
        }
    }

    async fn make_sandbox(
        &self,
        dir: &SandboxDir,
        wanted: Wanted,
        config: cri::PodSandboxConfig,
        handler: String,
        runtime: Runtime,
        request: &network::Request,
    ) -> Result<Sandbox> {
        let hostname = hostname(&config);
        let sysctls = config
            .linux
            .as_ref()
            .map(|linux| linux.sysctls.clone())
            .unwrap_or_default();
        timed("namespaces", dir.make(wanted, &hostname, &sysctls)).await?;
        let attachment = if wanted.net {
            Some(timed("network", self.network.attach(request)).await?)
        } else {
            None
        };
        let detail = SandboxDetail {
            handler,
            created_at: now_nanos(),
            attachment,
        };
        write_files(dir, wanted, &config, &detail)?;
        let record = SandboxRecord {
            id: request.sandbox.clone(),
            config,
            detail,
            stopped: false,
        };
        let mut object = api::Container {
            runtime: Some(runtime),
            ..Default::default()
        };
        record.write(&mut object);
        timed("object", self.containerd.create_container(object)).await?;
        Sandbox::from_record(record, cri::PodSandboxState::SandboxReady)
    }

    /// Undoes a sandbox that never became visible. What fails here is tried again at the next start.
    pub(crate) async fn discard_sandbox(&self, id: &SandboxId) {
        let dir = SandboxDir::new(&self.config.state_dir, id);
        if dir.net().exists()
            && let Err(error) = self.network.detach(id, &dir.net(), None).await
        {
            tracing::warn!(sandbox = %id, %error, "network of an unfinished sandbox not given back");
        }
        if let Err(error) = dir.remove() {
            tracing::warn!(sandbox = %id, %error, "unfinished sandbox not removed");
        }
    }

    pub(crate) async fn stop_sandbox(self: Arc<Self>, id: String) -> Result<()> {
        let Ok(sandbox) = self.table.sandbox(&id) else {
            return Ok(());
        };
        let _changing = sandbox.changing.lock().await;
        self.stop_sandbox_now(&sandbox).await
    }

    async fn stop_sandbox_now(self: &Arc<Self>, sandbox: &Sandbox) -> Result<()> {
        if !sandbox.is_ready()
            && !SandboxDir::new(&self.config.state_dir, &sandbox.id)
                .file("ns")
                .exists()
        {
            return Ok(());
        }
        let containers = self.table.containers_of(&sandbox.id);
        // Containers first: their exit hooks may still need the network.
        timed(
            "containers",
            try_join_all(containers.iter().map(|container| self.kill(container))),
        )
        .await?;
        sandbox.set_state(cri::PodSandboxState::SandboxNotready);
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        let (object, path) = record::sandbox_stopped(&sandbox.id, now_nanos());
        let paths = [path.as_str()];
        let mark = async {
            Ok(already_gone(
                self.containerd.update_container(object, &paths).await,
            )?)
        };
        let release = async {
            if let Some(attachment) = &sandbox.detail.attachment {
                timed(
                    "network",
                    self.network.detach(&sandbox.id, &dir.net(), Some(attachment)),
                )
                .await?;
            }
            dir.unpin()?;
            // Its absence says that nothing is left to give back.
            std::fs::remove_dir_all(dir.file("ns")).map_err(Error::file("remove folder", dir.file("ns")))
        };
        tokio::try_join!(mark, release).map(drop)
    }

    pub(crate) async fn remove_sandbox(self: Arc<Self>, id: String) -> Result<()> {
        let Ok(sandbox) = self.table.sandbox(&id) else {
            return Ok(());
        };
        let _changing = sandbox.changing.lock().await;
        self.stop_sandbox_now(&sandbox).await?;
        let containers = self.table.containers_of(&sandbox.id);
        try_join_all(containers.iter().map(|container| self.remove(container))).await?;
        // The folder first: a folder without an object looks like an unfinished sandbox at the next start.
        SandboxDir::new(&self.config.state_dir, &sandbox.id).remove()?;
        already_gone(self.containerd.delete_container(sandbox.id.as_str()).await)?;
        self.table.remove_sandbox(&sandbox.id);
        self.remove_cgroup_parent(&sandbox);
        Ok(())
    }

    /// The pod's cgroup, once no other sandbox uses it. What is not empty stays.
    fn remove_cgroup_parent(&self, sandbox: &Sandbox) {
        let parent = sandbox.cgroup_parent();
        if self
            .table
            .sandboxes()
            .iter()
            .all(|other| other.cgroup_parent() != parent)
        {
            self.cgroups.remove_empty(&parent);
            self.rates.forget(&parent);
        }
    }

    /// The containerd runtime of a handler.
    pub(crate) fn runtime(&self, handler: &str) -> Result<Runtime> {
        let name = if handler.is_empty() {
            &self.config.default_handler
        } else {
            handler
        };
        let Some(found) = self.config.handlers.get(name) else {
            let known: Vec<_> = self.config.handlers.keys().map(String::as_str).collect();
            let problem = format!("unknown handler {name:?}; known are {}", known.join(", "));
            return Err(Error::invalid("runtime_handler", problem));
        };
        Ok(crate::runtime_options::runtime(found))
    }

    /// For people (CRI, PodSandboxStatus with verbose).
    pub(crate) fn sandbox_info(&self, sandbox: &Sandbox) -> BTreeMap<String, String> {
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        let info = serde_json::json!({
            "networkNamespace": sandbox.wanted.net.then(|| dir.net()),
            "network": sandbox.detail.attachment,
            "cgroupParent": sandbox.cgroup_parent(),
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
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

fn write_files(
    dir: &SandboxDir,
    wanted: Wanted,
    config: &cri::PodSandboxConfig,
    detail: &SandboxDetail,
) -> Result<()> {
    let name = hostname(config);
    let read = |path: &str| sandbox_files::host_file(Path::new(path)).map_err(Error::file("read", path));
    let hosts = if wanted.net {
        sandbox_files::hosts(&name, detail.addresses())
    } else {
        read("/etc/hosts")?
    };
    let resolv_conf = match &config.dns_config {
        Some(dns) => sandbox_files::resolv_conf(dns),
        None => read("/etc/resolv.conf")?,
    };
    let hostname = if wanted.net {
        sandbox_files::hostname(&name)
    } else {
        read("/etc/hostname")?
    };
    for (file, text) in [
        ("hosts", hosts),
        ("resolv.conf", resolv_conf),
        ("hostname", hostname),
    ] {
        let path = dir.file(file);
        std::fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, None)]
    #[case(Some(""), None)]
    #[case(Some("0.0.0.0"), None)]
    #[case(Some("10.88.0.9"), Some("10.88.0.9"))]
    fn fixed_address_is_an_address_or_any(#[case] text: Option<&str>, #[case] expected: Option<&str>) {
        let mut config = cri::PodSandboxConfig::default();
        config
            .annotations
            .extend(text.map(|text| (FIXED_ADDRESS.to_owned(), text.to_owned())));
        let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(fixed_address(&config).unwrap(), expected);
    }

    #[test]
    fn what_is_no_address_is_refused_by_the_annotations_name() {
        let annotations = [(FIXED_ADDRESS.to_owned(), "ten".to_owned())].into();
        let config = cri::PodSandboxConfig {
            annotations,
            ..Default::default()
        };
        let error = fixed_address(&config).unwrap_err().to_string();
        assert!(error.contains("clone8s.io/pod-ip"), "{error}");
    }

    #[test]
    fn only_ports_of_the_host_are_mapped() {
        let mapping = |host_port| cri::PortMapping {
            host_port,
            container_port: 80,
            ..Default::default()
        };
        let mut config = cri::PodSandboxConfig {
            port_mappings: vec![mapping(0), mapping(8080)],
            ..Default::default()
        };
        let mapped = port_mappings(&config).unwrap();
        assert_eq!(mapped.len(), 1);
        assert_eq!((mapped[0].host_port, mapped[0].container_port), (8080, 80));
        config.port_mappings.push(mapping(70_000));
        assert!(port_mappings(&config).is_err());
    }

    #[rstest]
    #[case("", "/clone8s/s1")]
    #[case("kubepods/pod1", "/kubepods/pod1")]
    #[case("/kubepods/pod1/", "/kubepods/pod1")]
    fn cgroup_parent_is_the_callers_or_the_sandboxs_own(#[case] given: &str, #[case] expected: &str) {
        let config = cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: given.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(cgroup_parent(&config, &SandboxId::from("s1")), expected);
    }

    #[test]
    fn a_shared_process_namespace_is_refused_by_name() {
        let shared = cri::NamespaceOption {
            pid: cri::NamespaceMode::Pod.into(),
            ..Default::default()
        };
        let error = Wanted::from_options(&shared).unwrap_err().to_string();
        assert!(error.contains("namespace_options.pid"), "{error}");
    }
}
