//! The EventBus on an AMQP 0-9-1 broker with quorum queues: RabbitMQ 3.10 or later.
//!
//! Connections are made when they are needed and made again when they broke; between attempts there is a growing
//! pause, during which calls fail at once instead of piling up. Publishing and consuming have a connection each,
//! because a broker that runs short of memory or disk stops reading from the connections that publish.

mod args;
mod link;
mod subscription;
mod tls;
mod topology;
mod wire;

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{Confirmation, options::BasicPublishOptions, uri::AMQPUri};

pub use self::args::{AmqpArgs, AmqpUrl};
use self::link::{Link, Target};
use crate::{
    BusError, EVENTS_EXCHANGE, EventBus, METRICS_EXCHANGE, Message, NODES_EXCHANGE, Queue, Receipt,
    Subscription, amqp::topology::DEAD_EXCHANGE, node_queue,
};

const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// A broker that says nothing for twice as long is taken for dead.
const HEARTBEAT_SECONDS: u16 = 10;

/// How to reach a broker.
#[derive(Clone)]
pub struct AmqpConfig {
    /// `amqps://user:password@host:port/vhost`. `amqp://` is for loopback and tests.
    pub url: String,
    /// The root CA (PEM) that the broker's certificate is verified against; needed for amqps.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key (PEM), where the broker asks for one.
    pub identity: Option<ClientIdentity>,
    /// How long a publish waits for the broker's confirm.
    pub confirm_timeout: Duration,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl AmqpConfig {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca: None,
            identity: None,
            confirm_timeout: CONFIRM_TIMEOUT,
        }
    }
}

impl fmt::Debug for AmqpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL holds the password.
        f.debug_struct("AmqpConfig")
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("confirm_timeout", &self.confirm_timeout)
            .finish_non_exhaustive()
    }
}

/// What is wrong with an [`AmqpConfig`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Without the URL itself, which holds the password.
    #[error("the AMQP URL is not valid: {0}; write it as amqps://user:password@host:5671/vhost")]
    BadUrl(String),
    #[error("amqps needs the root CA that the broker's certificate is verified against; give its file")]
    NoCa,
    #[error("certificates are given for the broker, but its URL is not amqps; write it as amqps://…")]
    NotTls,
    #[error("cannot read {path}", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path}: {cause}; give a file in PEM format", path = .path.display())]
    BadPem { path: PathBuf, cause: String },
}

/// The bus. Clones share its connections.
#[derive(Debug, Clone)]
pub struct AmqpBus {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    publishing: Link,
    consuming: Link,
    confirm_timeout: Duration,
}

impl AmqpBus {
    /// Reads the certificates; whether the broker answers shows at the first call.
    pub fn connect(config: &AmqpConfig) -> Result<Self, ConfigError> {
        let target = Arc::new(Target::new(parse(&config.url)?, tls::connector(config)?));
        Ok(Self {
            inner: Arc::new(Inner {
                publishing: Link::new(Arc::clone(&target), "publish"),
                consuming: Link::new(target, "consume"),
                confirm_timeout: config.confirm_timeout,
            }),
        })
    }
}

fn parse(url: &str) -> Result<AMQPUri, ConfigError> {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // The parser would take the literal address of IPv6 for localhost without a word.
    if host.starts_with('[') {
        return Err(ConfigError::BadUrl(
            "an IPv6 address cannot stand for the host; give it a name".to_owned(),
        ));
    }
    // Some of the parser's words repeat the URL.
    let mut uri: AMQPUri = url.parse().map_err(|words: String| {
        ConfigError::BadUrl(if words.contains("://") || words.contains('@') {
            "it cannot be parsed".to_owned()
        } else {
            words
        })
    })?;
    if uri.vhost.is_empty() {
        // A slash at the end means the default to everybody but the specification.
        uri.vhost.push('/');
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

impl Inner {
    /// Returns once the broker has confirmed.
    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message: &Message,
    ) -> Result<Receipt, BusError> {
        let (exchange, routing_key) = (topology::short(exchange)?, topology::short(routing_key)?);
        let options = BasicPublishOptions {
            // What nobody wants comes back, and costs that: asked for only where someone wants to know.
            mandatory: exchange.as_str() == NODES_EXCHANGE,
            immediate: false,
        };
        let properties = wire::properties(message)?;

        let live = self.publishing.live().await?;
        let confirmed = async {
            let confirm =
                live.channel
                    .basic_publish(exchange, routing_key, options, &message.body, properties);
            confirm.await?.await
        };
        let Ok(outcome) = tokio::time::timeout(self.confirm_timeout, confirmed).await else {
            // Whatever else waits on this connection would wait as long.
            self.publishing.give_up(&live).await;
            return Err(BusError::NotConfirmed(self.confirm_timeout));
        };
        match outcome.map_err(|error| self.publishing.error(&error))? {
            Confirmation::Ack(None) => Ok(Receipt::Taken),
            Confirmation::Ack(Some(_)) => Ok(Receipt::Unroutable),
            Confirmation::Nack(_) => Err(BusError::Refused("it could not store the message".to_owned())),
            Confirmation::NotRequested => Err(BusError::Refused("the channel has no confirms".to_owned())),
        }
    }

    /// On a channel of its own, for a refusal would close that of the publishes.
    async fn declare_node(&self, node: &str) -> Result<(), BusError> {
        let (queue, key) = (topology::short(&node_queue(node))?, topology::short(node)?);
        let live = self.publishing.live().await?;
        let declaring = async {
            let channel = live.connection.create_channel().await?;
            topology::declare_node(&channel, &key, queue).await
        };
        let Ok(declared) = tokio::time::timeout(self.confirm_timeout, declaring).await else {
            self.publishing.give_up(&live).await;
            return Err(BusError::NotConfirmed(self.confirm_timeout));
        };
        declared.map_err(|error| self.publishing.error(&error))
    }

    async fn publish_dead(&self, message: &Message) -> Result<(), BusError> {
        self.publish(DEAD_EXCHANGE, "", message).await.map(drop)
    }
}

#[async_trait]
impl EventBus for AmqpBus {
    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
    ) -> Result<Receipt, BusError> {
        // To the broker an unknown exchange is the end of the channel, and of every other publish on it.
        if ![EVENTS_EXCHANGE, NODES_EXCHANGE, METRICS_EXCHANGE].contains(&exchange) {
            return Err(BusError::Refused(format!("there is no exchange {exchange}")));
        }
        self.inner.publish(exchange, routing_key, &message).await
    }

    async fn declare_node(&self, node: &str) -> Result<(), BusError> {
        self.inner.declare_node(node).await
    }

    async fn subscribe(&self, queue: Queue, prefetch: u16) -> Result<Box<dyn Subscription>, BusError> {
        subscription::subscribe(Arc::clone(&self.inner), queue, prefetch).await
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("amqp://localhost", "/")]
    #[case("amqp://localhost/", "/")]
    #[case("amqp://localhost/%2f", "/")]
    #[case("amqp://localhost/shop", "shop")]
    fn the_path_of_a_url_is_the_virtual_host(#[case] url: &str, #[case] vhost: &str) {
        assert_eq!(parse(url).unwrap().vhost, vhost);
    }

    #[rstest]
    #[case("amqp://user:secret@broker.example:not-a-port/", "port")]
    #[case("http://user:secret@broker.example/", "scheme")]
    #[case("user:secret@broker.example", "amqps://user:password@host")]
    #[case("amqps://user:secret@broker.example/", "needs the root CA")]
    #[case("amqp://user:secret@[::1]:5672/", "IPv6")]
    fn a_bad_url_is_refused_without_showing_its_password(#[case] url: &str, #[case] words: &str) {
        let config = AmqpConfig::new(url);
        assert!(!format!("{config:?}").contains("secret"));
        let error = AmqpBus::connect(&config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
