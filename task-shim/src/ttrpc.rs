//! ttrpc, containerd's small relative of gRPC (github.com/containerd/ttrpc, PROTOCOL.md): frames of one header and
//! one message on a unix socket. Only single requests with single answers; the task API has no streams.

use std::{future::Future, io, path::Path, rc::Rc};

use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
    task::JoinSet,
};

use crate::failure::{Code, Failure};

/// As the protocol has it; a peer that announces more is broken.
const MAX_MESSAGE: usize = 4 << 20;
const HEADER: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    timeout_nano: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// `google.rpc.Status` without its details.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

struct Frame {
    stream: u32,
    kind: u8,
    body: Vec<u8>,
}

async fn read_frame(reader: &mut OwnedReadHalf) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER];
    match reader.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => drop(other?),
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = number(0) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!(
            "a message of {length} bytes, over the protocol's 4 MiB"
        )));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Ok(Some(Frame {
        stream: number(4),
        kind: header[8],
        body,
    }))
}

async fn write_frame(
    writer: &mut OwnedWriteHalf,
    stream: u32,
    kind: u8,
    message: &impl Message,
) -> io::Result<()> {
    writer.write_all(&frame(stream, kind, message)).await
}

fn frame(stream: u32, kind: u8, message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    // Writing to memory cannot fail.
    let _ = message.encode(&mut frame);
    frame
}

/// One call without an async runtime, for a process that does nothing else.
pub(crate) fn call_blocking(
    mut stream: &std::os::unix::net::UnixStream,
    service: &str,
    method: &str,
    message: &impl Message,
) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    send_blocking(stream, service, method, message)?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let mut body = vec![0; length.min(MAX_MESSAGE)];
    stream.read_exact(&mut body)?;
    outcome(&body)
}

pub(crate) fn send_blocking(
    mut stream: &std::os::unix::net::UnixStream,
    service: &str,
    method: &str,
    message: &impl Message,
) -> io::Result<()> {
    use std::io::Write as _;
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: message.encode_to_vec(),
        timeout_nano: 0,
    };
    stream.write_all(&frame(1, REQUEST, &request))
}

fn outcome(body: &[u8]) -> io::Result<Vec<u8>> {
    let response = Response::decode(body).map_err(io::Error::other)?;
    match response.status {
        Some(status) if status.code != Code::Ok as i32 => Err(io::Error::other(status.message)),
        _ => Ok(response.payload),
    }
}

/// Answers what comes on one connection until its end, several requests at a time.
pub(crate) async fn serve<H, F>(stream: UnixStream, handle: H) -> io::Result<()>
where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Vec<u8>, Failure>> + 'static,
{
    let (mut reader, writer) = stream.into_split();
    let writer = Rc::new(Mutex::new(writer));
    let mut calls = JoinSet::new();
    let end = loop {
        let frame = match read_frame(&mut reader).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        // Those that have ended are forgotten.
        while calls.try_join_next().is_some() {}
        if frame.kind != REQUEST {
            continue;
        }
        let request = match Request::decode(frame.body.as_slice()) {
            Ok(request) => request,
            Err(error) => break Err(io::Error::other(error)),
        };
        let (answer, writer) = (handle(request), Rc::clone(&writer));
        calls.spawn_local(async move {
            let response = match answer.await {
                Ok(payload) => Response {
                    status: None,
                    payload,
                },
                Err(failure) => Response {
                    status: Some(Status {
                        code: failure.code() as i32,
                        message: failure.to_string(),
                    }),
                    payload: Vec::new(),
                },
            };
            // A caller that has gone away wants no answer.
            let _ = write_frame(&mut *writer.lock().await, frame.stream, RESPONSE, &response).await;
        });
    };
    // What was asked for is done, however the connection ended: a half-made container would be nobody's.
    while calls.join_next().await.is_some() {}
    end
}

/// Calls of one connection, one after the other.
#[derive(Debug)]
pub(crate) struct Client {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// Odd, as those of clients are.
    next_stream: u32,
}

impl Client {
    pub(crate) async fn connect(path: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(path).await?.into_split();
        Ok(Self {
            reader,
            writer,
            next_stream: 1,
        })
    }

    /// Makes a call whose answer says nothing but that it was done.
    pub(crate) async fn call(
        &mut self,
        service: &str,
        method: &str,
        message: &impl Message,
    ) -> io::Result<()> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec(),
            timeout_nano: 0,
        };
        write_frame(&mut self.writer, stream, REQUEST, &request).await?;
        loop {
            let Some(frame) = read_frame(&mut self.reader).await? else {
                return Err(io::ErrorKind::ConnectionReset.into());
            };
            if frame.stream != stream || frame.kind != RESPONSE {
                continue;
            }
            return outcome(&frame.body).map(drop);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::messages::{ContainerRequest, Empty};

    #[tokio::test]
    async fn answers_and_failures_reach_their_callers_whatever_is_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, |request| async move {
                let asked = ContainerRequest::decode(request.payload.as_slice()).unwrap();
                match asked.id.as_str() {
                    "slow" => tokio::time::sleep(Duration::from_millis(50)).await,
                    "missing" => return Err(Failure::NotFound("container missing".into())),
                    _ => {}
                }
                Ok(Empty {}.encode_to_vec())
            })
            .await
            .unwrap();
        };
        let client = async {
            let mut client = Client::connect(&path).await.unwrap();
            let of = |id: &str| ContainerRequest { id: id.to_owned() };
            // Asked first and answered last: its answer must not be taken for that of the next.
            let slow = Request {
                method: "Slow".into(),
                payload: of("slow").encode_to_vec(),
                ..Request::default()
            };
            write_frame(&mut client.writer, 99, REQUEST, &slow).await.unwrap();
            client.call("s", "Quick", &of("quick")).await.unwrap();
            let error = client.call("s", "Quick", &of("missing")).await.unwrap_err();
            assert!(error.to_string().contains("missing"), "{error}");
        };
        let local = tokio::task::LocalSet::new();
        local.run_until(async { tokio::join!(server, client) }).await;
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_ends_the_connection() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, _writer) = theirs.into_split();
        let (_, mut raw) = ours.into_split();
        raw.write_all(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, REQUEST, 0])
            .await
            .unwrap();
        assert!(read_frame(&mut reader).await.is_err());
    }
}
