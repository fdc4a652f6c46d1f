//! The HTTP server behind the URLs that CRI's Exec, Attach and PortForward give.
//!
//! ```text
//! accept ─► (TLS) ─► request ─► protocol agreed ─► ticket taken ─► 101 ─► session
//! ```

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use clone8s::cri;
use clone8s_daemon::Shutdown;
use http::Request;
use hyper::{
    body::Incoming,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{
    Hangup,
    attach::Wanted,
    port_forward, remote_command,
    tickets::{Ticket, Tickets},
    tls::{Socket, Tls, TlsError},
    upgrade::{Protocol, Refusal},
    websocket,
};
use crate::{
    config::StreamConfig,
    error::{Error, Result},
    exec::Command,
    shim::Shim,
    table::lock,
};

/// Sessions at a time; further connections wait in the kernel's queue.
const SESSIONS: usize = 1024;
/// How long a client may take over TLS, and how long over its request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(10);
/// Buffered between a WebSocket and the SPDY within it.
const TUNNEL_BUFFER: usize = 64 << 10;

/// Why the streaming server cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error(
        "cannot listen for streams on {address}: choose another address (--stream-address), or stop what uses it"
    )]
    Bind {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Gives URLs, and serves them.
#[derive(Debug)]
pub(crate) struct Streaming {
    shim: Arc<Shim>,
    tickets: Tickets,
    /// Scheme, host and port.
    base: String,
    tls: Option<Tls>,
}

/// The bound address; connections wait until it is served.
#[derive(Debug)]
pub(crate) struct StreamListener(TcpListener);

impl Streaming {
    pub(crate) async fn bind(
        config: &StreamConfig,
        shim: Arc<Shim>,
    ) -> Result<(Arc<Self>, StreamListener), ServerError> {
        let failed = |cause| ServerError::Bind {
            address: config.address,
            cause,
        };
        let tls = config.tls.clone().map(Tls::read).transpose()?;
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = match &config.host {
            Some(host) => format!("{scheme}://{host}:{}", address.port()),
            None => format!("{scheme}://{address}"),
        };
        let streaming = Self {
            shim,
            tickets: Tickets::default(),
            base,
            tls,
        };
        Ok((Arc::new(streaming), StreamListener(listener)))
    }

    pub(crate) fn exec_url(&self, request: cri::ExecRequest) -> Result<String> {
        let wanted = Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        check_tty(request.tty, request.stderr)?;
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(Error::invalid(
                "stdin",
                "one of stdin, stdout, or stderr must be set",
            ));
        }
        let command = Command {
            argv: request.cmd,
            tty: request.tty,
            stdin: request.stdin,
            // It comes with the caller.
            size: None,
        };
        let container = self.shim.executable(&request.container_id, &command)?;
        self.url(Ticket::Exec {
            container,
            command,
            wanted,
        })
    }

    pub(crate) fn attach_url(&self, request: &cri::AttachRequest) -> Result<String> {
        let wanted = Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        check_tty(request.tty, request.stderr)?;
        let container = self.shim.attachable(&request.container_id, wanted)?;
        self.url(Ticket::Attach {
            container,
            wanted,
            tty: request.tty,
        })
    }

    pub(crate) fn port_forward_url(&self, request: &cri::PortForwardRequest) -> Result<String> {
        for &port in &request.port {
            if !(1..=i32::from(u16::MAX)).contains(&port) {
                return Err(Error::invalid("port", format!("{port} is no port")));
            }
        }
        let sandbox = self.shim.forwardable(&request.pod_sandbox_id)?;
        self.url(Ticket::PortForward(sandbox))
    }

    fn url(&self, ticket: Ticket) -> Result<String> {
        Ok(format!("{}{}", self.base, self.tickets.issue(ticket)?))
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: StreamListener,
        shutdown: Shutdown,
    ) -> Result<(), io::Error> {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(SESSIONS));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = async {
                    let place = Arc::clone(&places).acquire_owned().await;
                    (listener.0.accept().await, place)
                } => accepted,
            };
            let (socket, place) = match accepted {
                (Ok((socket, _)), place) => (socket, place),
                (Err(error), _) => {
                    tracing::warn!(%error, "cannot accept a streaming connection");
                    // Out of file descriptors, most likely: some will be closed meanwhile.
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (this, shutdown) = (Arc::clone(&self), shutdown.clone());
            connections.spawn(async move {
                let _place = place;
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = this.connection(socket) => {}
                }
            });
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }

    /// One request, and the session that comes of it.
    async fn connection(&self, socket: TcpStream) {
        let Ok(hangup) = Hangup::of(&socket) else { return };
        // Keystrokes and their echoes go out at once.
        let _ = socket.set_nodelay(true);
        let socket = match &self.tls {
            None => Socket::Plain(socket),
            Some(tls) => match timeout(HANDSHAKE, tls.acceptor().accept(socket)).await {
                Ok(Ok(socket)) => Socket::Tls(Box::new(socket)),
                Ok(Err(error)) => {
                    tracing::info!(%error, "a streaming client's TLS handshake failed");
                    return;
                }
                Err(_) => return,
            },
        };
        let agreed: Mutex<Option<(OnUpgrade, Agreed)>> = Mutex::default();
        let service = service_fn(|mut request: Request<Incoming>| {
            let response = match self.agree(&request) {
                Ok(session) => {
                    let response = session.protocol.response(&request);
                    *lock(&agreed) = Some((hyper::upgrade::on(&mut request), session));
                    response
                }
                Err(refusal) => refusal.response(),
            };
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a streaming request was cut off");
        }
        let Some((upgrade, agreed)) = agreed.into_inner().unwrap_or_default() else {
            return;
        };
        let Ok(upgraded) = upgrade.await else { return };
        self.run(upgraded, hangup, agreed).await;
    }

    /// Decides what a request comes to, and takes its ticket.
    fn agree(&self, request: &Request<Incoming>) -> Result<Agreed, Refusal> {
        let path = request.uri().path();
        let is_forward = path.starts_with("/portforward/");
        let protocol = Protocol::agree(request.headers(), is_forward)?;
        let ticket = self.tickets.take(path).ok_or(Refusal::NoTicket)?;
        Ok(Agreed { ticket, protocol })
    }

    async fn run(&self, upgraded: Upgraded, hangup: Hangup, agreed: Agreed) {
        let io = TokioIo::new(upgraded);
        let Agreed { ticket, protocol } = agreed;
        match ticket {
            Ticket::Exec {
                container,
                command,
                wanted,
            } => {
                let span = tracing::info_span!("exec", container = %container.id);
                let tty = command.tty;
                let session = |caller| {
                    let exec = Arc::clone(&self.shim).exec(container, command, wanted, caller);
                    self.shim.complete(exec)
                };
                remote(io, hangup, protocol, wanted, tty, session)
                    .instrument(span)
                    .await;
            }
            Ticket::Attach {
                container,
                wanted,
                tty,
            } => {
                let span = tracing::info_span!("attach", container = %container.id);
                let session = |caller| {
                    let attach = Arc::clone(&self.shim).attach(container, wanted, caller);
                    let attached = self.shim.complete(attach);
                    // How the container ends is not the attach's outcome.
                    async move { attached.await.map(|()| 0) }
                };
                remote(io, hangup, protocol, wanted, tty, session)
                    .instrument(span)
                    .await;
            }
            Ticket::PortForward(sandbox) => {
                let span = tracing::info_span!("port-forward", sandbox = %sandbox.id);
                let connect = |port| self.shim.connect(&sandbox, port);
                let served = async {
                    match protocol {
                        Protocol::Tunnel => {
                            let socket = websocket::accept(io).await;
                            let (inner, outer) = tokio::io::duplex(TUNNEL_BUFFER);
                            let carried = websocket::tunnel(socket, outer, hangup);
                            let served = port_forward::serve(inner, Hangup::never(), connect);
                            // Either end is the other's: it closes the bytes between them.
                            tokio::join!(carried, served);
                        }
                        _ => port_forward::serve(io, hangup, connect).await,
                    }
                };
                served.instrument(span).await;
            }
        }
    }
}

async fn remote<F: Future<Output = Result<i32>>>(
    io: TokioIo<Upgraded>,
    hangup: Hangup,
    protocol: Protocol,
    wanted: Wanted,
    tty: bool,
    session: impl FnOnce(super::Caller) -> F,
) {
    match protocol {
        Protocol::WebSocket { name, .. } => {
            let socket = websocket::accept(io).await;
            let version = websocket::Version::of(name.unwrap_or_default());
            websocket::serve(socket, hangup, version, wanted, session).await;
        }
        Protocol::Spdy { name } => {
            let version = remote_command::Version::of(name.unwrap_or_default());
            remote_command::serve(io, hangup, version, wanted, tty, session).await;
        }
        // Agreed on for port-forwards alone.
        Protocol::Tunnel => {}
    }
}

/// CRI: a terminal has one stream for both.
pub(crate) fn check_tty(tty: bool, stderr: bool) -> Result<()> {
    if tty && stderr {
        return Err(Error::invalid("stderr", "tty and stderr cannot both be true"));
    }
    Ok(())
}

/// A request that will be served.
#[derive(Debug)]
struct Agreed {
    ticket: Ticket,
    protocol: Protocol,
}
