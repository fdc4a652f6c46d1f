//! Exec and Attach over WebSocket: each message starts with the number of its channel, and v5 has a message that ends
//! one. Also what carries a whole SPDY connection within a WebSocket.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    Caller, Hangup, Line, Output,
    attach::Wanted,
    line, remote_command,
    status::{StatusForm, encode},
};
use crate::error::Result;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the channel whose number follows has ended.
const CLOSE: u8 = 255;

/// The longest message that is taken; clients send 32 KiB at a time.
const MAX_MESSAGE: usize = 1 << 20;
/// How long a client may take to answer the closing.
const LINGER: Duration = Duration::from_secs(5);

/// The versions that this server speaks.
pub(super) const PROTOCOLS: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// Text messages: the channel's digit, then base64.
    base64: bool,
    closes: bool,
    form: StatusForm,
}

impl Version {
    /// By its name; a client that names none speaks the first.
    pub(super) fn of(name: &str) -> Self {
        Self {
            base64: name.contains("base64"),
            closes: name.starts_with("v5."),
            form: if name.starts_with("v4.") || name.starts_with("v5.") {
                StatusForm::Json
            } else {
                StatusForm::Text
            },
        }
    }

    fn message(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + bytes.len() * 4 / 3 + 4);
            text.push(char::from(b'0' + channel));
            STANDARD.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.put_u8(channel);
        message.put_slice(bytes);
        Message::binary(message.freeze())
    }

    /// Channel and bytes of a message; none for one that is neither.
    fn read(self, message: Message) -> Option<(u8, Bytes)> {
        if self.base64 {
            let text = match &message {
                Message::Text(text) => text.as_bytes(),
                Message::Binary(bytes) => bytes,
                _ => return None,
            };
            let (&digit, text) = text.split_first()?;
            let bytes = STANDARD.decode(text).ok()?;
            return Some((digit.checked_sub(b'0')?, bytes.into()));
        }
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            _ => return None,
        };
        (!bytes.is_empty()).then(|| (bytes.split_to(1)[0], bytes))
    }
}

/// The server's end of an upgraded connection.
pub(super) async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(io: IO) -> WebSocketStream<IO> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(4 << 20);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Serves one session. `session` starts it for its caller and gives its exit code.
pub(super) async fn serve<IO, F>(
    socket: WebSocketStream<IO>,
    hangup: Hangup,
    version: Version,
    wanted: Wanted,
    session: impl FnOnce(Caller) -> F,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<i32>>,
{
    let (mut sink, mut messages) = socket.split();
    let (caller, line) = line(wanted.stdin);
    let Line {
        stdin,
        resize,
        mut output,
    } = line;
    let read = async {
        let mut stdin = stdin;
        while let Some(Ok(message)) = messages.next().await {
            match version.read(message) {
                Some((STDIN, bytes)) => {
                    let Some(stdin) = &stdin else { continue };
                    tokio::select! {
                        // Its process takes no more: the rest is read and dropped.
                        _ = stdin.send(bytes) => {}
                        () = hangup.happens() => return,
                    }
                }
                Some((RESIZE, text)) => {
                    remote_command::sizes(&text, &mut |size| {
                        resize.send_replace(Some(size));
                    });
                }
                Some((CLOSE, channel)) if version.closes && *channel == [STDIN] => stdin = None,
                _ => {}
            }
        }
    };
    let written = async {
        // Tells the client that the session is there, as kubelets' servers do.
        let first = match wanted {
            Wanted { stdout: true, .. } => STDOUT,
            Wanted { stderr: true, .. } => STDERR,
            _ => ERROR,
        };
        sink.send(version.message(first, &[])).await?;
        let delivered = async {
            let mut delivered = Ok(());
            while let Some(part) = output.recv().await {
                let message = match part {
                    Output::Stdout(bytes) if wanted.stdout => version.message(STDOUT, &bytes),
                    Output::Stderr(bytes) if wanted.stderr => version.message(STDERR, &bytes),
                    _ => continue,
                };
                delivered = sink.send(message).await;
                if delivered.is_err() {
                    break;
                }
            }
            // A session that writes on must see that nobody takes it.
            output.close();
            delivered
        };
        let (outcome, delivered) = tokio::join!(session(caller), delivered);
        delivered?;
        close(&mut sink, version.message(ERROR, &encode(&outcome, version.form))).await
    };
    let written: Result<(), tungstenite::Error> = tokio::select! {
        written = written => written,
        // The client has gone; its end of the session goes with this.
        () = read => return,
    };
    match written {
        Ok(()) => drain(&mut messages).await,
        Err(error) => tracing::debug!(%error, "a stream's WebSocket ended early"),
    }
}

/// The last message and the goodbye.
async fn close(
    sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    last: Message,
) -> Result<(), tungstenite::Error> {
    sink.send(last).await?;
    sink.send(goodbye()).await
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

/// Waits for the client to close: closing first would cut off what it has not read yet.
async fn drain(messages: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin)) {
    let read_to_end = async { while let Some(Ok(_)) = messages.next().await {} };
    let _ = timeout(LINGER, read_to_end).await;
}

/// Carries the bytes of a connection in binary messages, both ways, until either side ends.
pub(super) async fn tunnel<IO: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<IO>,
    inner: DuplexStream,
    hangup: Hangup,
) {
    const PART: usize = 32 << 10;
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(inner);
    let inwards = async {
        while let Some(Ok(message)) = messages.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            let written = tokio::select! {
                written = writer.write_all(&bytes) => written,
                () = hangup.happens() => break,
            };
            if written.is_err() {
                break;
            }
        }
    };
    let outwards = async {
        loop {
            let mut part = BytesMut::with_capacity(PART);
            match reader.read_buf(&mut part).await {
                Ok(1..) => {
                    if sink.send(Message::binary(part.freeze())).await.is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => break,
            }
        }
        // An error says that the client has closed first.
        let _ = sink.send(goodbye()).await;
    };
    tokio::select! {
        // Its end of the connection goes with this.
        () = inwards => {}
        () = outwards => drain(&mut messages).await,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("v5.channel.k8s.io")]
    #[case("v4.channel.k8s.io")]
    #[case("v4.base64.channel.k8s.io")]
    #[case("base64.channel.k8s.io")]
    #[case("")]
    fn a_message_is_read_as_it_was_written_by(#[case] protocol: &str) {
        let version = Version::of(protocol);
        for (channel, bytes) in [(STDOUT, &b"text\n\xff"[..]), (ERROR, b""), (RESIZE, b"{}")] {
            let read = version.read(version.message(channel, bytes));
            assert_eq!(read, Some((channel, Bytes::copy_from_slice(bytes))));
        }
    }

    #[test]
    fn a_message_without_a_channel_or_with_broken_base64_is_none() {
        assert_eq!(
            Version::of("v5.channel.k8s.io").read(Message::binary(Bytes::new())),
            None
        );
        let base64 = Version::of("base64.channel.k8s.io");
        assert_eq!(base64.read(Message::text("0%%%")), None);
        assert_eq!(base64.read(Message::text("")), None);
        assert_eq!(base64.read(Message::text("!aGk=")), None);
        assert_eq!(base64.read(Message::text("0aGk=")), Some((0, "hi".into())));
    }
}
