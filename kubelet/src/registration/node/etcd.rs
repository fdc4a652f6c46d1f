//! Writes the Node of a stand-alone kubelet straight into an etcd, verified against its root CA.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clone8s::{
    object::{Object as _, store_key},
    v1::{Node, NodeSpec},
};
use clone8s_daemon::{clock, etcd::value, supervisor::chain};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Identity, TlsOptions, Txn, TxnOp,
};
use prost::Message as _;
use tokio::time::timeout;
use uuid::Uuid;

use crate::{config::EtcdConfig, timestamp::timestamp};

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(10);
/// etcd refuses to be pinged more often than every 5 seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Why an etcd cannot be written to. None of these goes away by waiting.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("no etcd endpoint is given; give at least one, such as https://127.0.0.1:2379")]
    NoEndpoint,
    #[error("{0}: an etcd is spoken to over TLS alone; write it as https://<host>:<port>")]
    NotTls(String),
    #[error("cannot read {path}", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

pub(super) struct EtcdSink {
    endpoints: Vec<String>,
    tls: TlsOptions,
    /// Made at the first write.
    client: Option<Client>,
}

impl std::fmt::Debug for EtcdSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdSink")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl EtcdSink {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, EtcdError> {
        if config.endpoints.is_empty() {
            return Err(EtcdError::NoEndpoint);
        }
        if let Some(endpoint) = config
            .endpoints
            .iter()
            .find(|endpoint| !endpoint.starts_with("https://"))
        {
            return Err(EtcdError::NotTls(endpoint.clone()));
        }
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&config.ca_file)?));
        if let Some((certificate, key)) = &config.client_identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(Self {
            endpoints: config.endpoints.clone(),
            tls,
            client: None,
        })
    }

    pub(super) async fn write(&mut self, node: &Node) -> Result<(), String> {
        let endpoints = self.endpoints.join(", ");
        let outcome = match timeout(DEADLINE, self.try_to_write(node)).await {
            Ok(Ok(Written::Yes)) => return Ok(()),
            Ok(Ok(Written::Raced)) => "another program writes this node at the same time".to_owned(),
            Ok(Ok(Written::Unreadable)) => "holds something else at this node's key".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_) => "does not answer".to_owned(),
        };
        Err(format!("etcd at {endpoints}: {outcome}"))
    }

    async fn try_to_write(&mut self, node: &Node) -> Result<Written, etcd_client::Error> {
        let mut client = match &self.client {
            Some(client) => client.clone(),
            None => self.connect().await?,
        };
        self.client = Some(client.clone());
        let key = store_key::<Node>("", node.name());
        let found = client.get(key.as_str(), None).await?;
        let (stored, revision) = match found.kvs().first() {
            Some(kv) => match Node::decode(value::read(kv.value()).0) {
                Ok(stored) => (Some(stored), kv.mod_revision()),
                Err(_) => return Ok(Written::Unreadable),
            },
            None => (None, 0),
        };
        let value = merged(stored, node, Uuid::new_v4()).encode_to_vec();
        let transaction = Txn::new()
            .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, revision)])
            .and_then([TxnOp::put(key, value, None)]);
        let answer = client.txn(transaction).await?;
        Ok(if answer.succeeded() {
            Written::Yes
        } else {
            Written::Raced
        })
    }

    async fn connect(&self) -> Result<Client, etcd_client::Error> {
        let options = ConnectOptions::new()
            .with_tls(self.tls.clone())
            .with_connect_timeout(CONNECT_DEADLINE)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(true);
        Client::connect(&self.endpoints, Some(options)).await
    }
}

enum Written {
    Yes,
    Raced,
    Unreadable,
}

/// What is stored, with this node's labels and status. The same rules as the apiserver's: uid and creation stay, and
/// the store's own revision is the only one.
fn merged(stored: Option<Node>, reported: &Node, fresh: Uuid) -> Node {
    let mut node = stored.unwrap_or_else(|| {
        let mut node = Node {
            spec: Some(NodeSpec::default()),
            ..Node::default()
        };
        let meta = node.metadata_mut();
        reported.name().clone_into(&mut meta.name);
        meta.uid = fresh.to_string();
        meta.generation = 1;
        meta.creation_timestamp = Some(timestamp(clock::now()));
        node
    });
    let labels = reported
        .metadata()
        .map(|meta| meta.labels.clone())
        .unwrap_or_default();
    let meta = node.metadata_mut();
    meta.labels.extend(labels);
    meta.resource_version = 0;
    node.status.clone_from(&reported.status);
    node
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    fs::read(path).map_err(|cause| EtcdError::Read {
        path: path.to_owned(),
        cause,
    })
}

#[cfg(test)]
mod tests;
