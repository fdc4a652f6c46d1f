//! The flags of `c8s up`.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use anyhow::{Context as _, Result};
use clap::Args;
use clone8s_runtime_shim::PodRanges;

use super::layout::{Cluster, Runtime};

pub(crate) const DEFAULT_RUN_DIR: &str = "/run/clone8s";
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/clone8s";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s up                                     in the foreground, until Ctrl-C
  c8s up --detach                            in the background; returns when the node is ready
  c8s up --image-archive app.tar             with an image that no registry has
  c8s up --etcd https://10.0.0.5:2379 --etcd-ca ca.crt --etcd-cert c.crt --etcd-key c.key

Pods run on when this process ends, and are found again by the next. `c8s down` removes them.")]
pub struct UpArgs {
    /// Where everything is kept that must outlive a reboot
    #[arg(long, env = "CLONE8S_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where sockets and mounts are; `c8s down` removes it
    #[arg(long, env = "CLONE8S_RUN_DIR", default_value = DEFAULT_RUN_DIR, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// The node's name, a DNS label [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// A folder of manifests that the node runs without being asked by the API
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Keep objects in this etcd instead of a file in the data folder; may be given several times
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// The root CA of etcd's certificates, in PEM
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_ca: Option<PathBuf>,
    /// The client certificate for etcd, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["etcd", "etcd_key"])]
    pub etcd_cert: Option<PathBuf>,
    /// The client certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["etcd", "etcd_cert"])]
    pub etcd_key: Option<PathBuf>,
    /// Carry changes over this RabbitMQ instead of in process, such as amqps://user:password@host:5671/vhost
    #[arg(long, env = "CLONE8S_AMQP", hide_env_values = true, value_name = "URL")]
    pub amqp: Option<AmqpUrl>,
    /// The root CA of RabbitMQ's certificate, in PEM; needed with amqps
    #[arg(long, value_name = "FILE", requires = "amqp")]
    pub amqp_ca: Option<PathBuf>,
    /// The client certificate for RabbitMQ, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["amqp", "amqp_key"])]
    pub amqp_cert: Option<PathBuf>,
    /// The client certificate's key, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["amqp", "amqp_cert"])]
    pub amqp_key: Option<PathBuf>,

    /// Serve the API over TLS here too, such as 0.0.0.0:6443 [default: the root-only unix socket alone]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// A DNS name or IP address to put in the server's certificate; may be given several times
    #[arg(long, value_name = "NAME", requires = "listen")]
    pub tls_name: Vec<String>,

    /// Addresses for pods: a range of IPv4, one of IPv6, or both with a comma between them
    #[arg(long, value_name = "CIDR", default_value = "10.88.0.0/16")]
    pub pod_cidr: PodRanges,
    /// The bridge that pods are attached to, at most 15 characters
    #[arg(long, value_name = "NAME", default_value = "c8s0")]
    pub bridge: String,

    /// Use the containerd that serves this socket instead of starting one
    #[arg(long, value_name = "SOCKET")]
    pub containerd_socket: Option<PathBuf>,
    /// An image archive (OCI or Docker, .tar or .tar.gz), or a folder of them, to import; may be given several times
    #[arg(long, value_name = "PATH")]
    pub image_archive: Vec<PathBuf>,

    /// Start in the background, return when the node is ready; harmless when it is up already
    #[arg(long)]
    pub detach: bool,
    /// With --detach: give up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "detach")]
    pub timeout: u64,
    /// Leave the terminal's session: what --detach starts
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub session: bool,
}

/// An AMQP address, whose password does not show.
#[derive(Clone)]
pub struct AmqpUrl(String);

impl AmqpUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AmqpUrl(hidden)")
    }
}

impl FromStr for AmqpUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("amqp://") || text.starts_with("amqps://") {
            Ok(Self(text.to_owned()))
        } else {
            // The text may hold a password: it is not repeated.
            Err("must start with amqp:// or amqps://")
        }
    }
}

impl UpArgs {
    /// What the cluster is, with relative paths made absolute.
    pub(super) fn cluster(&self) -> Result<Cluster> {
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).with_context(|| format!("{}: not a path", path.display()))
        };
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => host_name(),
        };
        clone8s::names::check_dns_label(&node_name)
            .with_context(|| format!("node name {node_name:?}: choose another with --node-name"))?;
        Ok(Cluster {
            run_dir: absolute(&self.run_dir)?,
            data_dir: absolute(&self.data_dir)?,
            node_name,
            runtime: match &self.containerd_socket {
                Some(socket) => Runtime::Existing(absolute(socket)?),
                None => Runtime::Own,
            },
            bridge: self.bridge.clone(),
            pod_cidr: self.pod_cidr.clone(),
        })
    }
}

/// The first part of the host's name, as a DNS label.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    clone8s::names::slug(name.split('.').next().unwrap_or_default())
}
