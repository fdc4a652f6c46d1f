//! PortForward over SPDY: for each connection two streams with the same `requestid`, one for its bytes and one for what
//! went wrong with it.

use std::{collections::HashMap, time::Duration};

use bytes::BytesMut;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{Hangup, status::words};
use crate::{
    error::{Error, Result},
    spdy::{Connection, Headers, Incoming, Stream, StreamReader, StreamWriter},
};

/// The one version of the protocol, and the same within a WebSocket.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Two for each connection to the pod.
const MOST_STREAMS: usize = 512;
/// How long the second stream of a pair may take to follow the first.
const PAIRING: Duration = Duration::from_secs(30);
const PART: usize = 32 << 10;

/// Half of a pair that waits for the other.
struct Half {
    stream: Stream,
    since: Instant,
}

/// A connection to be.
#[derive(Debug)]
struct Pair {
    port: u16,
    data: Stream,
    error: StreamWriter,
}

/// Serves the streams of an upgraded connection. `connect` reaches a port of the pod.
pub(super) async fn serve<IO, F>(io: IO, hangup: Hangup, connect: impl Fn(u16) -> F)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<TcpStream>>,
{
    let (connection, incoming) = Connection::new(io, hangup, MOST_STREAMS);
    tokio::select! {
        ended = connection.drive() => {
            if let Err(error) = ended {
                tracing::debug!(error = clone8s_daemon::supervisor::chain(&error), "a port-forward's connection ended early");
            }
        }
        () = converse(incoming, connect) => {}
    }
}

async fn converse<F: Future<Output = Result<TcpStream>>>(mut incoming: Incoming, connect: impl Fn(u16) -> F) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut connections = FuturesUnordered::new();
    loop {
        let oldest = halves.values().map(|half| half.since).min();
        let too_late = oldest.map_or_else(Instant::now, |since| since + PAIRING);
        tokio::select! {
            stream = incoming.next() => {
                // The client's goodbye is the end of the whole connection, which sees to these futures.
                let Some(stream) = stream else { break };
                if let Some(pair) = pair(&mut halves, stream).await {
                    connections.push(forward(pair, &connect));
                }
            }
            Some(()) = connections.next() => {}
            () = sleep_until(too_late), if oldest.is_some() => {
                let now = Instant::now();
                // Reset as they are dropped.
                halves.retain(|_, half| half.since + PAIRING > now);
            }
        }
    }
}

/// Puts a stream to its other half. One that makes no sense is told so and closed.
async fn pair(halves: &mut HashMap<String, Half>, stream: Stream) -> Option<Pair> {
    let Some((key, port)) = name(&stream.headers) else {
        refuse(
            stream,
            "a stream needs headers streamtype, data or error, and port",
        )
        .await;
        return None;
    };
    let Some(other) = halves.remove(&key) else {
        let since = Instant::now();
        halves.insert(key, Half { stream, since });
        return None;
    };
    let (data, error) = match (is_error(&other.stream), is_error(&stream)) {
        (true, false) => (stream, other.stream),
        (false, true) => (other.stream, stream),
        _ => {
            refuse(stream, "the same stream twice for one connection").await;
            halves.insert(key, other);
            return None;
        }
    };
    Some(Pair {
        port,
        data,
        error: error.writer,
    })
}

fn is_error(stream: &Stream) -> bool {
    stream
        .headers
        .get("streamtype")
        .is_some_and(|kind| kind == "error")
}

/// What a stream belongs to; clients without request ids have one connection a port.
fn name(headers: &Headers) -> Option<(String, u16)> {
    let kind = headers.get("streamtype")?;
    let port: u16 = headers.get("port")?.parse().ok().filter(|&port| port > 0)?;
    let key = headers
        .get("requestid")
        .cloned()
        .unwrap_or_else(|| format!("port {port}"));
    matches!(kind.as_str(), "data" | "error").then_some((key, port))
}

async fn refuse(stream: Stream, problem: &'static str) {
    let mut writer = stream.writer;
    let _ = writer.write(problem.into()).await;
    writer.finish().await;
}

async fn forward<F: Future<Output = Result<TcpStream>>>(pair: Pair, connect: impl Fn(u16) -> F) {
    let Pair {
        port,
        data,
        mut error,
    } = pair;
    let forwarded = match connect(port).await {
        Ok(pod) => join(pod, data.reader, data.writer).await.map_err(|cause| {
            // What a client does with its local end is its own business: only the pod's side is told of.
            format!("port {port}: {cause}")
        }),
        Err(failed) => {
            data.writer.finish().await;
            Err(describe(port, &failed))
        }
    };
    if let Err(problem) = forwarded {
        let _ = error.write(problem.into()).await;
    }
    error.finish().await;
}

fn describe(port: u16, error: &Error) -> String {
    format!("error forwarding port {port}: {}", words(error))
}

/// Carries bytes both ways, each direction to its own end.
async fn join(pod: TcpStream, mut reader: StreamReader, mut writer: StreamWriter) -> std::io::Result<()> {
    let (mut from_pod, mut to_pod) = pod.into_split();
    let inwards = async {
        while let Some(bytes) = reader.read().await {
            if to_pod.write_all(&bytes).await.is_err() {
                // The pod takes no more; the rest is read and dropped, so that it holds up nobody.
                while reader.read().await.is_some() {}
                return;
            }
        }
        let _ = to_pod.shutdown().await;
    };
    let outwards = async {
        loop {
            let mut part = BytesMut::with_capacity(PART);
            if from_pod.read_buf(&mut part).await? == 0 {
                break;
            }
            if writer.write(part.freeze()).await.is_err() {
                return Ok(());
            }
        }
        writer.finish().await;
        Ok(())
    };
    let mut outwards = std::pin::pin!(outwards);
    tokio::select! {
        // The pod has said all: with TCP's usual meaning nothing that is still sent to it gets an answer.
        ended = &mut outwards => ended,
        () = inwards => outwards.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_belongs_to_its_request_or_to_its_port() {
        let headers = |pairs: &[(&str, &str)]| -> Headers {
            pairs
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let with_id = headers(&[("streamtype", "data"), ("port", "80"), ("requestid", "7")]);
        assert_eq!(name(&with_id), Some(("7".to_owned(), 80)));
        let without = headers(&[("streamtype", "error"), ("port", "80")]);
        assert_eq!(name(&without), Some(("port 80".to_owned(), 80)));
        for bad in [
            headers(&[("streamtype", "data")]),
            headers(&[("streamtype", "data"), ("port", "0")]),
            headers(&[("streamtype", "data"), ("port", "70000")]),
            headers(&[("streamtype", "stdin"), ("port", "80")]),
        ] {
            assert_eq!(name(&bad), None, "{bad:?}");
        }
    }
}
