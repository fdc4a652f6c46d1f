//! Exec and Attach over SPDY, as `kubectl`, `crictl` and every client on client-go speak it: one stream each for
//! errors, input, output and terminal sizes, told apart by their header `streamtype`.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    Caller, Hangup, Line, Output, Size,
    attach::Wanted,
    line,
    status::{StatusForm, encode},
};
use crate::{
    error::Result,
    spdy::{Connection, Incoming, Stream, StreamReader, StreamWriter},
};

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// Error, input, output, error output and sizes, and as many once more for a client's mistakes.
const MOST_STREAMS: usize = 10;
/// The longest run of bytes that is taken for one terminal size.
const MAX_SIZE_TEXT: usize = 1 << 10;

/// The versions that this server speaks, and those that tell a size.
pub(super) const PROTOCOLS: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    sizes: bool,
    form: StatusForm,
}

impl Version {
    /// By its name; a client that names none speaks the first.
    pub(super) fn of(name: &str) -> Self {
        Self {
            sizes: matches!(name, "v4.channel.k8s.io" | "v3.channel.k8s.io"),
            form: if name == "v4.channel.k8s.io" {
                StatusForm::Json
            } else {
                StatusForm::Text
            },
        }
    }
}

/// The streams of one client.
#[derive(Debug, Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

/// Serves one session on an upgraded connection. `session` starts it for its caller and gives its exit code.
pub(super) async fn serve<IO, F>(
    io: IO,
    hangup: Hangup,
    version: Version,
    wanted: Wanted,
    tty: bool,
    session: impl FnOnce(Caller) -> F,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<i32>>,
{
    let (connection, incoming) = Connection::new(io, hangup, MOST_STREAMS);
    let mut served = std::pin::pin!(converse(incoming, version, wanted, tty, session));
    let mut driven = std::pin::pin!(connection.drive());
    tokio::select! {
        ended = &mut driven => {
            // The caller's end of the session goes with `served`.
            if let Err(error) = ended {
                tracing::debug!(error = clone8s_daemon::supervisor::chain(&error), "a stream's connection ended early");
            }
        }
        () = &mut served => {
            // What was written last, and the goodbye.
            let _ = driven.await;
        }
    }
}

async fn converse<F: Future<Output = Result<i32>>>(
    mut incoming: Incoming,
    version: Version,
    wanted: Wanted,
    tty: bool,
    session: impl FnOnce(Caller) -> F,
) {
    let opened = timeout(OPENING, open(&mut incoming, version, wanted, tty)).await;
    let Ok(Some(Streams {
        error: Some(error),
        stdin,
        stdout,
        stderr,
        resize,
    })) = opened
    else {
        tracing::info!("a client has not opened the streams that it asked for");
        incoming.say_goodbye().await;
        return;
    };
    let (caller, line) = line(wanted.stdin);
    let Line {
        stdin: to_stdin,
        resize: sizes,
        output,
    } = line;
    let input = async {
        if let (Some(stream), Some(to_stdin)) = (stdin, to_stdin) {
            let mut reader = stream.reader;
            while let Some(bytes) = reader.read().await {
                // Its process takes no more: the rest is read and dropped.
                let _ = to_stdin.send(bytes).await;
            }
            drop(to_stdin);
            // The stream stays open in this direction until the end: closing it would tell the client to stop.
            let _writer = stream.writer;
            std::future::pending::<()>().await;
        }
        std::future::pending::<()>().await;
    };
    let sizing = async {
        if let Some(stream) = resize {
            follow(stream.reader, |size| {
                sizes.send_replace(Some(size));
            })
            .await;
        }
        std::future::pending::<()>().await;
    };
    let ended = async {
        let written = deliver(output, stdout.map(|s| s.writer), stderr.map(|s| s.writer));
        let (outcome, ()) = tokio::join!(session(caller), written);
        outcome
    };
    let outcome = tokio::select! {
        outcome = ended => outcome,
        ((), ()) = async { tokio::join!(input, sizing) } => return,
    };
    let mut error = error.writer;
    // An error says that the client has gone.
    let _ = error.write(encode(&outcome, version.form)).await;
    error.finish().await;
    incoming.say_goodbye().await;
}

/// Waits for the streams that the session needs; none when the connection ends before.
async fn open(incoming: &mut Incoming, version: Version, wanted: Wanted, tty: bool) -> Option<Streams> {
    let mut streams = Streams::default();
    loop {
        let is_whole = streams.error.is_some()
            && streams.stdin.is_some() >= wanted.stdin
            && streams.stdout.is_some() >= wanted.stdout
            && streams.stderr.is_some() >= wanted.stderr
            && streams.resize.is_some() >= (tty && version.sizes);
        if is_whole {
            return Some(streams);
        }
        let stream = incoming.next().await?;
        let place = match stream.headers.get("streamtype").map(String::as_str) {
            Some("error") => &mut streams.error,
            Some("stdin") => &mut streams.stdin,
            Some("stdout") => &mut streams.stdout,
            Some("stderr") => &mut streams.stderr,
            Some("resize") => &mut streams.resize,
            // Reset as it is dropped.
            _ => continue,
        };
        *place = Some(stream);
    }
}

/// Carries output to its streams, and ends them.
async fn deliver(
    mut output: tokio::sync::mpsc::Receiver<Output>,
    mut stdout: Option<StreamWriter>,
    mut stderr: Option<StreamWriter>,
) {
    while let Some(output) = output.recv().await {
        let (writer, bytes) = match output {
            Output::Stdout(bytes) => (&mut stdout, bytes),
            Output::Stderr(bytes) => (&mut stderr, bytes),
        };
        let Some(stream) = writer else { continue };
        if stream.write(bytes).await.is_err() {
            // The client has closed this one.
            *writer = None;
        }
    }
    for stream in [stdout, stderr].into_iter().flatten() {
        stream.finish().await;
    }
}

/// Reads terminal sizes, JSON objects one after the other.
async fn follow(mut reader: StreamReader, mut tell: impl FnMut(Size)) {
    let mut text = Vec::new();
    while let Some(bytes) = reader.read().await {
        text.extend_from_slice(&bytes);
        let taken = sizes(&text, &mut tell);
        text.drain(..taken);
        if text.len() > MAX_SIZE_TEXT {
            text.clear();
        }
    }
}

/// Tells the whole sizes at the start of the text; how far they go. What is no size is passed over.
pub(super) fn sizes(text: &[u8], tell: &mut impl FnMut(Size)) -> usize {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    for value in values.by_ref() {
        match value {
            Ok(size) => tell(size),
            Err(error) if error.is_eof() => break,
            Err(_) => return text.len(),
        }
    }
    values.byte_offset()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> (Vec<(u16, u16)>, usize) {
        let mut told = Vec::new();
        let taken = sizes(text.as_bytes(), &mut |size: Size| {
            told.push((size.width, size.height));
        });
        (told, taken)
    }

    #[test]
    fn sizes_come_in_any_parts() {
        let whole = r#"{"Width":80,"Height":24}"#;
        assert_eq!(told(whole), (vec![(80, 24)], whole.len()));
        let two = format!("{whole}\n{{\"Width\":100,\"Hei");
        let (sizes, taken) = told(&two);
        assert_eq!(sizes, [(80, 24)]);
        assert!(two[taken..].trim_start().starts_with("{\"Width\":100"));
        assert_eq!(told("nonsense"), (vec![], 8));
        assert_eq!(told(r#"{"Width":-1,"Height":24}"#).0, []);
    }

    #[test]
    fn only_v4_tells_exit_codes_and_only_v3_and_later_tell_sizes() {
        let [v4, v3, v2, v1] = PROTOCOLS.map(Version::of);
        assert_eq!((v4.form, v4.sizes), (StatusForm::Json, true));
        assert_eq!((v3.form, v3.sizes), (StatusForm::Text, true));
        assert_eq!((v2.form, v2.sizes), (StatusForm::Text, false));
        assert_eq!(v1, Version::of(""));
    }
}
