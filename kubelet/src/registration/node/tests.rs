use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use clone8s::{
    object::Object as _,
    rules::NODE_LEASE_NAMESPACE,
    v1::{
        CreateLeaseRequest, CreateLeaseResponse, CreateNodeRequest, CreateNodeResponse, GetNodeRequest,
        GetNodeResponse, Lease, UpdateLeaseRequest, UpdateLeaseResponse, UpdateNodeRequest,
        UpdateNodeResponse, UpdateNodeStatusRequest, UpdateNodeStatusResponse,
        lease_service_server::{LeaseService, LeaseServiceServer},
        node_service_server::{NodeService, NodeServiceServer},
    },
};
use tokio::{task::JoinSet, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::config::Apiserver;

const SOON: Duration = Duration::from_secs(20);

/// Keeps nodes and their leases, as an apiserver does, and counts what is written.
#[derive(Clone)]
struct Kept {
    nodes: Arc<Mutex<BTreeMap<String, Node>>>,
    leases: Arc<Mutex<BTreeMap<String, Lease>>>,
    reports: Arc<watch::Sender<usize>>,
    heartbeats: Arc<watch::Sender<usize>>,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap()
    }

    async fn after_reports(&self, count: usize) -> Node {
        reach(&self.reports, count).await;
        self.lock()["node-1"].clone()
    }

    async fn after_heartbeats(&self, count: usize) -> Lease {
        reach(&self.heartbeats, count).await;
        self.leases.lock().unwrap()["node-1"].clone()
    }

    fn renewed(&self, lease: Option<Lease>) -> Lease {
        let lease = lease.unwrap();
        assert_eq!(lease.namespace(), NODE_LEASE_NAMESPACE);
        let mut leases = self.leases.lock().unwrap();
        leases.insert(lease.name().to_owned(), lease.clone());
        self.heartbeats.send_modify(|count| *count += 1);
        lease
    }
}

#[tonic::async_trait]
impl NodeService for Kept {
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
        self.reports.send_modify(|count| *count += 1);
        Ok(Response::new(UpdateNodeStatusResponse { node }))
    }
}

#[tonic::async_trait]
impl LeaseService for Kept {
    async fn create_lease(
        &self,
        request: Request<CreateLeaseRequest>,
    ) -> Result<Response<CreateLeaseResponse>, Status> {
        let lease = Some(self.renewed(request.into_inner().lease));
        Ok(Response::new(CreateLeaseResponse { lease }))
    }

    async fn update_lease(
        &self,
        request: Request<UpdateLeaseRequest>,
    ) -> Result<Response<UpdateLeaseResponse>, Status> {
        if self.leases.lock().unwrap().is_empty() {
            return Err(Status::not_found("no such lease"));
        }
        let lease = Some(self.renewed(request.into_inner().lease));
        Ok(Response::new(UpdateLeaseResponse { lease }))
    }
}

async fn reach(counted: &watch::Sender<usize>, count: usize) {
    let mut counted = counted.subscribe();
    timeout(SOON, counted.wait_for(|seen| *seen >= count))
        .await
        .expect("as many")
        .unwrap();
}

struct Fixture {
    nodes: Kept,
    health: watch::Sender<RuntimeHealth>,
    queue: watch::Sender<QueueHealth>,
    _samples: watch::Sender<Option<Arc<crate::stats::Sample>>>,
    _api: watch::Sender<Option<clone8s_daemon::channel::Channel>>,
    _dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

async fn reporter(heartbeat: Duration, stored: Option<Node>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let nodes = Kept {
        nodes: Arc::default(),
        leases: Arc::default(),
        reports: Arc::new(watch::Sender::new(0)),
        heartbeats: Arc::new(watch::Sender::new(0)),
    };
    nodes
        .lock()
        .extend(stored.map(|node| (node.name().to_owned(), node)));
    let incoming: UnixListenerStream = clone8s_daemon::unix::listen(&socket).await.unwrap();
    let mut tasks = JoinSet::new();
    let server = Server::builder()
        .add_service(NodeServiceServer::new(nodes.clone()))
        .add_service(LeaseServiceServer::new(nodes.clone()));
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
    let (api, api_receiver) = watch::channel(Some(clone8s_daemon::unix::channel(socket).into()));
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
    let node = fixture.nodes.after_reports(1).await;
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
    let node = fixture.nodes.after_reports(1).await;
    let labels = &node.metadata().unwrap().labels;
    assert!(
        labels.contains_key("disk") && labels.contains_key("kubernetes.io/arch"),
        "{labels:?}"
    );
    assert!(node.spec.unwrap().unschedulable);
}

#[tokio::test]
async fn a_heartbeat_renews_the_lease_and_leaves_the_node_alone() {
    let fixture = reporter(Duration::from_millis(100), None).await;
    let first = fixture.nodes.after_heartbeats(1).await.spec.unwrap();
    assert_eq!(first.holder_identity, "node-1");
    // Made anew it may have been gone with the node, which is told twice therefore.
    fixture.nodes.after_reports(2).await;
    let later = fixture.nodes.after_heartbeats(5).await.spec.unwrap();
    assert_eq!(later.acquire_time, first.acquire_time);
    assert_ne!(later.renew_time, first.renew_time);
    assert_eq!(*fixture.nodes.reports.borrow(), 2);
}

#[tokio::test]
async fn a_condition_that_changes_is_reported_at_once() {
    let fixture = reporter(NEVER, None).await;
    fixture.nodes.after_reports(1).await;
    fixture.health.send_replace(RuntimeHealth {
        ready: true,
        reason: "KubeletReady",
        message: "ready".to_owned(),
        version: "fake://1".to_owned(),
    });
    let status = fixture.nodes.after_reports(2).await.status.unwrap();
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
    let first = told(fixture.nodes.after_reports(1).await);
    assert_eq!(first, ("False".to_owned(), "QueueMissing".to_owned()));
    fixture.queue.send_replace(QueueHealth {
        consuming: true,
        reason: "Consuming",
        message: "pods come".to_owned(),
    });
    let then = told(fixture.nodes.after_reports(2).await);
    assert_eq!(then, ("True".to_owned(), "Consuming".to_owned()));
}

#[tokio::test]
async fn a_node_that_somebody_deletes_is_made_again_at_the_next_heartbeat() {
    let fixture = reporter(Duration::from_millis(20), None).await;
    fixture.nodes.after_reports(1).await;
    fixture.nodes.lock().clear();
    fixture.nodes.leases.lock().unwrap().clear();
    let seen = *fixture.nodes.reports.borrow();
    let node = fixture.nodes.after_reports(seen + 1).await;
    assert_eq!(
        node.metadata().unwrap().labels["kubernetes.io/hostname"],
        "node-1"
    );
}
