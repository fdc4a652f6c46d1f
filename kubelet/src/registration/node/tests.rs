use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use clone8s::{
    object::Object as _,
    v1::{
        CreateNodeRequest, CreateNodeResponse, GetNodeRequest, GetNodeResponse, UpdateNodeRequest,
        UpdateNodeResponse, UpdateNodeStatusRequest, UpdateNodeStatusResponse,
        node_service_server::{NodeService, NodeServiceServer},
    },
};
use tokio::{task::JoinSet, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::config::Apiserver;

const SOON: Duration = Duration::from_secs(20);

/// Keeps nodes, as an apiserver does, and counts what is written.
#[derive(Clone)]
struct Nodes {
    nodes: Arc<Mutex<BTreeMap<String, Node>>>,
    heartbeats: Arc<watch::Sender<usize>>,
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap()
    }

    async fn after_heartbeats(&self, count: usize) -> Node {
        let mut heartbeats = self.heartbeats.subscribe();
        timeout(SOON, heartbeats.wait_for(|seen| *seen >= count))
            .await
            .expect("heartbeats")
            .unwrap();
        self.lock()["node-1"].clone()
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<GetNodeResponse>, Status> {
        let node = self.lock().get(&request.into_inner().name).cloned();
        let node = Some(node.ok_or_else(|| Status::not_found("no such node"))?);
        Ok(Response::new(GetNodeResponse { node }))
    }

    async fn create_node(
        &self,
        request: Request<CreateNodeRequest>,
    ) -> Result<Response<CreateNodeResponse>, Status> {
        let node = request.into_inner().node.unwrap();
        self.lock().insert(node.name().to_owned(), node.clone());
        Ok(Response::new(CreateNodeResponse { node: Some(node) }))
    }

    async fn update_node(
        &self,
        request: Request<UpdateNodeRequest>,
    ) -> Result<Response<UpdateNodeResponse>, Status> {
        let node = request.into_inner().node.unwrap();
        self.lock().insert(node.name().to_owned(), node.clone());
        Ok(Response::new(UpdateNodeResponse { node: Some(node) }))
    }

    async fn update_node_status(
        &self,
        request: Request<UpdateNodeStatusRequest>,
    ) -> Result<Response<UpdateNodeStatusResponse>, Status> {
        let reported = request.into_inner().node.unwrap();
        let mut nodes = self.lock();
        let node = nodes
            .get_mut(reported.name())
            .ok_or_else(|| Status::not_found("no such node"))?;
        node.status = reported.status;
        let node = Some(node.clone());
        drop(nodes);
        self.heartbeats.send_modify(|count| *count += 1);
        Ok(Response::new(UpdateNodeStatusResponse { node }))
    }
}

struct Fixture {
    nodes: Nodes,
    health: watch::Sender<RuntimeHealth>,
    queue: watch::Sender<QueueHealth>,
    _samples: watch::Sender<Option<Arc<crate::stats::Sample>>>,
    _api: watch::Sender<Option<tonic::transport::Channel>>,
    _dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

async fn reporter(heartbeat: Duration, stored: Option<Node>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let nodes = Nodes {
        nodes: Arc::default(),
        heartbeats: Arc::new(watch::Sender::new(0)),
    };
    nodes
        .lock()
        .extend(stored.map(|node| (node.name().to_owned(), node)));
    let incoming: UnixListenerStream = clone8s_daemon::unix::listen(&socket).await.unwrap();
    let mut tasks = JoinSet::new();
    let server = Server::builder().add_service(NodeServiceServer::new(nodes.clone()));
    tasks.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });

    let mut config = Config::new("node-1");
    config.apiserver = Some(Apiserver::Socket(socket.clone()));
    config.intervals.heartbeat = heartbeat;
    let (health, health_receiver) = watch::channel(RuntimeHealth::starting());
    let (samples, sample_receiver) = watch::channel(None);
    let (queue, queue_receiver) = watch::channel(QueueHealth {
        consuming: false,
        reason: "QueueMissing",
        message: "no queue".to_owned(),
    });
    let (api, api_receiver) = watch::channel(Some(clone8s_daemon::unix::channel(socket)));
    let reporter = NodeReporter::new(
        Arc::new(config),
        health_receiver,
        sample_receiver,
        Some(queue_receiver),
        api_receiver,
    );
    let reporter = reporter.unwrap().unwrap();
    tasks.spawn(async move { reporter.run(Shutdown::new()).await.unwrap() });
    Fixture {
        nodes,
        health,
        queue,
        _samples: samples,
        _api: api,
        _dir: dir,
        _tasks: tasks,
    }
}

const NEVER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_node_that_is_missing_is_made_with_its_labels_and_status() {
    let fixture = reporter(NEVER, None).await;
    let node = fixture.nodes.after_heartbeats(1).await;
    assert_eq!(
        node.metadata().unwrap().labels["kubernetes.io/hostname"],
        "node-1"
    );
    assert_eq!(node.status.unwrap().conditions[0].status, "False");
}

#[tokio::test]
async fn a_node_that_is_there_keeps_what_people_have_set() {
    let mut stored = Node::default();
    stored.metadata_mut().name = "node-1".to_owned();
    stored
        .metadata_mut()
        .labels
        .insert("disk".to_owned(), "fast".to_owned());
    stored.spec.get_or_insert_default().unschedulable = true;
    let fixture = reporter(NEVER, Some(stored)).await;
    let node = fixture.nodes.after_heartbeats(1).await;
    let labels = &node.metadata().unwrap().labels;
    assert!(
        labels.contains_key("disk") && labels.contains_key("kubernetes.io/arch"),
        "{labels:?}"
    );
    assert!(node.spec.unwrap().unschedulable);
}

#[tokio::test]
async fn a_condition_that_changes_is_reported_at_once() {
    let fixture = reporter(NEVER, None).await;
    fixture.nodes.after_heartbeats(1).await;
    fixture.health.send_replace(RuntimeHealth {
        ready: true,
        reason: "KubeletReady",
        message: "ready".to_owned(),
        version: "fake://1".to_owned(),
    });
    let status = fixture.nodes.after_heartbeats(2).await.status.unwrap();
    assert_eq!(status.conditions[0].status, "True");
    assert_eq!(status.node_info.unwrap().container_runtime_version, "fake://1");
}

#[tokio::test]
async fn whether_the_queue_is_consumed_is_a_condition_and_reported_at_once() {
    let fixture = reporter(NEVER, None).await;
    let told = |node: Node| {
        let conditions = node.status.unwrap().conditions;
        let condition = conditions.iter().find(|it| it.r#type == "QueueReady").unwrap();
        (condition.status.clone(), condition.reason.clone())
    };
    let first = told(fixture.nodes.after_heartbeats(1).await);
    assert_eq!(first, ("False".to_owned(), "QueueMissing".to_owned()));
    fixture.queue.send_replace(QueueHealth {
        consuming: true,
        reason: "Consuming",
        message: "pods come".to_owned(),
    });
    let then = told(fixture.nodes.after_heartbeats(2).await);
    assert_eq!(then, ("True".to_owned(), "Consuming".to_owned()));
}

#[tokio::test]
async fn a_node_that_somebody_deletes_is_made_again_at_the_next_heartbeat() {
    let fixture = reporter(Duration::from_millis(20), None).await;
    fixture.nodes.after_heartbeats(1).await;
    fixture.nodes.lock().clear();
    let seen = *fixture.nodes.heartbeats.borrow();
    let node = fixture.nodes.after_heartbeats(seen + 1).await;
    assert_eq!(
        node.metadata().unwrap().labels["kubernetes.io/hostname"],
        "node-1"
    );
}
