//! What a kubelet is told when it starts.

mod args;
mod reserved;

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

pub use self::{
    args::{NodeArgs, ThresholdsError},
    reserved::Reserved,
};

use crate::{images::ImagePolicy, logs::KeptLogs, sysctls::SysctlPattern};

/// The settings of one kubelet. [`Config::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// A DNS label, one per node in a cluster.
    pub node_name: String,
    /// The socket of any CRI v1 runtime.
    pub runtime_socket: PathBuf,
    /// The folder whose manifests the node runs; None for none.
    pub manifest_folder: Option<PathBuf>,
    /// The folder of config maps and secrets for pods of the manifest folder and of the queue; None for none.
    pub config_objects: Option<PathBuf>,
    /// The folder of image archives that the runtime is to have; None for none.
    pub image_archives: Option<PathBuf>,
    /// Where the kubelet keeps what must outlive it: checkpoints, volumes, certificates.
    pub data_dir: PathBuf,
    /// Container logs: `<root>/<namespace>_<name>_<uid>/<container>/<restart>.log`.
    pub log_root: PathBuf,
    /// What is kept of the logs of pods that are gone.
    pub kept_logs: KeptLogs,
    /// The apiserver; None for a stand-alone node.
    pub apiserver: Option<Apiserver>,
    /// The root CA (PEM) that the apiserver's certificate must chain to; None means the one that the join token pins.
    pub apiserver_ca: Option<PathBuf>,
    /// The one-time token that a node without a certificate joins with, or where to read it.
    pub join_token: Option<JoinToken>,
    /// Where a node without an apiserver puts its Node object; None for nowhere.
    pub etcd: Option<EtcdConfig>,
    pub intervals: Intervals,
    pub images: ImagePolicy,
    /// The most images that are pulled at a time; the others wait, the first that was asked for first.
    pub max_parallel_pulls: NonZeroU32,
    pub reserved: Reserved,
    /// The folder that pods' seccomp profiles are below; None for `seccomp` in the data folder.
    pub seccomp_profile_root: Option<PathBuf>,
    /// Parameters of the kernel that pods may set although they are not safe.
    pub allowed_unsafe_sysctls: Vec<SysctlPattern>,
    /// What full names of pods end in.
    pub cluster_domain: String,
    /// The cgroup above all pods; None leaves pods' cgroups to the runtime.
    pub cgroup_root: Option<String>,
    /// The most processes and threads of one pod; None is no limit.
    pub pod_max_pids: Option<u32>,
}

/// How to reach an apiserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Apiserver {
    /// The root-only socket of an apiserver on this machine: no certificates.
    Socket(PathBuf),
    /// `https://host:port`.
    Url(String),
}

/// A secret: its Debug output hides it.
#[derive(Clone, PartialEq, Eq)]
pub enum JoinToken {
    Literal(String),
    File(PathBuf),
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(hidden)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// An etcd that holds the Node of a stand-alone kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `https://host:port`, at least one.
    pub endpoints: Vec<String>,
    /// The root CA (PEM) that etcd's certificate must chain to.
    pub ca_file: PathBuf,
    /// The client certificate and its key (PEM), where etcd asks for one.
    pub client_identity: Option<(PathBuf, PathBuf)>,
}

/// How often, how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intervals {
    /// Between lists of everything that runs, while the runtime sends events. Without events: 1 second at most.
    pub relist: Duration,
    /// The first wait before a container is started again; it doubles up to `backoff_max`.
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    /// A container that ran this long starts over with no wait.
    pub backoff_reset: Duration,
    /// Between renewals of the node's lease, by which it says that it lives.
    pub heartbeat: Duration,
    /// Between reports of the node's status while none of its conditions changes.
    pub node_status: Duration,
    /// Between samples of the node's and its containers' use of resources.
    pub stats: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            relist: Duration::from_secs(10),
            backoff_base: Duration::from_secs(10),
            backoff_max: Duration::from_mins(5),
            backoff_reset: Duration::from_mins(10),
            heartbeat: Duration::from_secs(10),
            node_status: Duration::from_mins(1),
            stats: Duration::from_secs(10),
        }
    }
}

pub const DEFAULT_RUNTIME_SOCKET: &str = "/run/clone8s/shim.sock";
pub const DEFAULT_DATA_DIR: &str = "/var/lib/clone8s/kubelet";
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
pub const DEFAULT_CGROUP_ROOT: &str = "/clone8s";
/// One large image holds up few others, and they do not starve each other of the line.
pub const DEFAULT_PARALLEL_PULLS: NonZeroU32 = NonZeroU32::new(4).expect("not zero");
pub const DEFAULT_LOG_ROOT: &str = "/var/log/clone8s/pods";

impl Config {
    /// A stand-alone kubelet with every default.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            runtime_socket: DEFAULT_RUNTIME_SOCKET.into(),
            manifest_folder: None,
            config_objects: None,
            image_archives: None,
            data_dir: DEFAULT_DATA_DIR.into(),
            log_root: DEFAULT_LOG_ROOT.into(),
            kept_logs: KeptLogs {
                time: Duration::from_mins(5),
                room: 1 << 30,
            },
            apiserver: None,
            apiserver_ca: None,
            join_token: None,
            etcd: None,
            intervals: Intervals::default(),
            images: ImagePolicy::default(),
            max_parallel_pulls: DEFAULT_PARALLEL_PULLS,
            reserved: Reserved::default(),
            seccomp_profile_root: None,
            allowed_unsafe_sysctls: Vec::new(),
            cluster_domain: DEFAULT_CLUSTER_DOMAIN.to_owned(),
            cgroup_root: Some(DEFAULT_CGROUP_ROOT.to_owned()),
            pod_max_pids: None,
        }
    }

    pub fn seccomp_profiles(&self) -> PathBuf {
        let own = self.seccomp_profile_root.clone();
        own.unwrap_or_else(|| self.data_dir.join("seccomp"))
    }
}
