//! What an apiserver needs to know before it starts.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clone8s_daemon::etcd::EtcdArgs;

use crate::store::{
    History,
    etcd::{ClientIdentity, EtcdConfig},
};

/// Changes that are kept in etcd where nobody says: some hundred megabytes, in a database that takes 2 GB by default.
const ETCD_CHANGES: u32 = 250_000;

/// How one apiserver runs. Every path is taken as it is; folders that are missing are made.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keeps `pki/`: the cluster's certificates and keys, made where they are missing.
    pub data_dir: PathBuf,
    pub store: StoreConfig,
    pub history: HistoryArgs,
    /// The unix socket for root: whoever can open it may do everything.
    pub socket: PathBuf,
    /// Serve over TLS too; None means the unix socket alone.
    pub tls: Option<TlsConfig>,
    /// Serve Prometheus metrics at `http://<address>/metrics`; None means not at all.
    pub metrics: Option<SocketAddr>,
}

/// Where the objects are kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// One file on this machine.
    Embedded {
        path: PathBuf,
    },
    Etcd(EtcdConfig),
}

impl StoreConfig {
    /// The etcd of the flags, or the file where they give none.
    pub fn new(etcd: &EtcdArgs, file: PathBuf) -> Self {
        if etcd.etcd.is_empty() {
            return Self::Embedded { path: file };
        }
        let identity = etcd.identity();
        Self::Etcd(EtcdConfig {
            ca: etcd.etcd_ca.clone(),
            identity: identity.map(|(certificate, key)| ClientIdentity { certificate, key }),
            ..EtcdConfig::new(&etcd.etcd)
        })
    }
}

/// How much of the past is kept, as flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct HistoryArgs {
    /// Keep so many seconds of changes, for watches that resume and for a broker that is away [default: 7200]
    #[arg(long, value_parser = clap::value_parser!(u32).range(60..), value_name = "SECONDS")]
    history_age: Option<u32>,

    /// Keep so many changes at most [default: 10000 in a file, 250000 in etcd]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1_000..), value_name = "COUNT")]
    history_changes: Option<u32>,
}

impl HistoryArgs {
    pub(crate) fn of(&self, store: &StoreConfig) -> History {
        let History { changes, age } = History::default();
        let changes = match store {
            StoreConfig::Embedded { .. } => changes,
            StoreConfig::Etcd(_) => ETCD_CHANGES,
        };
        History {
            changes: self.history_changes.unwrap_or(changes),
            age: self
                .history_age
                .map_or(age, |seconds| Duration::from_secs(seconds.into())),
        }
    }
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct KeyPairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The TLS side of the API.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Port 0 takes any free port; [`crate::Apiserver::tls_address`] tells which.
    pub address: SocketAddr,
    /// DNS names and IP addresses in the server's certificate, beside localhost, 127.0.0.1 and ::1.
    pub names: Vec<String>,
    /// A server certificate made elsewhere; None means one signed by the cluster's root CA, and renewed.
    pub server: Option<KeyPairFiles>,
    /// The cluster's root CA made elsewhere, with its key, which signs the nodes' certificates;
    /// None means `pki/ca.crt` and `pki/ca.key` in the data folder.
    pub ca: Option<KeyPairFiles>,
}
