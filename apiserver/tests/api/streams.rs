//! Exec, attach and port-forward through a node's own connections, with a node played by the test.

use std::time::Duration;

use clone8s::v1::{
    answer_node_call_request::Frame, answer_node_call_response::Frame as Input,
    watch_node_calls_response::Call, *,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    harness::*,
    tunnel::{Answering, answer, line, with_pod_on_n1},
};

/// A caller's side of one ExecPod.
struct Exec {
    requests: mpsc::Sender<ExecPodRequest>,
    responses: Streaming<ExecPodResponse>,
}

impl Exec {
    async fn open(channel: &Channel, start: ExecPodStart) -> Result<Self, Status> {
        Self::open_with(channel, exec_pod_request::Frame::Start(start)).await
    }

    async fn open_with(channel: &Channel, first: exec_pod_request::Frame) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(1);
        let first = ExecPodRequest { frame: Some(first) };
        requests.send(first).await.unwrap();
        let call = pods(channel).exec_pod(ReceiverStream::new(receiver)).await;
        Ok(Self {
            requests,
            responses: call?.into_inner(),
        })
    }

    async fn send(&self, frame: exec_pod_request::Frame) {
        let request = ExecPodRequest { frame: Some(frame) };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<exec_pod_response::Frame>, Status> {
        let message = timeout(PATIENCE, self.responses.message()).await.unwrap()?;
        Ok(message.map(|message| message.frame.unwrap()))
    }
}

fn cat() -> ExecPodStart {
    ExecPodStart {
        name: "web".into(),
        command: vec!["cat".into()],
        stdin: true,
        ..ExecPodStart::default()
    }
}

fn stdin(bytes: impl Into<Vec<u8>>) -> exec_pod_request::Frame {
    exec_pod_request::Frame::Stdin(bytes.into().into())
}

/// The node's side of the next call.
async fn taken(channel: &Channel, line: &mut Streaming<WatchNodeCallsResponse>) -> (Option<Call>, Answering) {
    let message = timeout(PATIENCE, line.message()).await.unwrap().unwrap().unwrap();
    let answering = answer(channel, &message.call_id).await.unwrap();
    (message.call, answering)
}

impl Answering {
    async fn input(&mut self) -> Option<Input> {
        let message = timeout(PATIENCE, self.back.message()).await.unwrap().unwrap();
        message.map(|message| message.frame.unwrap())
    }

    async fn take_input(&self) {
        self.send(Frame::InputTaken(NodeInputTaken {})).await;
    }
}

#[tokio::test]
async fn a_commands_streams_go_both_ways_through_the_nodes_own_connection() {
    use exec_pod_response::Frame as Said;
    let (server, root) = with_pod_on_n1().await;
    let node = server.joined("n1").await;
    let mut line = line(&node, "n1").await;
    let mut exec = Exec::open(&root, cat()).await.unwrap();
    let (call, mut answering) = taken(&node, &mut line).await;
    let expected = ExecPodStart {
        namespace: "default".into(),
        container: "main".into(),
        ..cat()
    };
    assert_eq!(call, Some(Call::ExecPod(expected)));

    let size = PodTerminalSize {
        width: 80,
        height: 24,
    };
    exec.send(stdin("one")).await;
    exec.send(exec_pod_request::Frame::Resize(size)).await;
    exec.send(exec_pod_request::Frame::StdinEnd(PodStdinEnd {})).await;
    assert_eq!(answering.input().await, Some(Input::Input("one".into())));
    assert_eq!(answering.input().await, Some(Input::Resize(size)));
    assert_eq!(answering.input().await, Some(Input::InputEnd(NodeInputEnd {})));

    answering.send(Frame::Started(PodStreamStarted {})).await;
    assert_eq!(
        exec.next().await.unwrap(),
        Some(Said::Started(PodStreamStarted {}))
    );
    answering.data("out").await;
    assert_eq!(exec.next().await.unwrap(), Some(Said::Stdout("out".into())));
    answering.send(Frame::Stderr("err".into())).await;
    assert_eq!(exec.next().await.unwrap(), Some(Said::Stderr("err".into())));
    answering.send(Frame::ExitCode(3)).await;
    assert_eq!(exec.next().await.unwrap(), Some(Said::ExitCode(3)));
    answering.end(Code::Ok, "").await;
    assert_eq!(exec.next().await.unwrap(), None);
    answering.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn the_end_of_a_callers_requests_is_the_end_of_its_input_alone() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let (requests, receiver) = mpsc::channel(2);
    for frame in [
        port_forward_pod_request::Frame::Start(PortForwardPodStart {
            name: "web".into(),
            port: 80,
            ..PortForwardPodStart::default()
        }),
        port_forward_pod_request::Frame::Data("request".into()),
    ] {
        let request = PortForwardPodRequest { frame: Some(frame) };
        requests.send(request).await.unwrap();
    }
    drop(requests);
    let call = pods(&root).port_forward_pod(ReceiverStream::new(receiver)).await;
    let mut responses = call.unwrap().into_inner();
    let (call, mut answering) = taken(&root, &mut line).await;
    assert!(matches!(call, Some(Call::PortForwardPod(start)) if start.port == 80));
    assert_eq!(answering.input().await, Some(Input::Input("request".into())));
    assert_eq!(answering.input().await, Some(Input::InputEnd(NodeInputEnd {})));
    answering.data("response").await;
    let response = timeout(PATIENCE, responses.message())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let data = port_forward_pod_response::Frame::Data("response".into());
    assert_eq!(response.frame, Some(data));
    server.stop().await;
}

#[tokio::test]
async fn a_node_gets_no_more_input_than_it_takes_and_sees_its_caller_go_all_the_same() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let exec = Exec::open(&root, cat()).await.unwrap();
    let (_, mut answering) = taken(&root, &mut line).await;
    // More than fits: it comes as parts of 32 KiB, of which eight are on their way at a time.
    exec.send(stdin(vec![b'x'; 1 << 20])).await;
    for _ in 0..8 {
        let Some(Input::Input(part)) = answering.input().await else {
            panic!("no input");
        };
        assert_eq!(part.len(), 32 << 10);
    }
    assert!(
        timeout(Duration::from_millis(300), answering.back.message())
            .await
            .is_err()
    );
    answering.take_input().await;
    assert!(matches!(answering.input().await, Some(Input::Input(_))));
    drop(exec);
    answering.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn callers_that_read_nothing_hold_up_no_other_call_of_the_node() {
    let (server, root) = with_pod_on_n1().await;
    let node = server.joined("n1").await;
    let mut line = line(&node, "n1").await;
    let chunk = vec![b'x'; 32 << 10];
    let mut slow = Vec::new();
    for _ in 0..10 {
        let exec = Exec::open(&server.root(), cat()).await.unwrap();
        let (_, answering) = taken(&node, &mut line).await;
        // Far more than the buffers between hold: at some point it waits for its reader.
        let flooding = async {
            for _ in 0..1_000 {
                answering.send(Frame::Data(chunk.clone().into())).await;
            }
        };
        assert!(timeout(Duration::from_millis(500), flooding).await.is_err());
        slow.push((exec, answering));
    }
    let mut quick = Exec::open(&root, cat()).await.unwrap();
    let (_, answering) = taken(&node, &mut line).await;
    answering.data("one").await;
    let said = quick.next().await.unwrap();
    assert_eq!(said, Some(exec_pod_response::Frame::Stdout("one".into())));
    drop(slow);
    server.stop().await;
}

#[tokio::test]
async fn a_node_that_goes_in_the_middle_is_told_to_the_caller() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let mut exec = Exec::open(&root, cat()).await.unwrap();
    let (_, answering) = taken(&root, &mut line).await;
    answering.send(Frame::Started(PodStreamStarted {})).await;
    assert!(exec.next().await.unwrap().is_some());
    drop(answering);
    let lost = exec.next().await.unwrap_err();
    assert_eq!(told(&lost), (Code::Unavailable, "NODE_LOST".into()));
    server.stop().await;
}

#[tokio::test]
async fn an_open_command_ends_with_the_server() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let mut exec = Exec::open(&root, cat()).await.unwrap();
    let (_, _answering) = taken(&root, &mut line).await;
    let (ended, _dir) = tokio::join!(exec.next(), server.stop());
    assert_eq!(told(&ended.unwrap_err()), (Code::Unavailable, "STOPPING".into()));
}

#[tokio::test]
async fn a_second_start_ends_the_call() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let mut exec = Exec::open(&root, cat()).await.unwrap();
    let (_, answering) = taken(&root, &mut line).await;
    exec.send(exec_pod_request::Frame::Start(cat())).await;
    let refused = exec.next().await.unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "INVALID".into()));
    answering.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let (server, root) = with_pod_on_n1().await;
    create_pod(&root, pod("waiting")).await;
    let first = |frame| Exec::open_with(&root, frame);
    let start = |change: fn(&mut ExecPodStart)| {
        let mut start = cat();
        change(&mut start);
        first(exec_pod_request::Frame::Start(start))
    };
    for (call, code, reason, words) in [
        (
            first(stdin("x")).await,
            Code::InvalidArgument,
            "INVALID",
            "must be the first message",
        ),
        (
            start(|it| it.command.clear()).await,
            Code::InvalidArgument,
            "INVALID",
            "name a program",
        ),
        (
            start(|it| it.container = "mian".into()).await,
            Code::InvalidArgument,
            "INVALID",
            "it has main",
        ),
        (
            start(|it| it.name = "missing".into()).await,
            Code::NotFound,
            "NOT_FOUND",
            "missing",
        ),
        (
            start(|it| it.name = "waiting".into()).await,
            Code::FailedPrecondition,
            "NOT_BOUND",
            "not on a node yet",
        ),
        (
            start(|_| {}).await,
            Code::Unavailable,
            "NODE_NOT_CONNECTED",
            "node n1",
        ),
    ] {
        let refused = call.err().unwrap();
        assert_eq!(told(&refused), (code, reason.into()), "{words}");
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    let request = PortForwardPodRequest {
        frame: Some(port_forward_pod_request::Frame::Start(PortForwardPodStart {
            name: "web".into(),
            port: 65_536,
            ..PortForwardPodStart::default()
        })),
    };
    let refused = pods(&root)
        .port_forward_pod(tokio_stream::iter([request]))
        .await
        .unwrap_err();
    assert_eq!(told(&refused), (Code::InvalidArgument, "INVALID".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_node_may_not_run_commands() {
    let (server, _root) = with_pod_on_n1().await;
    let node = server.joined("n1").await;
    let refused = Exec::open(&node, cat()).await.err().unwrap();
    assert_eq!(told(&refused), (Code::PermissionDenied, "FORBIDDEN".into()));
    server.stop().await;
}
