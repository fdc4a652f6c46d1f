//! EventBus: publish with confirms and subscribe with acknowledgements, on AMQP or in process.
//!
//! The contract that both implementations keep (`tests/contract.rs` runs one suite on each):
//! - `publish` returns once the broker has taken the message over, or with an error; never in between.
//! - A delivery that is neither acknowledged nor rejected comes back once its subscription has ended, to the next
//!   subscriber of the queue.
//! - A rejected delivery goes to the dead-letter queue with the reason, and never blocks its queue.
//! - Messages of one publisher to one routing key arrive in the order in which they were published.

pub mod amqp;
pub mod local;
mod topic;

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use bytes::Bytes;

/// Topic exchange of every change of every object; routing key `<plural>.<verb>.<namespace>.<name>`.
pub const EVENTS_EXCHANGE: &str = "clone8s.events";
/// Direct exchange of the pods for each node; routing key: the node's name.
pub const NODES_EXCHANGE: &str = "clone8s.nodes";
/// Topic exchange of samples; routing key `nodes.<name>`.
pub const METRICS_EXCHANGE: &str = "clone8s.metrics";
/// Where messages go that nobody could understand, each with the reason in the header [`REASON_HEADER`].
pub const DEAD_QUEUE: &str = "clone8s.dead";
/// On a dead letter: why it was rejected.
pub const REASON_HEADER: &str = "x-reason";
/// On a dead letter: the queue that it was rejected from.
pub const ORIGIN_HEADER: &str = "x-origin";

/// A queue keeps this many messages at most; when it is full, the oldest make room. What a node misses so it finds
/// in the apiserver's list (the store is the truth).
pub const NODE_QUEUE_MESSAGES: usize = 10_000;
/// And this many bytes at most, with the same policy.
pub const NODE_QUEUE_BYTES: usize = 64 << 20;
/// The bound of [`DEAD_QUEUE`], with the same policy.
pub const DEAD_QUEUE_MESSAGES: usize = 1_000;

/// The condition of a Node that takes its pods from its queue: `True` while it does. For any other status, the apiserver
/// makes the queue.
pub const QUEUE_CONDITION: &str = "QueueReady";

/// The durable queue of one node.
pub fn node_queue(node: &str) -> String {
    format!("clone8s.node.{node}")
}

/// One message as it stands on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `<uid>/<revision>` for an object; anything unique otherwise.
    pub message_id: String,
    /// `application/x-protobuf`, `application/json` or `application/yaml`.
    pub content_type: String,
    /// The full name of the protobuf message in the body, such as `clone8s.v1.Pod`; may be empty for JSON and YAML.
    pub kind: String,
    pub headers: BTreeMap<String, String>,
    pub body: Bytes,
}

/// More of a reason than this says nothing to a person, and a header has to fit in one frame.
const REASON_BYTES: usize = 2_048;

/// The message as it goes to [`DEAD_QUEUE`].
fn dead_letter(mut message: Message, reason: &str, origin: &str) -> Message {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES)];
    message
        .headers
        .insert(REASON_HEADER.to_owned(), reason.to_owned());
    message
        .headers
        .insert(ORIGIN_HEADER.to_owned(), origin.to_owned());
    message
}

/// What a subscriber listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queue {
    /// A durable queue that outlives its subscriber, bound to [`NODES_EXCHANGE`] under the node's name.
    Node(String),
    /// A queue that lives as long as its subscription, bound to an exchange by a routing pattern.
    Temporary { exchange: &'static str, pattern: String },
    /// [`DEAD_QUEUE`], for who wants to see what was rejected and why.
    Dead,
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => f.write_str(&node_queue(node)),
            Self::Temporary { exchange, pattern } => write!(f, "{exchange}[{pattern}]"),
            Self::Dead => f.write_str(DEAD_QUEUE),
        }
    }
}

/// What became of a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The broker has it, and every queue that wants it.
    Taken,
    /// Nobody has ever listened under this routing key, so nobody will get it. Told for [`NODES_EXCHANGE`] only:
    /// the other exchanges are for whoever happens to listen.
    Unroutable,
}

/// A message handed to a subscriber, which owes one call of [`Delivery::ack`] or [`Delivery::reject`].
#[async_trait]
pub trait Delivery: fmt::Debug + Send + Sync {
    fn message(&self) -> &Message;
    /// True when the message may have been delivered before.
    fn redelivered(&self) -> bool;
    /// The message is safe elsewhere: the bus may forget it.
    async fn ack(self: Box<Self>) -> Result<(), BusError>;
    /// The message cannot be understood: it goes to [`DEAD_QUEUE`] with the reason.
    async fn reject(self: Box<Self>, reason: &str) -> Result<(), BusError>;
}

/// The deliveries of one queue, at most the prefetch outstanding at a time.
#[async_trait]
pub trait Subscription: fmt::Debug + Send {
    /// The next delivery; may be cancelled without losing one. An error ends the subscription: subscribe again.
    async fn next(&mut self) -> Result<Box<dyn Delivery>, BusError>;
}

#[async_trait]
pub trait EventBus: fmt::Debug + Send + Sync {
    /// Returns after the broker's confirm. A message that no queue wants is confirmed too.
    async fn publish(&self, exchange: &str, routing_key: &str, message: Message)
    -> Result<Receipt, BusError>;
    /// Makes a node's durable queue where it is missing, for a node that may not do so itself. In process there is no
    /// such node, and nothing to do.
    async fn declare_node(&self, node: &str) -> Result<(), BusError>;
    /// Makes the queue where it is missing, if this user may, and starts delivering; `prefetch` bounds what is
    /// unacknowledged.
    async fn subscribe(&self, queue: Queue, prefetch: u16) -> Result<Box<dyn Subscription>, BusError>;
}

/// Why the bus did not do it. Every variant means: nothing is lost, try again.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("the broker at {address} is not reachable")]
    Unreachable {
        /// Without credentials.
        address: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the broker did not confirm within {0:?}")]
    NotConfirmed(std::time::Duration),
    #[error("the broker refused: {0}")]
    Refused(String),
    /// A node's queue that this user may use and not make.
    #[error("there is no queue {0} on the broker, and this user may not make it")]
    NoQueue(String),
    #[error("the bus is closed")]
    Closed,
}
