//! `clone8s.runtime.v1.StreamingService`: the sessions of the URLs as streams of gRPC.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use clone8s::runtime::{
    AttachRequest, AttachResponse, ExecRequest, ExecResponse, PortForwardRequest, PortForwardResponse,
    Started, attach_request, attach_response, exec_request, exec_response, port_forward_request,
    port_forward_response, streaming_service_server::StreamingService,
};
use futures::stream::{BoxStream, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Line, Output, Size, attach::Wanted, line};
use crate::{
    error::{Error, Result},
    exec::Command,
    shim::Shim,
};

/// How long a caller may take to say what it wants.
const START: Duration = Duration::from_secs(30);
/// Messages on their way to the caller, of at most some 32 KiB; what does not fit makes the session wait.
const MESSAGES: usize = 4;
const PART: usize = 32 << 10;

/// Serves the streams.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) shim: Arc<Shim>,
}

type Messages<T> = BoxStream<'static, Result<T, Status>>;

/// What a caller sends once it has started.
enum Input {
    Stdin(Bytes),
    StdinEnd,
    Resize(Size),
    /// Nothing that matters here.
    Other,
}

#[tonic::async_trait]
impl StreamingService for Streams {
    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Messages<ExecResponse>>, Status> {
        let mut requests = request.into_inner();
        let Some(exec_request::Frame::Start(start)) = first(&mut requests).await?.frame else {
            return Err(no_start());
        };
        let command = Command {
            argv: start.command,
            tty: start.tty,
            stdin: start.stdin,
            size: start.size.and_then(size),
        };
        let wanted = Wanted {
            stdin: start.stdin,
            stdout: true,
            stderr: !start.tty,
        };
        let container = self.shim.executable(&start.container_id, &command)?;
        let (replies, stream) = mpsc::channel(MESSAGES);
        let shim = Arc::clone(&self.shim);
        self.shim.own(async move {
            let (caller, line) = line(wanted.stdin);
            let session = shim.complete(Arc::clone(&shim).exec(container, command, wanted, caller));
            let reply = |frame| ExecResponse { frame: Some(frame) };
            let carried = carry(
                line,
                requests.map(|request| request.map(ExecRequest::into_input)),
                &replies,
                |output| {
                    reply(match output {
                        None => exec_response::Frame::Started(Started {}),
                        Some(Output::Stdout(bytes)) => exec_response::Frame::Stdout(bytes),
                        Some(Output::Stderr(bytes)) => exec_response::Frame::Stderr(bytes),
                    })
                },
                session,
            );
            let last = match carried.await {
                Some(Ok(code)) => Ok(reply(exec_response::Frame::ExitCode(code))),
                Some(Err(error)) => Err(error.into()),
                None => return,
            };
            // An error says that the caller has gone.
            let _ = replies.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Messages<AttachResponse>>, Status> {
        let mut requests = request.into_inner();
        let Some(attach_request::Frame::Start(start)) = first(&mut requests).await?.frame else {
            return Err(no_start());
        };
        let wanted = Wanted {
            stdin: start.stdin,
            stdout: true,
            stderr: true,
        };
        let container = self.shim.attachable(&start.container_id, wanted)?;
        let (replies, stream) = mpsc::channel(MESSAGES);
        let shim = Arc::clone(&self.shim);
        self.shim.own(async move {
            let (caller, line) = line(wanted.stdin);
            let session = shim.complete(Arc::clone(&shim).attach(container, wanted, caller));
            let carried = carry(
                line,
                requests.map(|request| request.map(AttachRequest::into_input)),
                &replies,
                |output| AttachResponse {
                    frame: Some(match output {
                        None => attach_response::Frame::Started(Started {}),
                        Some(Output::Stdout(bytes)) => attach_response::Frame::Stdout(bytes),
                        Some(Output::Stderr(bytes)) => attach_response::Frame::Stderr(bytes),
                    }),
                },
                session,
            );
            if let Some(Err(error)) = carried.await {
                let _ = replies.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<PortForwardRequest>>,
    ) -> Result<Response<Messages<PortForwardResponse>>, Status> {
        let mut requests = request.into_inner();
        let Some(port_forward_request::Frame::Start(start)) = first(&mut requests).await?.frame else {
            return Err(no_start());
        };
        let port = u16::try_from(start.port)
            .ok()
            .filter(|&port| port > 0)
            .ok_or_else(|| Error::invalid("start.port", format!("{} is no port", start.port)))?;
        let sandbox = self.shim.forwardable(&start.pod_sandbox_id)?;
        let (mut from_pod, mut to_pod) = self.shim.connect(&sandbox, port).await?.into_split();
        let (replies, stream) = mpsc::channel(MESSAGES);
        let stopping = self.shim.stopping.clone();
        self.shim.own(async move {
            let reply = |frame| PortForwardResponse { frame: Some(frame) };
            let inwards = async {
                while let Some(Ok(request)) = requests.next().await {
                    let Some(port_forward_request::Frame::Data(bytes)) = request.frame else {
                        continue;
                    };
                    if to_pod.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                // Nothing more comes. The pod may have been quicker.
                let _ = to_pod.shutdown().await;
            };
            let outwards = async {
                let started = reply(port_forward_response::Frame::Started(Started {}));
                replies.send(Ok(started)).await.ok()?;
                loop {
                    let mut part = BytesMut::with_capacity(PART);
                    match from_pod.read_buf(&mut part).await {
                        Ok(0) => return Some(()),
                        Ok(_) => {
                            let data = port_forward_response::Frame::Data(part.freeze());
                            replies.send(Ok(reply(data))).await.ok()?;
                        }
                        Err(error) => {
                            let broken = Status::unavailable(format!("port {port}: {error}"));
                            return replies.send(Err(broken)).await.ok();
                        }
                    }
                }
            };
            let mut outwards = std::pin::pin!(outwards);
            tokio::select! {
                _ = &mut outwards => {}
                () = replies.closed() => {}
                () = stopping.cancelled() => {}
                () = inwards => {
                    tokio::select! {
                        _ = outwards => {}
                        () = replies.closed() => {}
                        () = stopping.cancelled() => {}
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

/// Joins a call's streams to a session; its outcome, or none when the caller has gone.
async fn carry<T, R>(
    line: Line,
    requests: impl futures::Stream<Item = Result<Input, Status>>,
    replies: &mpsc::Sender<Result<T, Status>>,
    reply: impl Fn(Option<Output>) -> T,
    session: impl Future<Output = Result<R>>,
) -> Option<Result<R>> {
    let Line {
        stdin,
        resize,
        mut output,
    } = line;
    let mut requests = std::pin::pin!(requests);
    let read = async {
        let mut stdin = stdin;
        while let Some(Ok(input)) = requests.next().await {
            match input {
                Input::Stdin(bytes) => {
                    if let Some(stdin) = &stdin {
                        // Its process takes no more: the rest is read and dropped.
                        let _ = stdin.send(bytes).await;
                    }
                }
                Input::StdinEnd => stdin = None,
                Input::Resize(size) => {
                    resize.send_replace(Some(size));
                }
                Input::Other => {}
            }
        }
        drop(stdin);
        std::future::pending::<()>().await;
    };
    let written = async {
        let mut delivered = replies.send(Ok(reply(None))).await.is_ok();
        while delivered && let Some(output) = output.recv().await {
            delivered = replies.send(Ok(reply(Some(output)))).await.is_ok();
        }
        // A session that writes on must see that nobody takes it.
        output.close();
    };
    let ended = async {
        let (outcome, ()) = tokio::join!(session, written);
        outcome
    };
    tokio::select! {
        outcome = ended => Some(outcome),
        () = replies.closed() => None,
        () = read => None,
    }
}

async fn first<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    let first = timeout(START, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no start has come within 30 s"))?;
    first?.ok_or_else(no_start)
}

fn no_start() -> Status {
    Error::invalid("start", "must be the first message").into()
}

/// None where no terminal is so large.
fn size(size: clone8s::runtime::TerminalSize) -> Option<Size> {
    Some(Size {
        width: size.width.try_into().ok()?,
        height: size.height.try_into().ok()?,
    })
}

fn resize(to: clone8s::runtime::TerminalSize) -> Input {
    size(to).map_or(Input::Other, Input::Resize)
}

trait IntoInput {
    fn into_input(self) -> Input;
}

impl IntoInput for ExecRequest {
    fn into_input(self) -> Input {
        match self.frame {
            Some(exec_request::Frame::Stdin(bytes)) => Input::Stdin(bytes),
            Some(exec_request::Frame::StdinEnd(_)) => Input::StdinEnd,
            Some(exec_request::Frame::Resize(asked)) => resize(asked),
            Some(exec_request::Frame::Start(_)) | None => Input::Other,
        }
    }
}

impl IntoInput for AttachRequest {
    fn into_input(self) -> Input {
        match self.frame {
            Some(attach_request::Frame::Stdin(bytes)) => Input::Stdin(bytes),
            Some(attach_request::Frame::StdinEnd(_)) => Input::StdinEnd,
            Some(attach_request::Frame::Resize(asked)) => resize(asked),
            Some(attach_request::Frame::Start(_)) | None => Input::Other,
        }
    }
}
