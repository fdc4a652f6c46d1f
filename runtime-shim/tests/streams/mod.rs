//! Clients of streams: gRPC, and a WebSocket that knows Kubernetes' channels.

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clone8s::{
    cri,
    runtime::{
        AttachRequest, AttachResponse, AttachStart, ExecRequest, ExecResponse, ExecStart, PortForwardRequest,
        PortForwardResponse, PortForwardStart, StdinEnd, TerminalSize, attach_request, attach_response,
        exec_request, exec_response, port_forward_request, port_forward_response,
        streaming_service_client::StreamingServiceClient,
    },
};
use futures::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};
use tonic::{Status, Streaming, transport::Channel};

use super::rig::Rig;

/// A call with both its streams. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Call<Q, R> {
    requests: Option<mpsc::Sender<Q>>,
    replies: Streaming<R>,
}

/// What a command wrote, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) code: Option<i32>,
}

fn client(rig: &Rig) -> StreamingServiceClient<Channel> {
    StreamingServiceClient::new(rig.channel())
}

fn requests<Q>(first: Q) -> (mpsc::Sender<Q>, ReceiverStream<Q>) {
    let (sender, receiver) = mpsc::channel(16);
    assert!(sender.try_send(first).is_ok(), "there is room for one");
    (sender, ReceiverStream::new(receiver))
}

impl<Q, R> Call<Q, R> {
    async fn put(&self, request: Q) {
        let requests = self.requests.as_ref().expect("the request stream is open");
        // The other side may have ended.
        let _ = requests.send(request).await;
    }
}

impl Call<ExecRequest, ExecResponse> {
    pub(crate) async fn open_exec(rig: &Rig, start: ExecStart) -> Result<Self, Status> {
        let frame = Some(exec_request::Frame::Start(start));
        let (sender, stream) = requests(ExecRequest { frame });
        let replies = client(rig).exec(stream).await?.into_inner();
        Ok(Self {
            requests: Some(sender),
            replies,
        })
    }

    /// A line of shell.
    pub(crate) async fn exec(
        rig: &Rig,
        container: &str,
        line: &str,
        stdin: bool,
        tty: bool,
    ) -> Result<Self, Status> {
        let command = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        let start = ExecStart {
            container_id: container.to_owned(),
            command,
            stdin,
            tty,
            size: None,
        };
        Self::open_exec(rig, start).await
    }

    async fn send(&self, frame: exec_request::Frame) {
        self.put(ExecRequest { frame: Some(frame) }).await;
    }

    pub(crate) async fn stdin(&self, text: &str) {
        self.send(exec_request::Frame::Stdin(text.to_owned().into()))
            .await;
    }

    pub(crate) async fn stdin_end(&self) {
        self.send(exec_request::Frame::StdinEnd(StdinEnd {})).await;
    }

    pub(crate) async fn resize(&self, width: u32, height: u32) {
        self.send(exec_request::Frame::Resize(TerminalSize { width, height }))
            .await;
    }

    /// The next frame after the start.
    pub(crate) async fn next(&mut self) -> Result<Option<exec_response::Frame>, Status> {
        loop {
            match self.replies.message().await?.and_then(|reply| reply.frame) {
                Some(exec_response::Frame::Started(_)) => {}
                frame => return Ok(frame),
            }
        }
    }

    pub(crate) async fn ended(mut self) -> Result<Ended, Status> {
        let mut ended = Ended::default();
        while let Some(frame) = self.next().await? {
            match frame {
                exec_response::Frame::Started(_) => {}
                exec_response::Frame::Stdout(bytes) => ended.stdout.extend_from_slice(&bytes),
                exec_response::Frame::Stderr(bytes) => ended.stderr.extend_from_slice(&bytes),
                exec_response::Frame::ExitCode(code) => ended.code = Some(code),
            }
        }
        Ok(ended)
    }
}

/// A command without input, to its end.
pub(crate) async fn run_command(rig: &Rig, container: &str, command: &[&str]) -> Result<Ended, Status> {
    let start = ExecStart {
        container_id: container.to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        ..ExecStart::default()
    };
    Call::open_exec(rig, start).await?.ended().await
}

impl Call<AttachRequest, AttachResponse> {
    pub(crate) async fn attach(rig: &Rig, container: &str, stdin: bool) -> Result<Self, Status> {
        let container_id = container.to_owned();
        let frame = Some(attach_request::Frame::Start(AttachStart { container_id, stdin }));
        let (sender, stream) = requests(AttachRequest { frame });
        let mut replies = client(rig).attach(stream).await?.into_inner();
        let first = replies.message().await?.and_then(|reply| reply.frame);
        assert!(
            matches!(first, Some(attach_response::Frame::Started(_))),
            "{first:?}"
        );
        Ok(Self {
            requests: Some(sender),
            replies,
        })
    }

    pub(crate) async fn send(&self, frame: attach_request::Frame) {
        self.put(AttachRequest { frame: Some(frame) }).await;
    }

    pub(crate) async fn next(&mut self) -> Result<Option<attach_response::Frame>, Status> {
        Ok(self.replies.message().await?.and_then(|reply| reply.frame))
    }
}

impl Call<PortForwardRequest, PortForwardResponse> {
    pub(crate) async fn forward(rig: &Rig, sandbox: &str, port: u32) -> Result<Self, Status> {
        let start = PortForwardStart {
            pod_sandbox_id: sandbox.to_owned(),
            port,
        };
        let frame = Some(port_forward_request::Frame::Start(start));
        let (sender, stream) = requests(PortForwardRequest { frame });
        let replies = client(rig).port_forward(stream).await?.into_inner();
        Ok(Self {
            requests: Some(sender),
            replies,
        })
    }
}

/// What an HTTP server behind a port of a pod answers, head and all.
pub(crate) async fn fetch(rig: &Rig, sandbox: &str, port: u32) -> anyhow::Result<String> {
    let mut call = Call::forward(rig, sandbox, port).await?;
    let frame = port_forward_request::Frame::Data("GET /page HTTP/1.0\r\n\r\n".into());
    call.put(PortForwardRequest { frame: Some(frame) }).await;
    let mut answer = Vec::new();
    while let Some(reply) = call.replies.message().await? {
        if let Some(port_forward_response::Frame::Data(bytes)) = reply.frame {
            answer.extend_from_slice(&bytes);
        }
    }
    String::from_utf8(answer).context("text")
}

/// The URL of a line of shell.
pub(crate) async fn exec_url(rig: &Rig, container: &str, line: &str, stdin: bool) -> Result<String, Status> {
    let request = cri::ExecRequest {
        container_id: container.to_owned(),
        cmd: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        stdin,
        stdout: true,
        stderr: true,
        tty: false,
    };
    Ok(rig.runtime().exec(request).await?.into_inner().url)
}

/// A client of Kubernetes' channels.
#[derive(Debug)]
pub(crate) struct WebSocket {
    socket: WebSocketStream<TcpStream>,
    base64: bool,
}

/// What came on each channel until the end.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) error: Vec<u8>,
}

impl WebSocket {
    /// The HTTP status of a refusal.
    pub(crate) async fn connect(url: &str, protocol: &str) -> Result<Self, u16> {
        let mut request = url
            .replacen("http://", "ws://", 1)
            .into_client_request()
            .expect("a URL");
        let name = protocol.parse().expect("a protocol");
        request.headers_mut().insert("sec-websocket-protocol", name);
        let address = url.split('/').nth(2).expect("an address");
        let stream = TcpStream::connect(address).await.expect("a server");
        match client_async(request, stream).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
                let base64 = protocol.contains("base64");
                Ok(Self { socket, base64 })
            }
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = if self.base64 {
            Message::text(format!("{channel}{}", STANDARD.encode(bytes)))
        } else {
            Message::binary([&[channel], bytes].concat())
        };
        self.socket.send(message).await.expect("the server listens");
    }

    /// The next message with anything in it.
    pub(crate) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let (channel, bytes) = match self.socket.next().await?.expect("a message") {
                Message::Binary(bytes) => (bytes[0], bytes[1..].to_vec()),
                Message::Text(text) => {
                    let (digit, text) = text.split_at(1);
                    let bytes = STANDARD.decode(text).expect("base64");
                    (digit.parse().expect("a digit"), bytes)
                }
                Message::Close(close) => {
                    assert_eq!(close.map(|close| u16::from(close.code)), Some(1000));
                    return None;
                }
                _ => continue,
            };
            if !bytes.is_empty() {
                return Some((channel, bytes));
            }
        }
    }

    pub(crate) async fn ended(mut self) -> Channels {
        let mut channels = Channels::default();
        while let Some((channel, bytes)) = self.next().await {
            match channel {
                1 => channels.stdout.extend(bytes),
                2 => channels.stderr.extend(bytes),
                3 => channels.error.extend(bytes),
                other => panic!("channel {other}"),
            }
        }
        channels
    }
}

/// The error channel's last word.
pub(crate) fn status_of(error: &[u8]) -> serde_json::Value {
    serde_json::from_slice(error).expect("a status in JSON")
}
