//! PortForward: a connection to a port inside a pod.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    time::timeout,
};

use crate::{
    error::{Error, Result},
    pins::SandboxDir,
    sandbox::Sandbox,
    shim::Shim,
};

/// How long a pod may take to answer on its own loopback.
const CONNECT: Duration = Duration::from_secs(10);

impl Shim {
    /// The sandbox whose ports can be reached.
    pub(crate) fn forwardable(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.ready()?;
        let sandbox = self.table.sandbox(id)?;
        if sandbox.is_ready() {
            return Ok(sandbox);
        }
        Err(Error::WrongState {
            kind: "sandbox",
            id: sandbox.id.to_string(),
            state: "not ready",
            next_step: "ports can be forwarded to a sandbox that is ready",
        })
    }

    /// Connects to the port on the pod's loopback: that of IPv4, else that of IPv6.
    pub(crate) async fn connect(&self, sandbox: &Sandbox, port: u16) -> Result<TcpStream> {
        let netns = sandbox
            .wanted
            .net
            .then(|| SandboxDir::new(&self.config.state_dir, &sandbox.id).net());
        let failed = |cause| Error::Connect {
            sandbox: sandbox.id.to_string(),
            port,
            cause,
        };
        let Sockets { ipv4, ipv6 } = sockets(netns).await.map_err(failed)?;
        let first = connect(ipv4, (Ipv4Addr::LOCALHOST, port).into()).await;
        let stream = match (first, ipv6) {
            (Ok(stream), _) => stream,
            // What IPv4 says is what people know.
            (Err(error), Some(ipv6)) => connect(ipv6, (Ipv6Addr::LOCALHOST, port).into())
                .await
                .map_err(|_| failed(error))?,
            (Err(error), None) => return Err(failed(error)),
        };
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }
}

async fn connect(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT, socket.connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Not connected yet. A socket stays in the network that it was made in.
struct Sockets {
    ipv4: TcpSocket,
    /// None where the kernel has no IPv6.
    ipv6: Option<TcpSocket>,
}

async fn sockets(netns: Option<PathBuf>) -> io::Result<Sockets> {
    let Some(netns) = netns else { return make_sockets() };
    // Not on a thread of the async runtime: a thread that has entered another namespace must end there.
    let (reply, made) = oneshot::channel();
    std::thread::Builder::new()
        .name("enter-network".into())
        .spawn(move || {
            let entered = || {
                let netns = std::fs::File::open(&netns)?;
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&netns),
                    Some(LinkNameSpaceType::Network),
                )?;
                plain_sockets()
            };
            let _ = reply.send(entered());
        })?;
    let made = made
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread died")))?;
    Ok(made.into())
}

fn make_sockets() -> io::Result<Sockets> {
    Ok(plain_sockets()?.into())
}

type Plain = (std::net::TcpStream, Option<std::net::TcpStream>);

fn plain_sockets() -> io::Result<Plain> {
    let make = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, None).map(std::net::TcpStream::from)
    };
    Ok((make(AddressFamily::INET)?, make(AddressFamily::INET6).ok()))
}

impl From<Plain> for Sockets {
    fn from((ipv4, ipv6): Plain) -> Self {
        Self {
            ipv4: TcpSocket::from_std_stream(ipv4),
            ipv6: ipv6.map(TcpSocket::from_std_stream),
        }
    }
}
