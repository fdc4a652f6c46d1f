//! What a shim is told at its start, with every default in one place.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::Ipv4Net;

pub use self::ranges::PodRanges;

mod ranges;

/// The handlers that are always there, by the names of their programs.
pub(crate) const RUNC: &str = "runc";
pub(crate) const CRUN: &str = "crun";

/// Everything that [`crate::run`] and [`crate::teardown`] need to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// containerd's gRPC socket.
    pub containerd: PathBuf,
    /// The containerd namespace that holds all of the shim's objects. Nothing else should write to it.
    pub namespace: String,
    /// The unix socket to serve CRI on; root's alone (mode 0600).
    pub listen: PathBuf,
    /// Pinned namespaces, FIFOs and the files mounted into containers. Lost at a reboot, as they are.
    pub state_dir: PathBuf,
    /// What must outlive a reboot.
    pub root_dir: PathBuf,
    /// How pods get their addresses.
    pub network: NetworkConfig,
    /// Where the URLs of exec, attach and port-forward lead to.
    pub streams: StreamConfig,
    /// The containerd snapshotter for images and containers.
    pub snapshotter: String,
    /// The handler of sandboxes that ask for none; without one, crun where it is there, recent enough, and the host has
    /// cgroup v2 alone, else runc.
    pub default_handler: Option<String>,
    /// OCI runtimes by the handler name that CRI callers use.
    pub handlers: BTreeMap<String, RuntimeHandler>,
    /// Registries, as `host` or `host:port`, that are spoken to without TLS. Loopback ones always are.
    pub plain_http: BTreeSet<String>,
    /// Folders of Container Device Interface files; a later one comes before an earlier one.
    pub cdi_dirs: Vec<PathBuf>,
    /// Image archives to import at the start: files, or folders of `.tar` files, plain or packed
    /// (`.tar.gz`, `.tgz`, `.tar.zst`).
    pub archives: Vec<PathBuf>,
    /// How images are had from registries, and which of them stay.
    pub images: ImagesConfig,
}

impl Default for Config {
    fn default() -> Self {
        let handlers = [RUNC, CRUN].map(|name| (name.to_owned(), RuntimeHandler::own(Some(name))));
        Self {
            containerd: "/run/containerd/containerd.sock".into(),
            namespace: "clone8s".into(),
            listen: "/run/clone8s/shim.sock".into(),
            state_dir: "/run/clone8s/shim".into(),
            root_dir: "/var/lib/clone8s/shim".into(),
            network: NetworkConfig::default(),
            streams: StreamConfig::default(),
            snapshotter: "overlayfs".into(),
            default_handler: None,
            handlers: handlers.into(),
            plain_http: BTreeSet::new(),
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            archives: Vec::new(),
            images: ImagesConfig::default(),
        }
    }
}

impl Config {
    /// What is wrong with it, field and next step.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let default = self.default_handler.as_deref().unwrap_or(RUNC);
        if !self.handlers.contains_key(default) {
            let known: Vec<_> = self.handlers.keys().map(String::as_str).collect();
            return Err(format!(
                "default handler {default:?} is not among the handlers: {}",
                known.join(", ")
            ));
        }
        let bridge = &self.network.bridge_name;
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ']) {
            return Err(format!(
                "bridge name {bridge:?}: must be 1 to 15 characters without '/' and blanks"
            ));
        }
        if !(1..=100).contains(&self.images.downloads) {
            return Err(format!(
                "downloads {}: must be 1 to 100 at a time",
                self.images.downloads
            ));
        }
        self.streams.validate()
    }
}

/// Where CNI plugins and their configuration are, and the built-in network for hosts without any.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Folders to look for plugin binaries in, in order.
    pub plugin_dirs: Vec<PathBuf>,
    /// Network configuration lists (`.conflist`, `.conf`, `.json`); the first by name is used.
    pub conf_dir: PathBuf,
    /// The built-in network's addresses; the bridge gets the first of each range.
    pub pod_cidr: PodRanges,
    /// The built-in network's bridge, at most 15 characters.
    pub bridge_name: String,
    /// How long one CNI plugin may take. One that takes longer is killed.
    pub plugin_time_limit: Duration,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            plugin_dirs: vec![
                "/opt/cni/bin".into(),
                "/usr/lib/cni".into(),
                "/usr/libexec/cni".into(),
            ],
            conf_dir: "/etc/cni/net.d".into(),
            pod_cidr: Ipv4Net::new_assert([10, 88, 0, 0].into(), 16).into(),
            bridge_name: "c8s0".into(),
            plugin_time_limit: Duration::from_mins(1),
        }
    }
}

/// The server behind the URLs that CRI's Exec, Attach and PortForward give.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Address and port; port 0 takes any.
    pub address: SocketAddr,
    /// The host that the URLs name, where it is not the address.
    pub host: Option<String>,
    /// Needed for every address but the loopback's.
    pub tls: Option<StreamTls>,
}

/// Files in PEM; read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Only clients with a certificate of this CA are let in, where it is given.
    pub client_ca: Option<PathBuf>,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            host: None,
            tls: None,
        }
    }
}

/// How images are had from registries, and which of them stay.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Where registries have their mirrors, authorities and headers, in containerd's form: `<host>/hosts.toml`.
    pub hosts_dir: PathBuf,
    /// Credentials in docker's form, for pulls that bring none.
    pub auth_file: Option<PathBuf>,
    /// Images that are told as pinned, so that nobody collects them.
    pub pinned: BTreeSet<String>,
    /// Layers that come from one registry at a time, over all pulls; one pull takes half of them at most.
    pub downloads: usize,
    /// How long a registry may take to accept a connection.
    pub connect_limit: Duration,
    /// How long a registry may send nothing.
    pub silence_limit: Duration,
    /// What one image may take, packed or unpacked, in bytes.
    pub size_limit: u64,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            hosts_dir: "/etc/containerd/certs.d".into(),
            auth_file: None,
            pinned: BTreeSet::new(),
            downloads: 6,
            connect_limit: Duration::from_secs(10),
            silence_limit: Duration::from_mins(1),
            size_limit: 64 << 30,
        }
    }
}

impl StreamConfig {
    fn validate(&self) -> Result<(), String> {
        let Self { address, host, tls } = self;
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(format!(
                "stream address {address}: whoever sees a URL on the network could use it; give a certificate \
                 (--stream-tls-cert, --stream-tls-key) or an address of the loopback"
            ));
        }
        if host.is_none() && address.ip().is_unspecified() {
            return Err(format!(
                "stream address {address}: no URL can name it; give the host that callers reach (--stream-host)"
            ));
        }
        if let Some(host) = host
            && (host.is_empty() || host.contains(['/', '@', ' ', '?', '#']))
        {
            return Err(format!("stream host {host:?}: must be a name or an address"));
        }
        Ok(())
    }
}

/// One way to run containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeHandler {
    /// The containerd runtime, such as `io.containerd.runc.v2`, or the path of a shim.
    pub runtime: String,
    /// The OCI runtime's program, a name or a path; the containerd runtime's own choice when not given.
    pub binary: Option<String>,
}

impl RuntimeHandler {
    /// Our own shim, driving the OCI runtime `binary`: the program of its name beside this one, or this one.
    pub fn own(binary: Option<&str>) -> Self {
        let program = std::env::current_exe().unwrap_or_default();
        let small = program.with_file_name(clone8s_task_shim::NAME);
        let shim = if small.exists() { small } else { program };
        Self {
            runtime: shim.display().to_string(),
            binary: binary.map(str::to_owned),
        }
    }

    /// Whether its shim is ours, and knows what only ours knows.
    pub(crate) fn is_own(&self) -> bool {
        *self == Self::own(self.binary.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_leave_the_loopback_only_over_tls_and_with_a_host_to_name() {
        let tls = || {
            Some(StreamTls {
                certificate: "c.pem".into(),
                key: "k.pem".into(),
                client_ca: None,
            })
        };
        let check = |address: &str, host: Option<&str>, tls| {
            StreamConfig {
                address: address.parse().unwrap(),
                host: host.map(str::to_owned),
                tls,
            }
            .validate()
        };
        check("127.0.0.1:0", None, None).unwrap();
        check("[::1]:10010", None, None).unwrap();
        check("192.0.2.1:10010", None, tls()).unwrap();
        check("0.0.0.0:10010", Some("node-1"), tls()).unwrap();
        assert!(
            check("192.0.2.1:0", None, None)
                .unwrap_err()
                .contains("--stream-tls-cert")
        );
        assert!(
            check("0.0.0.0:0", None, tls())
                .unwrap_err()
                .contains("--stream-host")
        );
        assert!(check("127.0.0.1:0", Some("a/b"), None).is_err());
    }
}
