//! `c8s port-forward`: ports of a pod on this machine's loopback.

use std::{
    future::ready,
    io::{self, Write},
    net::Ipv4Addr,
    str::FromStr,
};

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use clap::Args;
use clone8s::{
    client::Resource as _,
    v1::{
        Pod, PortForwardPodRequest, PortForwardPodStart, pod_service_client::PodServiceClient,
        port_forward_pod_request, port_forward_pod_response,
    },
};
use clone8s_daemon::channel::Channel;
use futures::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

use crate::{
    connection::ConnectionArgs,
    namespace::NamespaceArgs,
    session::{self, ReceiveError},
    status::explain,
};

/// Bytes of one message.
const PART: usize = 32 << 10;
/// Messages on their way; a connection that sends more waits.
const MESSAGES: usize = 4;

/// Goes on until it is interrupted. Whatever listens on the pod's loopback or on all of its addresses is reached.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s port-forward hello 8080
  c8s port-forward hello 9000:8080 :5432")]
pub struct PortForwardArgs {
    /// The pod's name
    pod: String,
    /// A port here, of 127.0.0.1, and the pod's; one number stands for both, and with none before ':' any free one is taken
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    ports: Vec<Ports>,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

/// A port of the loopback, 0 for any that is free, and the pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            let port: Option<u16> = text.parse().ok().filter(|port| *port > 0);
            port.ok_or_else(|| format!("{text:?} is no port, which is 1 to 65535"))
        };
        Ok(match text.split_once(':') {
            None => Self {
                local: port(text)?,
                remote: port(text)?,
            },
            Some(("" | "0", remote)) => Self {
                local: 0,
                remote: port(remote)?,
            },
            Some((local, remote)) => Self {
                local: port(local)?,
                remote: port(remote)?,
            },
        })
    }
}

pub async fn run(args: &PortForwardArgs, connection: &ConnectionArgs, out: &mut impl Write) -> Result<()> {
    let pod = session::pod_name(&args.pod);
    let namespace = &args.namespace.namespace;
    // What is wrong with the name is told now, not by each connection.
    let found = Pod::get(&connection.connect()?, namespace, &pod).await;
    found.map_err(|status| session::failed(&pod, &status))?;
    let mut listening = Vec::new();
    for ports in &args.ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.local)).await;
        let listener = listener.with_context(|| format!("cannot listen on 127.0.0.1:{}", ports.local))?;
        writeln!(
            out,
            "{} -> pod/{pod} port {}",
            listener.local_addr()?,
            ports.remote
        )?;
        let remote = ports.remote;
        listening.push(TcpListenerStream::new(listener).map(move |accepted| (accepted, remote)));
    }
    out.flush()?;
    let mut accepted = stream::select_all(listening);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some((socket, port)) = accepted.next() => {
                let start = PortForwardPodStart {
                    namespace: namespace.clone(),
                    name: pod.clone(),
                    port: port.into(),
                };
                // A channel of its own: one that reads slowly holds up itself alone.
                let channel = connection.connect()?;
                connections.spawn(async move { (port, forward(socket, channel, start).await) });
            }
            Some(ended) = connections.join_next() => if let (port, Err(error)) = ended? {
                eprintln!("port {port}: {}", describe(&error));
            },
        }
    }
}

/// Carries one connection to its end.
async fn forward(
    socket: io::Result<TcpStream>,
    channel: Channel,
    start: PortForwardPodStart,
) -> Result<(), ReceiveError> {
    use port_forward_pod_request::Frame;
    let (from_here, mut to_here) = socket?.into_split();
    let (data, received) = mpsc::channel(MESSAGES);
    let frames = stream::once(ready(Frame::Start(start))).chain(ReceiverStream::new(received));
    let requests = frames.map(|frame| PortForwardPodRequest { frame: Some(frame) });
    let call = PodServiceClient::new(channel).port_forward_pod(requests).await?;
    let mut responses = call.into_inner();
    let outwards = async {
        while let Some(response) = responses.message().await? {
            if let Some(port_forward_pod_response::Frame::Data(bytes)) = response.frame {
                to_here.write_all(&bytes).await?;
            }
        }
        Ok(to_here.shutdown().await?)
    };
    let inwards = async {
        send_all(from_here, data).await?;
        // The pod may still answer.
        std::future::pending().await
    };
    tokio::select! {
        ended = outwards => ended,
        broken = inwards => broken,
    }
}

/// Sends what is to be read; the sender's end is the end of the requests.
async fn send_all(
    mut from: OwnedReadHalf,
    to: mpsc::Sender<port_forward_pod_request::Frame>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PART);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let data = port_forward_pod_request::Frame::Data(buffer.split().freeze());
        // A call that has ended takes no more; its outcome is told elsewhere.
        if to.send(data).await.is_err() {
            return Ok(());
        }
    }
}

fn describe(error: &ReceiveError) -> String {
    match error {
        ReceiveError::Call(status) => explain(status),
        ReceiveError::Io(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_both_ports_and_none_before_the_colon_is_any() {
        let ports = |local, remote| Ok(Ports { local, remote });
        assert_eq!("80".parse(), ports(80, 80));
        assert_eq!("8080:80".parse(), ports(8080, 80));
        assert_eq!(":80".parse(), ports(0, 80));
        assert_eq!("0:80".parse(), ports(0, 80));
        for bad in ["", "0", "80:", "80:0", "65536", "a:b", "1:2:3"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
