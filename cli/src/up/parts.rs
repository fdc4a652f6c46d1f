//! The services of a cluster, wired together in one process: each is what runs as a program of its own elsewhere.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use clone8s_apiserver::{Apiserver, StoreConfig, TlsConfig};
use clone8s_bus::{EventBus, local::LocalBus};
use clone8s_daemon::{Supervisor, unix};
use clone8s_kubelet::config::Apiserver as KubeletApiserver;
use clone8s_runtime_shim::NetworkConfig;

use super::{args::UpArgs, layout::Cluster};

/// Binds the apiserver's sockets, so that an address in use is told at once, then starts everything.
pub(super) async fn start(
    args: &UpArgs,
    cluster: &Cluster,
    kubelet: clone8s_kubelet::Config,
    supervisor: &mut Supervisor,
) -> Result<()> {
    let shutdown = supervisor.shutdown().clone();
    let bus = bus(args)?;
    supervisor.spawn(
        "runtime-shim",
        clone8s_runtime_shim::run(shim_config(args, cluster), shutdown.clone()),
    );
    let apiserver = Apiserver::start(
        apiserver_config(args, cluster),
        Arc::clone(&bus),
        shutdown.clone(),
    )
    .await?;
    supervisor.spawn("apiserver", apiserver.serve());
    let controllers = clone8s_controllers::Config {
        channel: unix::channel(cluster.layout().apiserver_socket()).into(),
        node_grace_period: clone8s_controllers::NODE_GRACE_PERIOD,
    };
    supervisor.spawn(
        "controllers",
        clone8s_controllers::run(controllers, shutdown.clone()),
    );
    supervisor.spawn("kubelet", clone8s_kubelet::run(kubelet, Some(bus), shutdown));
    Ok(())
}

fn bus(args: &UpArgs) -> Result<Arc<dyn EventBus>> {
    Ok(match args.amqp.connect().context("--amqp")? {
        Some(bus) => Arc::new(bus),
        None => Arc::new(LocalBus::new()),
    })
}

fn apiserver_config(args: &UpArgs, cluster: &Cluster) -> clone8s_apiserver::Config {
    let layout = cluster.layout();
    clone8s_apiserver::Config {
        data_dir: layout.apiserver_data(),
        store: StoreConfig::new(&args.etcd, layout.apiserver_data().join("store.redb")),
        history: args.history.clone(),
        socket: layout.apiserver_socket(),
        tls: args.listen.map(|address| TlsConfig {
            address,
            names: args.tls_name.clone(),
            server: None,
            ca: None,
        }),
        metrics: None,
    }
}

/// The kubelet's own places, and all that its flags say of the node.
pub(super) fn kubelet_config(args: &UpArgs, cluster: &Cluster) -> Result<clone8s_kubelet::Config> {
    let layout = cluster.layout();
    Ok(clone8s_kubelet::Config {
        runtime_socket: layout.shim_socket(),
        data_dir: layout.kubelet_data(),
        log_root: layout.logs().join("pods"),
        apiserver: Some(KubeletApiserver::Socket(layout.apiserver_socket())),
        ..args.node.clone().config(cluster.node_name.clone())?
    })
}

fn shim_config(args: &UpArgs, cluster: &Cluster) -> clone8s_runtime_shim::Config {
    clone8s_runtime_shim::Config {
        archives: args.image_archive.clone(),
        ..teardown_config(cluster)
    }
}

/// What the shim needs to know to take everything down.
pub(super) fn teardown_config(cluster: &Cluster) -> clone8s_runtime_shim::Config {
    let layout = cluster.layout();
    clone8s_runtime_shim::Config {
        containerd: cluster.containerd_socket(),
        listen: layout.shim_socket(),
        state_dir: layout.shim_state(),
        root_dir: layout.shim_data(),
        network: NetworkConfig {
            conf_dir: layout.cni_conf(),
            pod_cidr: cluster.pod_cidr.clone(),
            bridge_name: cluster.bridge.clone(),
            ..NetworkConfig::default()
        },
        ..clone8s_runtime_shim::Config::default()
    }
}
