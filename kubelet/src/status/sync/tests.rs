use std::sync::Mutex;

use clone8s::{
    rules::NODE_NOT_READY,
    v1::{
        Condition, DeletePodResponse, UpdatePodStatusResponse,
        pod_service_server::{PodService, PodServiceServer},
    },
};
use hyper_util::rt::TokioIo;
use tonic::{
    Request, Response,
    transport::{Endpoint, Server},
};

use super::*;
use crate::{desired::DesiredPod, status::StatusBoard};

/// An apiserver that only takes statuses, and refuses the first few.
#[derive(Clone, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<String>>>,
    refusals: Arc<Mutex<u32>>,
}

#[tonic::async_trait]
impl PodService for Recorder {
    async fn update_pod_status(
        &self,
        request: Request<UpdatePodStatusRequest>,
    ) -> Result<Response<UpdatePodStatusResponse>, Status> {
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(Status::unavailable("not now"));
        }
        let pod = request.into_inner().pod.unwrap();
        let phase = &pod.status.as_ref().unwrap().phase;
        self.calls
            .lock()
            .unwrap()
            .push(format!("{} {} {phase}", pod.name(), pod.uid()));
        Ok(Response::new(UpdatePodStatusResponse::default()))
    }

    async fn delete_pod(
        &self,
        request: Request<DeletePodRequest>,
    ) -> Result<Response<DeletePodResponse>, Status> {
        let DeletePodRequest {
            name,
            uid,
            grace_period_seconds,
            ..
        } = request.into_inner();
        let call = format!("delete {name} {uid} {grace_period_seconds:?}");
        self.calls.lock().unwrap().push(call);
        Ok(Response::new(DeletePodResponse::default()))
    }
}

struct Bench {
    recorder: Recorder,
    board: StatusBoard,
    mirrors: watch::Sender<Option<Mirrors>>,
    desired: watch::Sender<Desired>,
    api: watch::Sender<Option<Channel>>,
    shutdown: Shutdown,
    tasks: JoinSet<()>,
}

impl Bench {
    async fn start() -> Self {
        let recorder = Recorder::default();
        let (client, server) = tokio::io::duplex(64 << 10);
        let mut tasks = JoinSet::new();
        let service = PodServiceServer::new(recorder.clone());
        tasks.spawn(async move {
            let connections = tokio_stream::once(Ok::<_, std::io::Error>(server));
            Server::builder()
                .add_service(service)
                .serve_with_incoming(connections)
                .await
                .unwrap();
        });
        let mut client = Some(client);
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let client = client.take();
                async move {
                    client
                        .map(TokioIo::new)
                        .ok_or_else(|| std::io::Error::other("one connection only"))
                }
            }))
            .await
            .unwrap();
        let board = StatusBoard::new();
        let api = watch::Sender::new(Some(channel.into()));
        let desired = watch::Sender::new(Desired::default());
        let mirrors = watch::Sender::new(None);
        let sync = StatusSync::new(
            "n1",
            board.subscribe(),
            desired.subscribe(),
            mirrors.subscribe(),
            api.subscribe(),
        );
        let shutdown = Shutdown::new();
        let token = shutdown.clone();
        tasks.spawn(async move {
            sync.run(token).await.unwrap();
        });
        Self {
            recorder,
            board,
            mirrors,
            desired,
            api,
            shutdown,
            tasks,
        }
    }

    fn publish(&self, phase: &str, source: Source, gone: bool) {
        self.board.publish(
            &PodKey::new("default", "p"),
            PodEntry {
                uid: PodUid::new("u1"),
                source,
                status: Arc::new(PodStatus {
                    phase: phase.into(),
                    ..Default::default()
                }),
                gone,
            },
        );
    }

    /// The apiserver has a mirror of the pod.
    fn mirrored(&self, uid: &str, phase: &str) {
        let mut mirror = Pod {
            status: Some(PodStatus {
                phase: phase.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        mirror.metadata_mut().uid = uid.into();
        let mirrors = BTreeMap::from([(PodKey::new("default", "p-n1"), Arc::new(mirror))]);
        self.mirrors.send_replace(Some(Arc::new(mirrors)));
    }

    /// The apiserver tells the pod at this revision, with this reason of its readiness.
    fn told(&self, revision: i64, reason: &str) {
        let ready = Condition {
            r#type: "Ready".into(),
            reason: reason.into(),
            ..Default::default()
        };
        let mut pod = Pod {
            status: Some(PodStatus {
                conditions: vec![ready],
                ..Default::default()
            }),
            ..Default::default()
        };
        *pod.metadata_mut() = ObjectMeta {
            uid: "u1".into(),
            resource_version: revision,
            ..Default::default()
        };
        let pod = DesiredPod {
            pod: Arc::new(pod),
            source: Source::Api,
        };
        let pods = BTreeMap::from([(PodKey::new("default", "p"), pod)]);
        self.desired.send_replace(Desired {
            pods: Arc::new(pods),
            complete: true,
        });
    }

    /// The calls so far, once there are `count` and no more follow.
    async fn calls(&self, count: usize) -> Vec<String> {
        for _ in 0..2_000 {
            if self.recorder.calls.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.recorder.calls.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_status_is_sent_once_until_it_changes() {
    let bench = Bench::start().await;
    bench.publish("Pending", Source::Api, false);
    assert_eq!(bench.calls(1).await, ["p u1 Pending"]);
    bench.publish("Pending", Source::Api, false);
    assert_eq!(bench.calls(1).await.len(), 1);
    bench.publish("Running", Source::Api, false);
    assert_eq!(bench.calls(2).await[1..], ["p u1 Running"]);
}

#[tokio::test]
async fn a_node_that_was_taken_for_silent_says_again_what_it_said() {
    let bench = Bench::start().await;
    bench.publish("Running", Source::Api, false);
    assert_eq!(bench.calls(1).await, ["p u1 Running"]);
    bench.told(7, NODE_NOT_READY);
    assert_eq!(bench.calls(2).await[1..], ["p u1 Running"]);
    // Once for each time: its own word is on its way back, or was overruled again.
    bench.told(7, NODE_NOT_READY);
    bench.told(8, "");
    assert_eq!(bench.calls(2).await.len(), 2);
    bench.told(9, NODE_NOT_READY);
    assert_eq!(bench.calls(3).await[2..], ["p u1 Running"]);
}

#[tokio::test]
async fn a_pod_that_is_gone_is_dropped_after_its_last_status() {
    let bench = Bench::start().await;
    bench.publish("Failed", Source::Api, true);
    assert_eq!(bench.calls(2).await, ["p u1 Failed", "delete p u1 Some(0)"]);
}

#[tokio::test]
async fn what_the_node_has_by_itself_is_told_of_its_mirror_alone() {
    let bench = Bench::start().await;
    bench.publish("Running", Source::Folder, false);
    assert_eq!(bench.calls(0).await, [""; 0]);
    bench.mirrored("m1", "");
    assert_eq!(bench.calls(1).await, ["p-n1 m1 Running"]);
    // Another one begins anew; one that says so already is left alone; and none is asked to go.
    bench.mirrored("m2", "Pending");
    assert_eq!(bench.calls(2).await[1..], ["p-n1 m2 Running"]);
    bench.mirrored("m3", "Running");
    bench.publish("Running", Source::Folder, true);
    assert_eq!(bench.calls(2).await.len(), 2);
}

#[tokio::test]
async fn a_status_that_was_refused_is_sent_again() {
    let bench = Bench::start().await;
    *bench.recorder.refusals.lock().unwrap() = 2;
    bench.publish("Running", Source::Api, false);
    assert_eq!(bench.calls(1).await, ["p u1 Running"]);
}

#[tokio::test]
async fn what_changed_while_the_apiserver_was_away_is_sent_when_it_is_back() {
    let bench = Bench::start().await;
    let channel = bench.api.borrow().clone();
    bench.api.send_replace(None);
    bench.publish("Pending", Source::Api, false);
    bench.publish("Running", Source::Api, false);
    assert_eq!(bench.calls(0).await, [""; 0]);
    bench.api.send_replace(channel);
    assert_eq!(bench.calls(1).await, ["p u1 Running"]);
}

#[tokio::test]
async fn shutdown_ends_the_sync() {
    let mut bench = Bench::start().await;
    bench.shutdown.cancel();
    bench.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_that_stands_alone_has_nothing_to_sync_and_goes_on() {
    let board = StatusBoard::new();
    let desired = watch::Sender::new(Desired::default());
    // Registration has nobody to register with: its end of the channel is gone.
    let api = watch::Sender::new(None).subscribe();
    let mirrors = watch::channel(None).1;
    let sync = StatusSync::new("n1", board.subscribe(), desired.subscribe(), mirrors, api);
    let running = sync.run(Shutdown::new());
    timeout(Duration::from_millis(100), running).await.unwrap_err();
}
