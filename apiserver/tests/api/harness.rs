//! An apiserver in a folder of its own, and words for what the tests say about it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clone8s::v1::{
    Container, Node, ObjectMeta, Pod, PodSpec, WatchPodsResponse,
    config_map_service_client::ConfigMapServiceClient, event_service_client::EventServiceClient,
    namespace_service_client::NamespaceServiceClient, node_service_client::NodeServiceClient,
    pod_service_client::PodServiceClient, registration_service_client::RegistrationServiceClient,
    secret_service_client::SecretServiceClient, tunnel_service_client::TunnelServiceClient,
};
use clone8s_apiserver::{
    Apiserver, Config, Error, HistoryArgs, StoreConfig, TlsConfig, store::embedded::OpenError,
};
use clone8s_bus::local::LocalBus;
use clone8s_daemon::{Shutdown, unix};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) dir: TempDir,
    pub(crate) tls_address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    shutdown: Shutdown,
    running: JoinSet<Result<(), Error>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir).await
    }

    /// On the folder of one that was stopped.
    pub(crate) async fn start_in(dir: TempDir) -> Self {
        let shutdown = Shutdown::new();
        let deadline = Instant::now() + PATIENCE;
        let server = loop {
            let bus = Arc::new(LocalBus::new());
            match Apiserver::start(config(&dir), bus, shutdown.clone()).await {
                // In one process with the one before, whose open calls let go of the store a moment after its end.
                Err(Error::EmbeddedStore(OpenError::InUse(_))) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(10)).await;
                }
                started => break started.unwrap(),
            }
        };
        let tls_address = server.tls_address().unwrap();
        let metrics_address = server.metrics_address().unwrap();
        let mut running = JoinSet::new();
        running.spawn(server.serve());
        Self {
            dir,
            tls_address,
            metrics_address,
            shutdown,
            running,
        }
    }

    /// Stops it as SIGTERM does, and fails when that takes long or leaves an error.
    pub(crate) async fn stop(mut self) -> TempDir {
        self.shutdown.cancel();
        let ended = timeout(PATIENCE, self.running.join_next()).await;
        ended
            .expect("the apiserver stops in time")
            .unwrap()
            .unwrap()
            .unwrap();
        self.dir
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.file(path)).unwrap()
    }

    /// As root, by the unix socket.
    pub(crate) fn root(&self) -> Channel {
        unix::channel(self.file("run/api.sock"))
    }

    /// By TLS, with a client certificate or without.
    pub(crate) async fn tls(&self, identity: Option<(&str, &str)>) -> Channel {
        self.try_tls(&self.read("data/pki/ca.crt"), identity)
            .await
            .unwrap()
    }

    pub(crate) async fn try_tls(
        &self,
        ca: &str,
        identity: Option<(&str, &str)>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .domain_name("localhost");
        if let Some((certificate, key)) = identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        Endpoint::from_shared(format!("https://{}", self.tls_address))
            .unwrap()
            .tls_config(config)
            .unwrap()
            .connect()
            .await
    }

    pub(crate) async fn admin(&self) -> Channel {
        let (certificate, key) = (self.read("data/pki/admin.crt"), self.read("data/pki/admin.key"));
        self.tls(Some((&certificate, &key))).await
    }

    /// A node that has joined, by TLS with its own certificate.
    pub(crate) async fn joined(&self, name: &str) -> Channel {
        let identity = crate::registration::join(self, name).await;
        self.tls(Some((&identity.certificate, &identity.key))).await
    }
}

pub(crate) fn config(dir: &TempDir) -> Config {
    Config {
        data_dir: dir.path().join("data"),
        store: StoreConfig::Embedded {
            path: dir.path().join("data/store.db"),
        },
        history: HistoryArgs::default(),
        socket: dir.path().join("run/api.sock"),
        tls: Some(TlsConfig {
            address: ([127, 0, 0, 1], 0).into(),
            names: vec![],
            server: None,
            ca: None,
        }),
        metrics: Some(([127, 0, 0, 1], 0).into()),
    }
}

pub(crate) fn pods(channel: &Channel) -> PodServiceClient<Channel> {
    PodServiceClient::new(channel.clone())
}
pub(crate) fn nodes(channel: &Channel) -> NodeServiceClient<Channel> {
    NodeServiceClient::new(channel.clone())
}
pub(crate) fn namespaces(channel: &Channel) -> NamespaceServiceClient<Channel> {
    NamespaceServiceClient::new(channel.clone())
}
pub(crate) fn config_maps(channel: &Channel) -> ConfigMapServiceClient<Channel> {
    ConfigMapServiceClient::new(channel.clone())
}
pub(crate) fn secrets(channel: &Channel) -> SecretServiceClient<Channel> {
    SecretServiceClient::new(channel.clone())
}
pub(crate) fn events(channel: &Channel) -> EventServiceClient<Channel> {
    EventServiceClient::new(channel.clone())
}
pub(crate) fn registration(channel: &Channel) -> RegistrationServiceClient<Channel> {
    RegistrationServiceClient::new(channel.clone())
}
pub(crate) fn tunnel(channel: &Channel) -> TunnelServiceClient<Channel> {
    TunnelServiceClient::new(channel.clone())
}

pub(crate) fn meta(name: &str) -> Option<ObjectMeta> {
    Some(ObjectMeta {
        name: name.into(),
        ..ObjectMeta::default()
    })
}

pub(crate) fn labelled(name: &str, labels: &[(&str, &str)]) -> Option<ObjectMeta> {
    Some(ObjectMeta {
        name: name.into(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..ObjectMeta::default()
    })
}

pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        metadata: meta(name),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".into(),
                image: "registry.example/app:1".into(),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}

pub(crate) fn pod_on(name: &str, node: &str) -> Pod {
    let mut pod = pod(name);
    pod.spec.get_or_insert_default().node_name = node.into();
    pod
}

pub(crate) fn node(name: &str) -> Node {
    Node {
        metadata: meta(name),
        ..Node::default()
    }
}

pub(crate) async fn create_pod(channel: &Channel, pod: Pod) -> Pod {
    try_create_pod(channel, pod).await.unwrap()
}

pub(crate) async fn try_create_pod(channel: &Channel, pod: Pod) -> Result<Pod, Status> {
    let request = clone8s::v1::CreatePodRequest {
        pod: Some(pod),
        ..Default::default()
    };
    Ok(pods(channel).create_pod(request).await?.into_inner().pod.unwrap())
}

pub(crate) async fn get_pod(channel: &Channel, name: &str) -> Result<Pod, Status> {
    let request = clone8s::v1::GetPodRequest {
        namespace: String::new(),
        name: name.into(),
    };
    Ok(pods(channel).get_pod(request).await?.into_inner().pod.unwrap())
}

pub(crate) async fn create_node(channel: &Channel, name: &str) -> Node {
    let request = clone8s::v1::CreateNodeRequest {
        node: Some(node(name)),
        ..Default::default()
    };
    nodes(channel)
        .create_node(request)
        .await
        .unwrap()
        .into_inner()
        .node
        .unwrap()
}

/// The next message of a watch that is not a bookmark.
pub(crate) async fn next(watch: &mut Streaming<WatchPodsResponse>) -> Result<WatchPodsResponse, Status> {
    loop {
        let message = timeout(PATIENCE, watch.message())
            .await
            .expect("the watch says something in time")?
            .expect("the watch does not end without an error");
        if message.r#type() != clone8s::v1::WatchEventType::Bookmark {
            return Ok(message);
        }
    }
}

/// The status's code and the reason in its ErrorInfo.
pub(crate) fn told(status: &Status) -> (Code, String) {
    let details = details(status);
    let info = details.error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, clone8s_apiserver::ERROR_DOMAIN);
    (status.code(), info.reason.clone())
}

pub(crate) fn details(status: &Status) -> ErrorDetails {
    status.check_error_details().unwrap()
}

/// A server with node n1 and a pod "web" on it.
pub(crate) async fn running() -> (Server, Channel, Pod) {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let pod = create_pod(&root, pod_on("web", "n1")).await;
    (server, root, pod)
}
