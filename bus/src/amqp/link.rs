//! A connection that is there when it is needed.
//!
//! ```text
//! down ──(a call, after the pause)──► up ──(broken | given up)──► down
//!   ▲            │
//!   └──(failed: a longer pause, in which calls fail at once)
//! ```

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clone8s_daemon::{backoff, supervisor::chain};
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind,
    options::ConfirmSelectOptions,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    runtime::default_runtime,
    tcp::{AMQPUriTcpExt as _, RustlsConnector, TLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::topology;
use crate::BusError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes, as brokers propose. Asked for from the start: where lapin learns it from the broker, it grows its two rings of 32
/// frames and fills them with zeros, so that each connection has 8 MiB resident before anything has gone through them.
/// Shorter frames are no way out: the headers of a message that somebody else has sent come in one.
const FRAME_MAX: u32 = 128 << 10;

/// The broker, and what is needed to reach it.
pub(super) struct Target {
    uri: AMQPUri,
    tls: Option<RustlsConnector>,
    /// The address without credentials.
    pub(super) address: String,
    /// False once the broker has refused this user a declaration: what others have declared is used then, and the
    /// broker's log is not filled with refusals.
    declares: AtomicBool,
}

impl Target {
    pub(super) fn new(mut uri: AMQPUri, tls: Option<RustlsConnector>) -> Self {
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        let address = format!("{}://{}:{}", uri.scheme, uri.authority.host, uri.authority.port);
        Self {
            uri,
            tls,
            address,
            declares: AtomicBool::new(true),
        }
    }

    /// Whether declaring is worth an attempt.
    pub(super) fn declares(&self) -> bool {
        self.declares.load(Ordering::Relaxed)
    }

    /// True when the broker does not let this user declare, which uses what is there already then. The refusal has closed
    /// the channel that it came on.
    pub(super) fn is_refused(&self, declared: lapin::Result<()>) -> lapin::Result<bool> {
        match declared {
            Err(error) if is(&error, &AMQPSoftError::ACCESSREFUSED) => {
                self.declares.store(false, Ordering::Relaxed);
                tracing::info!(
                    broker = self.address,
                    refusal = chain(&error),
                    "this user may not declare on the broker; using what others have declared"
                );
                Ok(true)
            }
            other => other.map(|()| false),
        }
    }

    /// Something is not there that this user would have declared if it may: perhaps it may by now.
    pub(super) fn declare_again(&self) {
        self.declares.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) target: Arc<Target>,
    purpose: &'static str,
    /// Held while connecting: one connects, and the others wait for what comes of it.
    state: Mutex<State>,
}

struct State {
    live: Option<Arc<Live>>,
    /// No attempt before this, and why the last one failed.
    pause: Option<(Instant, Failure)>,
    delays: backon::ExponentialBackoff,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("live", &self.live.is_some())
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// An open connection with a channel on which publishes are confirmed.
pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("usable", &self.usable())
            .finish_non_exhaustive()
    }
}

impl Live {
    pub(super) fn usable(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

/// A [`BusError`] that can be told to several.
#[derive(Debug, Clone)]
enum Failure {
    Unreachable(String),
    Refused(String),
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

impl Link {
    pub(super) fn new(target: Arc<Target>, purpose: &'static str) -> Self {
        Self {
            target,
            purpose,
            state: Mutex::new(State {
                live: None,
                pause: None,
                delays: backoff::reconnect(),
            }),
        }
    }

    /// The connection, made now if there is none. In the pause after a failure, that failure.
    pub(super) async fn live(&self) -> Result<Arc<Live>, BusError> {
        let mut state = self.state.lock().await;
        if let Some(live) = &state.live {
            if live.usable() {
                return Ok(Arc::clone(live));
            }
            tracing::warn!(
                broker = self.target.address,
                purpose = self.purpose,
                "connection to the broker lost"
            );
            state.live = None;
        }
        if let Some((until, failure)) = &state.pause
            && Instant::now() < *until
        {
            return Err(self.told(failure.clone()));
        }
        match self.connect().await {
            Ok(live) => {
                tracing::info!(
                    broker = self.target.address,
                    purpose = self.purpose,
                    "connected to the broker"
                );
                let live = Arc::new(live);
                state.live = Some(Arc::clone(&live));
                state.pause = None;
                state.delays = backoff::reconnect();
                Ok(live)
            }
            Err(failure) => {
                let pause = state.delays.next().unwrap_or(CONNECT_TIMEOUT);
                state.pause = Some((Instant::now() + pause, failure.clone()));
                Err(self.told(failure))
            }
        }
    }

    /// Drops a connection that no longer answers.
    pub(super) async fn give_up(&self, live: &Arc<Live>) {
        let mut state = self.state.lock().await;
        if state
            .live
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, live))
        {
            tracing::warn!(
                broker = self.target.address,
                purpose = self.purpose,
                "the broker does not answer, reconnecting"
            );
            state.live = None;
        }
    }

    /// What a failed call on the connection means.
    pub(super) fn error(&self, error: &lapin::Error) -> BusError {
        self.told(classify(error))
    }

    pub(super) fn lost(&self) -> BusError {
        self.told(Failure::Unreachable("the connection broke".to_owned()))
    }

    fn told(&self, failure: Failure) -> BusError {
        match failure {
            Failure::Refused(words) => BusError::Refused(words),
            Failure::Unreachable(cause) => BusError::Unreachable {
                address: self.target.address.clone(),
                cause: Box::new(Cause(cause)),
            },
        }
    }

    async fn connect(&self) -> Result<Live, Failure> {
        let connecting = async {
            let connection = open(&self.target, self.purpose).await?;
            let mut channel = connection.create_channel().await?;
            if self.target.declares() && self.target.is_refused(topology::declare(&channel).await)? {
                channel = connection.create_channel().await?;
            }
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(Live { connection, channel })
        };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| Failure::Unreachable(format!("no answer within {CONNECT_TIMEOUT:?}")))?
            .map_err(|error: lapin::Error| classify(&error))
    }
}

async fn open(target: &Target, purpose: &str) -> lapin::Result<Connection> {
    let name = format!("clone8s {purpose} (process {})", std::process::id());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let tls = target.tls.clone();
    Connection::connector(
        target.uri.clone(),
        default_runtime()?,
        // lapin's own TLS would trust the machine's roots beside ours.
        async move |uri, runtime| {
            let host = uri.authority.host.clone();
            let plain = AMQPUri {
                scheme: AMQPScheme::AMQP,
                ..uri
            };
            let stream = plain
                .connect_with_config_async(TLSConfig::default(), &runtime)
                .await?;
            match &tls {
                Some(connector) => Ok(stream.into_rustls(connector, &host).await?),
                None => Ok(stream),
            }
        },
        properties,
    )
    .await
}

/// True when the broker said this, of whatever was asked of it.
pub(super) fn is(error: &lapin::Error, said: &AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(told) if matches!(told.kind(), AMQPErrorKind::Soft(it) if it == said))
}

fn classify(error: &lapin::Error) -> Failure {
    let ErrorKind::ProtocolError(told) = error.kind() else {
        return Failure::Unreachable(chain(error));
    };
    let words = told.get_message();
    match told.kind() {
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Failure::Refused(format!(
            "{words}; check the virtual host and the user's permissions"
        )),
        // The broker is stopping, or we and it disagree on the protocol: another connection may do.
        AMQPErrorKind::Hard(_) => Failure::Unreachable(words.to_string()),
        AMQPErrorKind::Soft(_) if words.as_str().starts_with("ACCESS_REFUSED") => Failure::Refused(format!(
            "{words}; check the user, its password and its permissions"
        )),
        AMQPErrorKind::Soft(_) if words.as_str().starts_with("PRECONDITION_FAILED") => {
            Failure::Refused(format!(
                "{words}; it was declared otherwise before: delete it on the broker, and it is made anew"
            ))
        }
        AMQPErrorKind::Soft(_) => Failure::Refused(words.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_frames_is_asked_for_unless_the_address_says_it() {
        let frame_max = |url: &str| Target::new(url.parse().unwrap(), None).uri.query.frame_max;
        assert_eq!(frame_max("amqp://localhost/shop"), Some(131_072));
        assert_eq!(frame_max("amqp://localhost/shop?frame_max=16384"), Some(16_384));
    }
}
