//! The flags of `c8s up`.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use clone8s_apiserver::HistoryArgs;
use clone8s_bus::amqp::AmqpArgs;
use clone8s_daemon::etcd::EtcdArgs;
use clone8s_kubelet::config::NodeArgs;
use clone8s_runtime_shim::PodRanges;

use super::layout::{Cluster, Runtime};

pub(crate) const DEFAULT_RUN_DIR: &str = "/run/clone8s";
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/clone8s";

#[derive(Debug, Args)]
#[command(
    mut_arg("etcd", |etcd| etcd.help(
        "Endpoints of etcd, such as https://10.0.0.5:2379; may be given several times [default: a file in the data folder]"
    )),
    mut_arg("amqp", |amqp| amqp.help(
        "RabbitMQ, as amqps://user:password@host:5671/vhost, or amqp:// on this machine; better in the environment \
         than in the process list [default: changes stay in the process]"
    )),
)]
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

    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub history: HistoryArgs,
    #[command(flatten)]
    pub amqp: AmqpArgs,

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
    /// An image archive (OCI or Docker; .tar, .tar.gz or .tar.zst), or a folder of them, to import; may be given several times
    #[arg(long, value_name = "PATH")]
    pub image_archive: Vec<PathBuf>,

    #[command(flatten, next_help_heading = "The node")]
    pub node: NodeArgs,

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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::up::parts::kubelet_config;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        up: UpArgs,
    }

    fn up(flags: &[&str]) -> UpArgs {
        Program::try_parse_from([&["up", "--node-name", "n1"], flags].concat())
            .unwrap()
            .up
    }

    #[test]
    fn the_node_is_what_its_flags_say_in_the_places_of_the_cluster() {
        let args = up(&[
            "--data-dir",
            "/d",
            "--run-dir",
            "/r",
            "--pod-max-pids",
            "64",
            "--image-archives",
            "/a",
        ]);
        let cluster = args.cluster().unwrap();
        let kubelet = kubelet_config(&args, &cluster).unwrap();
        assert_eq!(kubelet.pod_max_pids, Some(64));
        assert_eq!(kubelet.image_archives.as_deref(), Some("/a".as_ref()));
        assert!(kubelet.data_dir.starts_with("/d") && kubelet.runtime_socket.starts_with("/r"));
        assert_eq!(kubelet.node_name, "n1");
    }

    #[test]
    fn a_node_whose_flags_contradict_each_other_is_refused() {
        let args = up(&["--image-gc-low-threshold", "90"]);
        let cluster = args.cluster().unwrap();
        let error = kubelet_config(&args, &cluster).unwrap_err().to_string();
        assert!(error.contains("--image-gc-low-threshold 90"), "{error}");
    }
}
