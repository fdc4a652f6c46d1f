//! Sessions as the runtime-shim's gRPC streams. CRI itself has them as URLs for SPDY and WebSocket, which this client
//! does not speak.

use std::{
    future::ready,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use clone8s::runtime::{
    AttachRequest, AttachResponse, AttachStart, ExecRequest, ExecResponse, ExecStart, PortForwardRequest,
    PortForwardResponse, PortForwardStart, StdinEnd, attach_request, attach_response, exec_request,
    exec_response, port_forward_request, port_forward_response,
    streaming_service_client::StreamingServiceClient,
};
use clone8s_daemon::{channel::Channel, unix};
use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use tonic::{Code, Response, Status, Streaming};

use crate::runtime::session::{Input, Inputs, Output, Outputs, Session, TerminalSize};

/// Bytes of a session that its caller has not read.
const WINDOW: u32 = 256 << 10;

/// Opens a session on a connection of its own: what a slow caller leaves unread must hold up nothing else, least of all
/// the calls of CRI.
pub(super) async fn open(socket: &Path, session: Session, input: Inputs) -> Result<Outputs, Status> {
    let channel = Channel::from(unix::channel_of_window(socket, WINDOW));
    let client = StreamingServiceClient::new(channel);
    match session {
        Session::Exec {
            container,
            command,
            stdin,
            tty,
            size,
        } => {
            let start = ExecStart {
                container_id: container.as_str().to_owned(),
                command,
                stdin,
                tty,
                size: size.map(sized),
            };
            exec(client, start, input).await
        }
        Session::Attach { container, stdin } => {
            let start = AttachStart {
                container_id: container.as_str().to_owned(),
                stdin,
            };
            attach(client, start, input).await
        }
        Session::PortForward { sandbox, port } => {
            let start = PortForwardStart {
                pod_sandbox_id: sandbox.as_str().to_owned(),
                port,
            };
            port_forward(client, start, input).await
        }
    }
}

async fn exec(
    mut client: StreamingServiceClient<Channel>,
    start: ExecStart,
    input: Inputs,
) -> Result<Outputs, Status> {
    use exec_request::Frame;
    let frames = input.map(|input| match input {
        Input::Data(bytes) => Frame::Stdin(bytes),
        Input::End => Frame::StdinEnd(StdinEnd {}),
        Input::Resize(size) => Frame::Resize(sized(size)),
    });
    let requests = requests(Frame::Start(start), frames, |frame| ExecRequest {
        frame: Some(frame),
    });
    outputs(client.exec(requests).await, |response: ExecResponse| {
        Some(match response.frame? {
            exec_response::Frame::Started(_) => Output::Started,
            exec_response::Frame::Stdout(bytes) => Output::Data(bytes),
            exec_response::Frame::Stderr(bytes) => Output::Stderr(bytes),
            exec_response::Frame::ExitCode(code) => Output::ExitCode(code),
        })
    })
}

async fn attach(
    mut client: StreamingServiceClient<Channel>,
    start: AttachStart,
    input: Inputs,
) -> Result<Outputs, Status> {
    use attach_request::Frame;
    let frames = input.map(|input| match input {
        Input::Data(bytes) => Frame::Stdin(bytes),
        Input::End => Frame::StdinEnd(StdinEnd {}),
        Input::Resize(size) => Frame::Resize(sized(size)),
    });
    let requests = requests(Frame::Start(start), frames, |frame| AttachRequest {
        frame: Some(frame),
    });
    outputs(client.attach(requests).await, |response: AttachResponse| {
        Some(match response.frame? {
            attach_response::Frame::Started(_) => Output::Started,
            attach_response::Frame::Stdout(bytes) => Output::Data(bytes),
            attach_response::Frame::Stderr(bytes) => Output::Stderr(bytes),
        })
    })
}

async fn port_forward(
    mut client: StreamingServiceClient<Channel>,
    start: PortForwardStart,
    input: Inputs,
) -> Result<Outputs, Status> {
    let requests = port_forward_requests(start, input);
    let responses = client.port_forward(requests).await;
    outputs(responses, |response: PortForwardResponse| {
        Some(match response.frame? {
            port_forward_response::Frame::Started(_) => Output::Started,
            port_forward_response::Frame::Data(bytes) => Output::Data(bytes),
        })
    })
}

/// The end of the requests is the input's.
fn port_forward_requests(start: PortForwardStart, input: Inputs) -> Requests<PortForwardRequest> {
    use port_forward_request::Frame;
    let frames = input
        .take_while(|input| ready(*input != Input::End))
        .filter_map(|input| {
            ready(match input {
                Input::Data(bytes) => Some(Frame::Data(bytes)),
                Input::End | Input::Resize(_) => None,
            })
        });
    requests(Frame::Start(start), frames, |frame| PortForwardRequest {
        frame: Some(frame),
    })
}

fn sized(TerminalSize { width, height }: TerminalSize) -> clone8s::runtime::TerminalSize {
    clone8s::runtime::TerminalSize { width, height }
}

fn requests<F: Send + 'static, R: Send + 'static>(
    start: F,
    frames: impl Stream<Item = F> + Send + 'static,
    request: fn(F) -> R,
) -> Requests<R> {
    Requests(stream::once(ready(start)).chain(frames).map(request).boxed())
}

/// Has a name, because the compiler loses the 'static of a bare box within an async block.
struct Requests<R>(BoxStream<'static, R>);

impl<R> Stream for Requests<R> {
    type Item = R;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<R>> {
        self.0.poll_next_unpin(context)
    }
}

fn outputs<R: Send + 'static>(
    answer: Result<Response<Streaming<R>>, Status>,
    output: fn(R) -> Option<Output>,
) -> Result<Outputs, Status> {
    let responses = answer.map_err(explained)?.into_inner();
    let outputs = responses.filter_map(move |response| ready(response.map(output).transpose()));
    Ok(outputs.boxed())
}

fn explained(status: Status) -> Status {
    if status.code() != Code::Unimplemented {
        return status;
    }
    Status::unimplemented(
        "its container runtime offers exec, attach and port-forward by CRI's URLs alone; run the kubelet on the \
         runtime-shim, which offers them as gRPC streams (clone8s.runtime.v1.StreamingService)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_runtime_without_the_streams_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("cri.sock");
        let incoming = clone8s_daemon::unix::listen(&socket).await.unwrap();
        // As containerd's own CRI: it serves, and does not know the service.
        let (_reporter, health) = tonic_health::server::health_reporter();
        let server = tonic::transport::Server::builder().add_service(health);
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(server.serve_with_incoming(incoming));
        let session = Session::Attach {
            container: crate::runtime::ContainerId::new("c1"),
            stdin: false,
        };
        let refused = open(&socket, session, stream::pending().boxed())
            .await
            .err()
            .unwrap();
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains("runtime-shim"), "{refused}");
    }
}
