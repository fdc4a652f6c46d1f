mod sessions;

use std::{collections::BTreeMap, fs, io::Write as _, path::PathBuf, sync::Arc};

use clone8s::v1::{
    AnswerNodeCallRequest, AnswerNodeCallResponse, ContainerState, ContainerStateRunning,
    ContainerStateTerminated, ContainerStatus, GetPodLogsRequest, NodeCallEnd, Pod, PodStatus,
    answer_node_call_request::Frame,
    container_state::State,
    tunnel_service_server::{TunnelService, TunnelServiceServer},
};
use futures::StreamExt as _;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming, codegen::BoxStream, transport::Server};

use super::*;
use crate::{
    clock::Clock,
    desired::{Desired, DesiredPod, PodKey, PodUid, Source},
    runtime::fake::FakeRuntime,
    status::{PodEntry, PodStatuses},
};

const SOON: Duration = Duration::from_secs(20);
const T: &str = "2026-01-02T03:04:05.000000001Z";

/// The apiserver's end, as far as the node sees it.
struct FakeTunnel {
    calls: Mutex<Option<mpsc::Receiver<WatchNodeCallsResponse>>>,
    answers: mpsc::Sender<AnswerNodeCallRequest>,
    /// Ends when the caller goes.
    caller: Mutex<Option<mpsc::Receiver<AnswerNodeCallResponse>>>,
}

#[tonic::async_trait]
impl TunnelService for FakeTunnel {
    async fn watch_node_calls(
        &self,
        _request: Request<WatchNodeCallsRequest>,
    ) -> Result<Response<BoxStream<WatchNodeCallsResponse>>, Status> {
        let calls = self
            .calls
            .lock()
            .await
            .take()
            .ok_or_else(|| Status::unavailable("only once"))?;
        Ok(Response::new(ReceiverStream::new(calls).map(Ok).boxed()))
    }

    async fn answer_node_call(
        &self,
        request: Request<Streaming<AnswerNodeCallRequest>>,
    ) -> Result<Response<BoxStream<AnswerNodeCallResponse>>, Status> {
        let mut frames = request.into_inner();
        let answers = self.answers.clone();
        let caller = self.caller.lock().await.take().unwrap();
        let relay = async move {
            while let Some(Ok(frame)) = frames.next().await {
                let last = matches!(frame.frame, Some(Frame::End(_)));
                // The test has seen enough.
                if answers.send(frame).await.is_err() || last {
                    break;
                }
            }
        };
        let inputs = ReceiverStream::new(caller).map(Ok).take_until(Box::pin(relay));
        Ok(Response::new(inputs.boxed()))
    }
}

/// A node with one pod "web" of the containers "main" and "side", and a tunnel to a fake apiserver.
struct Node {
    dir: tempfile::TempDir,
    statuses: watch::Sender<PodStatuses>,
    calls: mpsc::Sender<WatchNodeCallsResponse>,
    answers: mpsc::Receiver<AnswerNodeCallRequest>,
    caller: Option<mpsc::Sender<AnswerNodeCallResponse>>,
    runtime: FakeRuntime,
    _desired: watch::Sender<Desired>,
    _api: watch::Sender<Option<Channel>>,
    _tunnel: JoinSet<()>,
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (calls, call_receiver) = mpsc::channel(4);
        let (answer_sender, answers) = mpsc::channel(64);
        let (caller, inputs) = mpsc::channel(1);
        let fake = FakeTunnel {
            calls: Mutex::new(Some(call_receiver)),
            answers: answer_sender,
            caller: Mutex::new(Some(inputs)),
        };
        let socket = dir.path().join("api.sock");
        let incoming = clone8s_daemon::unix::listen(&socket).await.unwrap();
        let server = Server::builder().add_service(TunnelServiceServer::new(fake));
        let mut tunnel = JoinSet::new();
        tunnel.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });

        let mut pod = Pod::default();
        let meta = pod.metadata.get_or_insert_default();
        (meta.namespace, meta.name, meta.uid) = ("default".into(), "web".into(), "u1".into());
        let spec = pod.spec.get_or_insert_default();
        for name in ["main", "side"] {
            spec.containers.push(clone8s::v1::Container {
                name: name.to_owned(),
                ..Default::default()
            });
        }
        let desired = DesiredPod {
            pod: Arc::new(pod),
            source: Source::Api,
        };
        let (desired, desired_receiver) = watch::channel(Desired {
            pods: Arc::new(BTreeMap::from([(desired.key(), desired)])),
            complete: true,
        });
        let (statuses, status_receiver) = watch::channel(PodStatuses::default());
        let (api, api_receiver) = watch::channel(Some(clone8s_daemon::unix::channel(socket).into()));
        let runtime = FakeRuntime::new(Clock::Wall);
        let pods = Pods {
            node: "node-1".to_owned(),
            desired: desired_receiver,
            statuses: status_receiver,
        };
        let node = Tunnel {
            node: "node-1".to_owned(),
            api: api_receiver,
            answers: Answers {
                node: "node-1".to_owned(),
                logs: LogSources {
                    root: dir.path().join("logs"),
                    pods: pods.clone(),
                },
                sessions: Sessions {
                    runtime: Arc::new(runtime.clone()),
                    pods,
                },
            },
            calls: JoinSet::new(),
            outage: Outage::new("test"),
        };
        tunnel.spawn(async move { node.run(Shutdown::new()).await.unwrap() });
        let mut node = Self {
            dir,
            statuses,
            calls,
            answers,
            caller: Some(caller),
            runtime,
            _desired: desired,
            _api: api,
            _tunnel: tunnel,
        };
        node.report(0, State::Running(ContainerStateRunning::default()));
        node
    }

    fn file(&self, container: &str, run: u32) -> PathBuf {
        let dir = self.dir.path().join("logs/default_web_u1").join(container);
        fs::create_dir_all(&dir).unwrap();
        dir.join(format!("{run}.log"))
    }

    fn write(&self, container: &str, run: u32, lines: &[&str]) {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.file(container, run))
            .unwrap();
        for line in lines {
            writeln!(file, "{T} stdout F {line}").unwrap();
        }
    }

    /// What the worker says of "main".
    fn report(&mut self, restarts: i32, state: State) {
        let main = ContainerStatus {
            name: "main".to_owned(),
            restart_count: restarts,
            state: Some(ContainerState { state: Some(state) }),
            ..Default::default()
        };
        let entry = PodEntry {
            uid: PodUid::new("u1"),
            source: Source::Api,
            status: Arc::new(PodStatus {
                container_statuses: vec![main],
                ..Default::default()
            }),
            gone: false,
        };
        self.statuses
            .send_replace(Arc::new(BTreeMap::from([(PodKey::new("default", "web"), entry)])));
    }

    async fn ask(&self, request: GetPodLogsRequest) {
        let request = GetPodLogsRequest {
            name: if request.name.is_empty() {
                "web".to_owned()
            } else {
                request.name
            },
            ..request
        };
        self.call(Call::GetPodLogs(request)).await;
    }

    async fn call(&self, call: Call) {
        let call = WatchNodeCallsResponse {
            call_id: "call-1".to_owned(),
            call: Some(call),
        };
        self.calls.send(call).await.unwrap();
    }

    /// The next data, or how the call ended.
    async fn next(&mut self) -> Result<String, NodeCallEnd> {
        match self.frame().await {
            Frame::Data(data) => Ok(String::from_utf8(data.to_vec()).unwrap()),
            Frame::End(end) => Err(end),
            other => panic!("not of a log: {other:?}"),
        }
    }

    /// The next frame of the answer.
    async fn frame(&mut self) -> Frame {
        loop {
            let answer = timeout(SOON, self.answers.recv())
                .await
                .expect("an answer")
                .unwrap();
            match answer.frame {
                None => assert_eq!(answer.call_id, "call-1"),
                Some(frame) => return frame,
            }
        }
    }

    /// All data, and how the call ended.
    async fn rest(&mut self) -> (String, NodeCallEnd) {
        let mut all = String::new();
        loop {
            match self.next().await {
                Ok(data) => all.push_str(&data),
                Err(end) => return (all, end),
            }
        }
    }
}

fn main_log() -> GetPodLogsRequest {
    GetPodLogsRequest {
        container: "main".to_owned(),
        ..GetPodLogsRequest::default()
    }
}

#[tokio::test]
async fn all_lines_of_the_present_run_or_the_last_ones_or_those_of_the_run_before() {
    let last = |lines| GetPodLogsRequest {
        tail_lines: Some(lines),
        ..main_log()
    };
    let before = GetPodLogsRequest {
        previous: true,
        timestamps: true,
        ..main_log()
    };
    for (request, expected) in [
        (main_log(), "one\ntwo\nthree\n".to_owned()),
        (last(2), "two\nthree\n".to_owned()),
        (last(0), String::new()),
        (before, format!("{T} old\n")),
    ] {
        let mut node = Node::new().await;
        node.write("main", 0, &["old"]);
        node.write("main", 1, &["one", "two", "three"]);
        node.ask(request).await;
        assert_eq!(node.rest().await, (expected, NodeCallEnd::default()));
    }
}

#[tokio::test]
async fn following_shows_what_comes_until_the_container_ends() {
    let mut node = Node::new().await;
    node.write("main", 0, &["one"]);
    node.ask(GetPodLogsRequest {
        follow: true,
        ..main_log()
    })
    .await;
    assert_eq!(node.next().await.unwrap(), "one\n");
    node.write("main", 0, &["two"]);
    assert_eq!(node.next().await.unwrap(), "two\n");
    // A rotation: the file moves away, and a new one takes its place.
    let file = node.file("main", 0);
    fs::rename(&file, file.with_extension("log.1")).unwrap();
    node.write("main", 0, &["three"]);
    assert_eq!(node.next().await.unwrap(), "three\n");
    node.write("main", 0, &["last"]);
    node.report(0, State::Terminated(ContainerStateTerminated::default()));
    assert_eq!(node.rest().await, ("last\n".to_owned(), NodeCallEnd::default()));
}

#[tokio::test]
async fn what_a_rotation_moved_away_is_part_of_the_log() {
    for (tail_lines, expected) in [
        (None, "one\ntwo\nthree\nfour\n"),
        (Some(3), "two\nthree\nfour\n"),
        (Some(1), "four\n"),
    ] {
        let mut node = Node::new().await;
        let file = node.file("main", 0);
        node.write("main", 0, &["one"]);
        fs::rename(&file, file.with_extension("log.20260102T030405.000000001Z")).unwrap();
        node.write("main", 0, &["two", "three"]);
        fs::rename(&file, file.with_extension("log.20260102T030405.000000002Z")).unwrap();
        node.write("main", 0, &["four"]);
        node.ask(GetPodLogsRequest {
            tail_lines,
            ..main_log()
        })
        .await;
        assert_eq!(node.rest().await, (expected.to_owned(), NodeCallEnd::default()));
    }
}

#[tokio::test]
async fn only_what_was_written_since_a_time_is_sent_whichever_file_it_is_in() {
    let since = |seconds| GetPodLogsRequest {
        since_time: Some(pbjson_types::Timestamp { seconds, nanos: 0 }),
        ..main_log()
    };
    let ago = |seconds| GetPodLogsRequest {
        since_seconds: Some(seconds),
        ..main_log()
    };
    // That of the helper's lines.
    let time: jiff::Timestamp = T.parse().unwrap();
    for (request, expected) in [
        (since(time.as_second()), "one\ntwo\n"),
        (since(time.as_second() + 1), ""),
        (since(i64::MIN), "one\ntwo\n"),
        (since(i64::MAX), ""),
        (ago(i64::MAX), "one\ntwo\n"),
        (ago(0), ""),
    ] {
        let mut node = Node::new().await;
        let file = node.file("main", 0);
        node.write("main", 0, &["one"]);
        fs::rename(&file, file.with_extension("log.20260102T030405.000000001Z")).unwrap();
        node.write("main", 0, &["two"]);
        node.ask(request).await;
        assert_eq!(node.rest().await, (expected.to_owned(), NodeCallEnd::default()));
    }
}

#[tokio::test]
async fn following_ends_when_the_next_run_begins() {
    let mut node = Node::new().await;
    node.write("main", 0, &["one"]);
    node.ask(GetPodLogsRequest {
        follow: true,
        ..main_log()
    })
    .await;
    assert_eq!(node.next().await.unwrap(), "one\n");
    node.write("main", 1, &["of the next run"]);
    assert_eq!(node.rest().await, (String::new(), NodeCallEnd::default()));
}

#[tokio::test]
async fn an_answer_ends_when_its_caller_goes() {
    let mut node = Node::new().await;
    let channel = clone8s_daemon::unix::channel(node.dir.path().join("api.sock"));
    let mut answer = JoinSet::new();
    answer.spawn(
        Reply::new(channel.into(), "call-1".to_owned()).send(async |frames, _inputs| {
            frames.data("one".into()).await?;
            std::future::pending().await
        }),
    );
    assert_eq!(node.next().await.unwrap(), "one");
    assert!(answer.try_join_next().is_none());
    drop(node.caller.take());
    timeout(SOON, answer.join_next())
        .await
        .expect("the answer ends")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_named_beside_what_is() {
    for (request, expected) in [
        (
            GetPodLogsRequest {
                name: "db".to_owned(),
                ..main_log()
            },
            "pod default/db is not on this node",
        ),
        (
            GetPodLogsRequest {
                container: "mian".to_owned(),
                ..main_log()
            },
            "it has main, side",
        ),
        (GetPodLogsRequest::default(), "name one of main, side"),
        (
            GetPodLogsRequest {
                container: "side".to_owned(),
                ..main_log()
            },
            "side of pod default/web has not started yet",
        ),
        (
            GetPodLogsRequest {
                previous: true,
                ..main_log()
            },
            "has no earlier run",
        ),
    ] {
        let mut node = Node::new().await;
        node.write("main", 0, &["one"]);
        node.ask(request).await;
        let (text, end) = node.rest().await;
        assert_eq!(text, "");
        assert!(end.code != 0 && end.message.contains(expected), "{end:?}");
    }
}
