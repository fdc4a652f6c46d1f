//! The kubelet as a program of its own.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use clap::Parser;
use clone8s_bus::{EventBus, amqp::AmqpArgs};
use clone8s_daemon::{etcd::EtcdArgs, process, telemetry::Telemetry};
use clone8s_kubelet::{
    Config,
    config::{
        Apiserver, DEFAULT_DATA_DIR, DEFAULT_LOG_ROOT, DEFAULT_RUNTIME_SOCKET, EtcdConfig, JoinToken,
        NodeArgs,
    },
};

/// Makes the containers of this node match its pods
///
/// Pods come from a folder of manifests, from an API server, and from the node's AMQP queue, each where it is
/// given. Stopping the kubelet stops no container.
#[derive(Debug, Parser)]
#[command(
    name = "kubelet",
    version,
    max_term_width = 100,
    mut_arg("etcd", |etcd| etcd.requires("etcd_ca").conflicts_with("apiserver").help(
        "Endpoints of an etcd where a node without an API server registers, such as https://10.0.0.5:2379; may be given \
         several times [default: none]"
    )),
)]
struct Cli {
    /// This node's name, a DNS label [default: the hostname]
    #[arg(long, env = "CLONE8S_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Socket of the container runtime: ours, or any other of CRI v1
    #[arg(long, env = "CLONE8S_RUNTIME", default_value = DEFAULT_RUNTIME_SOCKET, value_name = "PATH")]
    runtime: PathBuf,
    /// Folder for what must outlive the kubelet: checkpoints, volumes, certificates
    #[arg(long, default_value = DEFAULT_DATA_DIR, value_name = "FOLDER")]
    data_dir: PathBuf,
    /// Folder for the logs of containers
    #[arg(long, default_value = DEFAULT_LOG_ROOT, value_name = "FOLDER")]
    log_root: PathBuf,

    /// API server: https://host:port, or the path of its unix socket [default: none, the node stands alone]
    #[arg(long, env = "CLONE8S_APISERVER", value_name = "ADDRESS")]
    apiserver: Option<String>,
    /// Root CA (PEM) that the API server's certificate is verified against [default: the one that the join token pins]
    #[arg(long, requires = "apiserver", value_name = "FILE")]
    apiserver_ca: Option<PathBuf>,
    /// One-time token to join the cluster with; better in the environment or a file than in the process list
    #[arg(
        long,
        env = "CLONE8S_JOIN_TOKEN",
        hide_env_values = true,
        requires = "apiserver",
        conflicts_with = "join_token_file",
        value_name = "TOKEN"
    )]
    join_token: Option<String>,
    /// File that holds the join token
    #[arg(long, requires = "apiserver", value_name = "FILE")]
    join_token_file: Option<PathBuf>,

    #[command(flatten)]
    amqp: AmqpArgs,

    #[command(flatten)]
    etcd: EtcdArgs,

    #[command(flatten)]
    node: NodeArgs,

    #[command(flatten)]
    telemetry: Telemetry,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let telemetry = cli.telemetry.clone();
    process::run(&telemetry, |shutdown| async move {
        let bus = bus(&cli)?;
        let config = config(cli)?;
        clone8s_kubelet::run(config, bus, shutdown).await?;
        anyhow::Ok(())
    })
}

fn bus(cli: &Cli) -> anyhow::Result<Option<Arc<dyn EventBus>>> {
    let bus = cli.amqp.connect().context("--amqp")?;
    Ok(bus.map(|bus| Arc::new(bus) as Arc<dyn EventBus>))
}

fn config(cli: Cli) -> anyhow::Result<Config> {
    let node_name = match cli.node_name {
        Some(name) => name,
        None => hostname()?,
    };
    if let Err(reason) = clone8s::names::check_dns_label(&node_name) {
        bail!("node name {node_name:?} {reason}; give another with --node-name");
    }
    let join_token = match (cli.join_token, cli.join_token_file) {
        (Some(token), _) => Some(JoinToken::Literal(token)),
        (None, file) => file.map(JoinToken::File),
    };
    let client_identity = cli.etcd.identity();
    let etcd = cli.etcd.etcd_ca.map(|ca_file| EtcdConfig {
        endpoints: cli.etcd.etcd,
        ca_file,
        client_identity,
    });
    Ok(Config {
        runtime_socket: cli.runtime,
        data_dir: cli.data_dir,
        log_root: cli.log_root,
        apiserver: cli.apiserver.map(apiserver).transpose()?,
        apiserver_ca: cli.apiserver_ca,
        join_token,
        etcd,
        ..cli.node.config(node_name)?
    })
}

fn apiserver(address: String) -> anyhow::Result<Apiserver> {
    if address.starts_with("https://") {
        return Ok(Apiserver::Url(address));
    }
    if address.starts_with('/') {
        return Ok(Apiserver::Socket(address.into()));
    }
    bail!("--apiserver {address:?}: write https://host:port, or the absolute path of a unix socket");
}

/// The hostname up to its first dot, in lower case: a DNS label where it can be one.
fn hostname() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the hostname; give --node-name")?;
    let label = name.trim().split('.').next().unwrap_or_default();
    Ok(label.to_ascii_lowercase().replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Args as _, CommandFactory as _};

    use super::*;

    fn parse(arguments: &[&str]) -> anyhow::Result<Config> {
        let arguments = [&["kubelet"], arguments].concat();
        config(Cli::try_parse_from(arguments)?)
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    /// `c8s up` takes the flags of `NodeArgs` as they are. What is not among them is said here: it has to be something that
    /// `c8s up` knows by itself.
    #[test]
    fn what_is_said_of_a_node_is_said_by_the_flags_that_every_program_shares() {
        let names = |command: clap::Command| -> BTreeSet<String> {
            let arguments = command.get_arguments();
            arguments.map(|argument| argument.get_id().to_string()).collect()
        };
        let shared = names(NodeArgs::augment_args(clap::Command::new("shared")));
        let others = [
            AmqpArgs::augment_args(clap::Command::new("amqp")),
            EtcdArgs::augment_args(clap::Command::new("etcd")),
            Telemetry::augment_args(clap::Command::new("telemetry")),
        ];
        let others: BTreeSet<_> = others.into_iter().flat_map(names).collect();
        let all = names(Cli::command());
        let own: Vec<_> = all
            .iter()
            .filter(|name| !shared.contains(*name) && !others.contains(*name))
            .collect();
        let places = ["data_dir", "log_root", "node_name", "runtime"];
        let apiserver = ["apiserver", "apiserver_ca", "join_token", "join_token_file"];
        let mut expected: Vec<_> = places.iter().chain(&apiserver).collect();
        expected.sort();
        assert_eq!(own, expected);
    }

    #[test]
    fn an_address_is_a_url_or_a_socket() {
        let of = |address| parse(&["--node-name", "n1", "--apiserver", address]);
        let url = of("https://api:7443").unwrap().apiserver;
        assert_eq!(url, Some(Apiserver::Url("https://api:7443".into())));
        let socket = of("/run/api.sock").unwrap().apiserver;
        assert_eq!(socket, Some(Apiserver::Socket("/run/api.sock".into())));
        let error = of("http://api:7443").unwrap_err().to_string();
        assert!(error.contains("https://host:port"), "{error}");
    }

    #[test]
    fn a_node_name_is_a_dns_label() {
        let error = parse(&["--node-name", "Node 1"]).unwrap_err().to_string();
        assert!(error.contains("--node-name"), "{error}");
    }

    #[test]
    fn an_etcd_needs_its_root_ca() {
        parse(&["--node-name", "n1", "--etcd", "https://e:2379"]).unwrap_err();
        let config = parse(&[
            "--node-name",
            "n1",
            "--etcd",
            "https://e:2379",
            "--etcd-ca",
            "/ca",
        ])
        .unwrap();
        assert_eq!(config.etcd.unwrap().endpoints, ["https://e:2379"]);
    }
}
