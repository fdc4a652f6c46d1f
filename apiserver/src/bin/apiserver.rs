//! The apiserver as a program of its own.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use clone8s_apiserver::{Config, HistoryArgs, KeyPairFiles, StoreConfig, TlsConfig};
use clone8s_bus::{EventBus, amqp::AmqpArgs, local::LocalBus};
use clone8s_daemon::{etcd::EtcdArgs, process, telemetry::Telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Validates, stores, lists, watches and publishes the objects of a cluster
#[derive(Debug, Parser)]
#[command(
    name = "apiserver",
    version,
    mut_arg("etcd", |etcd| etcd.help(
        "Endpoints of etcd, such as https://10.0.0.5:2379; may be given several times [default: a file in the data folder]"
    )),
    mut_arg("amqp", |amqp| amqp.help(
        "RabbitMQ, as amqps://user:password@host:5671/vhost, or amqp:// on this machine; better in the environment \
         than in the process list [default: changes are published to nobody]"
    )),
)]
struct Args {
    /// Folder for the cluster's certificates and, without etcd, its objects
    #[arg(
        long,
        env = "CLONE8S_DATA_DIR",
        default_value = "/var/lib/clone8s/apiserver",
        value_name = "FOLDER"
    )]
    data_dir: PathBuf,

    /// Unix socket for root, who may do everything through it
    #[arg(long, default_value = "/run/clone8s/apiserver.sock", value_name = "FILE")]
    socket: PathBuf,

    /// Address and port to serve over TLS too [default: the socket alone]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,

    /// DNS names and IP addresses of this server for its certificate, beside localhost
    #[arg(long, value_delimiter = ',', requires = "listen", value_name = "NAME,…")]
    server_names: Vec<String>,

    /// Server certificate (PEM) [default: made, signed by the cluster's root CA, and renewed]
    #[arg(long, requires_all = ["tls_key", "listen"], value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Key (PEM) of --tls-cert
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The cluster's root CA (PEM) [default: pki/ca.crt in the data folder, made where it is missing]
    #[arg(long, requires_all = ["ca_key", "listen"], value_name = "FILE")]
    ca_cert: Option<PathBuf>,

    /// Key (PEM) of --ca-cert, which signs the nodes' certificates
    #[arg(long, requires = "ca_cert", value_name = "FILE")]
    ca_key: Option<PathBuf>,

    /// Address and port for Prometheus metrics at http://…/metrics, open to whoever can connect [default: none]
    #[arg(long, value_name = "IP:PORT")]
    metrics_listen: Option<SocketAddr>,

    #[command(flatten)]
    etcd: EtcdArgs,

    #[command(flatten)]
    history: HistoryArgs,

    #[command(flatten)]
    amqp: AmqpArgs,

    #[command(flatten)]
    telemetry: Telemetry,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            store: StoreConfig::new(&args.etcd, args.data_dir.join("store.redb")),
            history: args.history,
            socket: args.socket,
            tls: args.listen.map(|address| TlsConfig {
                address,
                names: args.server_names,
                server: key_pair(args.tls_cert, args.tls_key),
                ca: key_pair(args.ca_cert, args.ca_key),
            }),
            metrics: args.metrics_listen,
            data_dir: args.data_dir,
        }
    }
}

/// The arguments require each of the two where the other is.
fn key_pair(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Option<KeyPairFiles> {
    certificate
        .zip(key)
        .map(|(certificate, key)| KeyPairFiles { certificate, key })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let telemetry = args.telemetry.clone();
    process::run(&telemetry, |shutdown| async move {
        // Inside the runtime, where the bus keeps its connection.
        let bus: Arc<dyn EventBus> = match args.amqp.connect()? {
            Some(bus) => Arc::new(bus),
            None => Arc::new(LocalBus::new()),
        };
        clone8s_apiserver::run(args.into(), bus, shutdown).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })
}
