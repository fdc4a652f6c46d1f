//! Logs through a node's own connections, with a node played by the test.

use std::time::Duration;

use clone8s::v1::{answer_node_call_request::Frame, watch_node_calls_response::Call, *};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::harness::*;

pub(crate) async fn line(channel: &Channel, node: &str) -> Streaming<WatchNodeCallsResponse> {
    tunnel(channel)
        .watch_node_calls(WatchNodeCallsRequest {
            node_name: node.into(),
        })
        .await
        .unwrap()
        .into_inner()
}

async fn logs(channel: &Channel, name: &str) -> Result<Streaming<GetPodLogsResponse>, Status> {
    let request = GetPodLogsRequest {
        name: name.into(),
        follow: true,
        ..GetPodLogsRequest::default()
    };
    Ok(pods(channel).get_pod_logs(request).await?.into_inner())
}

async fn call(line: &mut Streaming<WatchNodeCallsResponse>) -> (String, GetPodLogsRequest) {
    let message = timeout(PATIENCE, line.message()).await.unwrap().unwrap().unwrap();
    let Some(Call::GetPodLogs(request)) = message.call else {
        panic!("not a call for logs: {message:?}");
    };
    (message.call_id, request)
}

/// A node's side of one answer.
pub(crate) struct Answering {
    call_id: String,
    frames: mpsc::Sender<AnswerNodeCallRequest>,
    pub(crate) back: Streaming<AnswerNodeCallResponse>,
}

pub(crate) async fn answer(channel: &Channel, call_id: &str) -> Result<Answering, Status> {
    let (frames, receiver) = mpsc::channel(1);
    let first = AnswerNodeCallRequest {
        call_id: call_id.into(),
        frame: None,
    };
    frames.send(first).await.unwrap();
    let back = tunnel(channel)
        .answer_node_call(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    Ok(Answering {
        call_id: call_id.into(),
        frames,
        back,
    })
}

impl Answering {
    pub(crate) async fn send(&self, frame: Frame) {
        let message = AnswerNodeCallRequest {
            call_id: self.call_id.clone(),
            frame: Some(frame),
        };
        self.frames.send(message).await.unwrap();
    }

    pub(crate) async fn data(&self, text: &str) {
        self.send(Frame::Data(text.as_bytes().to_vec().into())).await;
    }

    pub(crate) async fn end(&self, code: Code, message: &str) {
        self.send(Frame::End(NodeCallEnd {
            code: code.into(),
            message: message.into(),
        }))
        .await;
    }

    /// Waits until the apiserver has ended the stream.
    pub(crate) async fn ended(mut self) {
        let ended = timeout(PATIENCE, self.back.message()).await.unwrap();
        assert_eq!(ended.unwrap(), None);
    }
}

async fn text(logs: &mut Streaming<GetPodLogsResponse>) -> Result<Option<String>, Status> {
    let message = timeout(PATIENCE, logs.message()).await.unwrap()?;
    Ok(message.map(|frame| String::from_utf8(frame.data.to_vec()).unwrap()))
}

pub(crate) async fn with_pod_on_n1() -> (Server, Channel) {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    create_pod(&root, pod_on("web", "n1")).await;
    (server, root)
}

#[tokio::test]
async fn logs_come_through_the_nodes_own_connection() {
    let (server, root) = with_pod_on_n1().await;
    let node = server.joined("n1").await;
    let mut line = line(&node, "n1").await;
    let mut logs = logs(&root, "web").await.unwrap();
    let (call_id, request) = call(&mut line).await;
    assert_eq!(
        (
            request.namespace.as_str(),
            request.name.as_str(),
            request.container.as_str()
        ),
        ("default", "web", "main")
    );
    assert!(request.follow);
    let answering = answer(&node, &call_id).await.unwrap();
    answering.data("one\n").await;
    assert_eq!(text(&mut logs).await.unwrap().unwrap(), "one\n");
    answering.data("two\n").await;
    assert_eq!(text(&mut logs).await.unwrap().unwrap(), "two\n");
    answering.end(Code::Ok, "").await;
    assert_eq!(text(&mut logs).await.unwrap(), None);
    answering.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn a_nodes_error_reaches_the_caller() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let mut logs = logs(&root, "web").await.unwrap();
    let (call_id, _) = call(&mut line).await;
    let answering = answer(&root, &call_id).await.unwrap();
    answering
        .end(Code::FailedPrecondition, "container main has not started yet")
        .await;
    let error = text(&mut logs).await.unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "NODE_ANSWERED".into()));
    assert_eq!(error.message(), "node n1: container main has not started yet");
    server.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_ends_the_nodes_answer() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let mut logs = logs(&root, "web").await.unwrap();
    let (call_id, _) = call(&mut line).await;
    let answering = answer(&root, &call_id).await.unwrap();
    answering.data("one\n").await;
    assert_eq!(text(&mut logs).await.unwrap().unwrap(), "one\n");
    drop(logs);
    answering.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn a_node_that_breaks_off_is_told_to_the_caller() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let mut logs = logs(&root, "web").await.unwrap();
    let (call_id, _) = call(&mut line).await;
    let answering = answer(&root, &call_id).await.unwrap();
    answering.data("one\n").await;
    assert_eq!(text(&mut logs).await.unwrap().unwrap(), "one\n");
    drop(answering);
    let error = text(&mut logs).await.unwrap_err();
    assert_eq!(told(&error), (Code::Unavailable, "NODE_LOST".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_node_lost_before_it_answers_is_told_at_once() {
    let (server, root) = with_pod_on_n1().await;
    let line = line(&root, "n1").await;
    let mut logs = logs(&root, "web").await.unwrap();
    drop(line);
    let error = text(&mut logs).await.unwrap_err();
    assert_eq!(told(&error), (Code::Unavailable, "NODE_LOST".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_holds_up_its_own_stream_alone() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let slow = logs(&root, "web").await.unwrap();
    let (slow_id, _) = call(&mut line).await;
    let flood = answer(&root, &slow_id).await.unwrap();
    let chunk = "x".repeat(256 * 1024);
    // Far more than the buffers between hold: at some point it waits for its reader.
    let flooding = async {
        for _ in 0..200 {
            flood.data(&chunk).await;
        }
    };
    assert!(timeout(Duration::from_secs(2), flooding).await.is_err());
    let mut quick = logs(&root, "web").await.unwrap();
    let (quick_id, _) = call(&mut line).await;
    let answering = answer(&root, &quick_id).await.unwrap();
    answering.data("one\n").await;
    assert_eq!(text(&mut quick).await.unwrap().unwrap(), "one\n");
    drop(slow);
    server.stop().await;
}

#[tokio::test]
async fn a_newer_line_takes_the_place_of_an_older() {
    let (server, root) = with_pod_on_n1().await;
    let mut older = line(&root, "n1").await;
    let mut newer = line(&root, "n1").await;
    let error = timeout(PATIENCE, older.message()).await.unwrap().unwrap_err();
    assert_eq!(told(&error), (Code::Aborted, "LINE_REPLACED".into()));
    drop(older);
    let _logs = logs(&root, "web").await.unwrap();
    call(&mut newer).await;
    server.stop().await;
}

#[tokio::test]
async fn logs_that_nobody_can_fetch_say_why() {
    let (server, root) = with_pod_on_n1().await;
    create_pod(&root, pod("waiting")).await;
    let error = logs(&root, "web").await.unwrap_err();
    assert_eq!(told(&error), (Code::Unavailable, "NODE_NOT_CONNECTED".into()));
    assert!(error.message().contains("node n1"), "{}", error.message());
    let error = logs(&root, "waiting").await.unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "NOT_BOUND".into()));
    let error = logs(&root, "missing").await.unwrap_err();
    assert_eq!(told(&error), (Code::NotFound, "NOT_FOUND".into()));
    let error = pods(&root)
        .get_pod_logs(GetPodLogsRequest {
            name: "web".into(),
            container: "sidecar".into(),
            ..GetPodLogsRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    assert!(error.message().contains("it has main"), "{}", error.message());
    for (since_seconds, since_time) in [(-1, None), (1, Some(pbjson_types::Timestamp::default()))] {
        let request = GetPodLogsRequest {
            name: "web".into(),
            since_seconds: Some(since_seconds),
            since_time,
            ..GetPodLogsRequest::default()
        };
        let error = pods(&root).get_pod_logs(request).await.unwrap_err();
        assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
        assert!(error.message().contains("since_seconds"), "{}", error.message());
    }
    server.stop().await;
}

#[tokio::test]
async fn calls_that_a_node_does_not_take_are_bounded() {
    let (server, root) = with_pod_on_n1().await;
    let _line = line(&root, "n1").await;
    let mut waiting = Vec::new();
    let refused = loop {
        match logs(&root, "web").await {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
        assert!(waiting.len() <= 64);
    };
    assert_eq!(told(&refused), (Code::ResourceExhausted, "NODE_BUSY".into()));
    drop(waiting);
    server.stop().await;
}

#[tokio::test]
async fn a_node_takes_and_answers_its_own_calls_alone() {
    let (server, root) = with_pod_on_n1().await;
    let other = server.joined("n2").await;
    let error = tunnel(&other)
        .watch_node_calls(WatchNodeCallsRequest {
            node_name: "n1".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::PermissionDenied, "FORBIDDEN".into()));
    let mut line = line(&root, "n1").await;
    let _logs = logs(&root, "web").await.unwrap();
    let (call_id, _) = call(&mut line).await;
    let error = answer(&other, &call_id).await.err().unwrap();
    assert_eq!(told(&error), (Code::PermissionDenied, "FORBIDDEN".into()));
    let answering = answer(&root, &call_id).await.unwrap();
    let again = answer(&root, &call_id).await.err().unwrap();
    assert_eq!(told(&again), (Code::NotFound, "NO_SUCH_CALL".into()));
    drop(answering);
    server.stop().await;
}

#[tokio::test]
async fn open_lines_and_answers_end_with_the_server() {
    let (server, root) = with_pod_on_n1().await;
    let mut line = line(&root, "n1").await;
    let mut logs = logs(&root, "web").await.unwrap();
    let (call_id, _) = call(&mut line).await;
    let _answering = answer(&root, &call_id).await.unwrap();
    let (ended, _dir) = tokio::join!(text(&mut logs), server.stop());
    assert_eq!(told(&ended.unwrap_err()), (Code::Unavailable, "STOPPING".into()));
}
