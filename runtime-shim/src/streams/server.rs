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

use bytes::Bytes;
use clone8s::cri;
use clone8s_daemon::Shutdown;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
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
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{
    Hangup,
    attach::Wanted,
    port_forward, remote_command,
    tickets::{Ticket, Tickets},
    tls::{Socket, Tls, TlsError},
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

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";

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

/// What is spoken after the upgrade; the name is none where the client has named none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Spdy {
        name: Option<&'static str>,
    },
    WebSocket {
        name: Option<&'static str>,
    },
    /// A port-forward's SPDY in a WebSocket.
    Tunnel,
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    NoUpgrade,
    /// With those that would do.
    NoProtocol(Vec<&'static str>),
    BadWebSocket(&'static str),
    NoTicket,
}

impl Protocol {
    fn agree(headers: &HeaderMap, is_forward: bool) -> Result<Self, Refusal> {
        let upgrades: Vec<_> = words(headers, header::UPGRADE.as_str()).collect();
        let asks = |name: &str| upgrades.iter().any(|upgrade| upgrade.eq_ignore_ascii_case(name));
        let is_upgrade =
            words(headers, header::CONNECTION.as_str()).any(|word| word.eq_ignore_ascii_case("upgrade"));
        if !is_upgrade {
            return Err(Refusal::NoUpgrade);
        }
        if asks("websocket") {
            check_websocket(headers)?;
            let known: &[&str] = if is_forward {
                &[port_forward::TUNNEL]
            } else {
                &websocket::PROTOCOLS
            };
            let name = choose(words(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str()), known)?;
            return match (is_forward, name) {
                (true, Some(_)) => Ok(Self::Tunnel),
                (true, None) => Err(Refusal::NoProtocol(known.to_vec())),
                (false, name) => Ok(Self::WebSocket { name }),
            };
        }
        if !asks("SPDY/3.1") {
            return Err(Refusal::NoUpgrade);
        }
        let known: &[&str] = if is_forward {
            &[port_forward::PROTOCOL]
        } else {
            &remote_command::PROTOCOLS
        };
        let name = choose(words(headers, STREAM_PROTOCOL), known)?;
        Ok(Self::Spdy { name })
    }

    fn response(self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let (upgrade, named, name) = match self {
            Self::Spdy { name } => ("SPDY/3.1", STREAM_PROTOCOL, name),
            Self::WebSocket { name } => ("websocket", header::SEC_WEBSOCKET_PROTOCOL.as_str(), name),
            Self::Tunnel => (
                "websocket",
                header::SEC_WEBSOCKET_PROTOCOL.as_str(),
                Some(port_forward::TUNNEL),
            ),
        };
        headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
        if let Some(name) = name {
            headers.insert(named, HeaderValue::from_static(name));
        }
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        if let (true, Some(key)) = (upgrade == "websocket", key)
            && let Ok(accept) = derive_accept_key(key.as_bytes()).parse()
        {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

impl Refusal {
    fn response(&self) -> Response<Full<Bytes>> {
        let (status, text) = match self {
            Self::NoUpgrade => (
                StatusCode::BAD_REQUEST,
                "this address speaks only SPDY/3.1 and WebSocket: send Connection: Upgrade and Upgrade: SPDY/3.1 or \
                 websocket\n"
                    .to_owned(),
            ),
            Self::BadWebSocket(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")),
            // As Kubernetes' servers answer, whose clients then try another protocol.
            Self::NoProtocol(known) => (
                StatusCode::FORBIDDEN,
                format!("none of the client's protocols is spoken here; these are: {}\n", known.join(", ")),
            ),
            Self::NoTicket => (
                StatusCode::NOT_FOUND,
                "this URL is unknown, used already, or older than a minute: ask the runtime for another\n".to_owned(),
            ),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Self::NoProtocol(known) = self {
            for name in known {
                response
                    .headers_mut()
                    .append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
            }
        }
        response
    }
}

/// RFC 6455, 4.2.1.
fn check_websocket(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Refusal::BadWebSocket("Sec-WebSocket-Version must be 13"));
    }
    if !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return Err(Refusal::BadWebSocket("Sec-WebSocket-Key is missing"));
    }
    Ok(())
}

/// The first of the client's names that is known; none where it has named none.
fn choose<'a>(
    offered: impl Iterator<Item = &'a str>,
    known: &[&'static str],
) -> Result<Option<&'static str>, Refusal> {
    let mut has_any = false;
    for name in offered {
        has_any = true;
        if let Some(known) = known.iter().find(|known| **known == name) {
            return Ok(Some(known));
        }
    }
    if has_any {
        return Err(Refusal::NoProtocol(known.to_vec()));
    }
    Ok(None)
}

/// A header's values, given once each or in a list.
fn words<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
