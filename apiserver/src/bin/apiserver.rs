//! The apiserver as a program of its own.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser;
use clone8s_apiserver::{
    Config, KeyPairFiles, StoreConfig, TlsConfig,
    store::etcd::{ClientIdentity, EtcdConfig},
};
use clone8s_bus::{
    EventBus,
    amqp::{self, AmqpBus, AmqpConfig},
    local::LocalBus,
};
use clone8s_daemon::{process, telemetry::Telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Validates, stores, lists, watches and publishes the objects of a cluster
#[derive(Debug, Parser)]
#[command(name = "apiserver", version)]
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

    /// Endpoints of etcd, such as https://10.0.0.5:2379 [default: a file in the data folder]
    #[arg(long, value_delimiter = ',', value_name = "URL,…")]
    etcd: Vec<String>,

    /// Root CA (PEM) that etcd's certificates are verified against
    #[arg(long, requires = "etcd", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,

    /// Client certificate (PEM) for etcd
    #[arg(long, requires_all = ["etcd", "etcd_key"], value_name = "FILE")]
    etcd_cert: Option<PathBuf>,

    /// Key (PEM) of --etcd-cert
    #[arg(long, requires = "etcd_cert", value_name = "FILE")]
    etcd_key: Option<PathBuf>,

    /// RabbitMQ, as amqps://user:password@host:port/vhost [default: changes are published to nobody]
    #[arg(long, env = "CLONE8S_AMQP", hide_env_values = true, value_name = "URL")]
    amqp: Option<String>,

    /// Root CA (PEM) that RabbitMQ's certificate is verified against
    #[arg(long, requires = "amqp", value_name = "FILE")]
    amqp_ca: Option<PathBuf>,

    /// Client certificate (PEM) for RabbitMQ
    #[arg(long, requires_all = ["amqp", "amqp_key"], value_name = "FILE")]
    amqp_cert: Option<PathBuf>,

    /// Key (PEM) of --amqp-cert
    #[arg(long, requires = "amqp_cert", value_name = "FILE")]
    amqp_key: Option<PathBuf>,

    #[command(flatten)]
    telemetry: Telemetry,
}

impl Args {
    fn bus(&self) -> Result<Arc<dyn EventBus>, amqp::ConfigError> {
        let Some(url) = &self.amqp else {
            return Ok(Arc::new(LocalBus::new()));
        };
        let identity = self.amqp_cert.clone().zip(self.amqp_key.clone());
        Ok(Arc::new(AmqpBus::connect(&AmqpConfig {
            ca: self.amqp_ca.clone(),
            identity: identity.map(|(certificate, key)| amqp::ClientIdentity { certificate, key }),
            ..AmqpConfig::new(url.as_str())
        })?))
    }
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        let store = if args.etcd.is_empty() {
            StoreConfig::Embedded {
                path: args.data_dir.join("store.redb"),
            }
        } else {
            StoreConfig::Etcd(EtcdConfig {
                ca: args.etcd_ca,
                identity: args
                    .etcd_cert
                    .zip(args.etcd_key)
                    .map(|(certificate, key)| ClientIdentity { certificate, key }),
                ..EtcdConfig::new(args.etcd)
            })
        };
        Self {
            store,
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
        let bus = args.bus()?;
        clone8s_apiserver::run(args.into(), bus, shutdown).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })
}
