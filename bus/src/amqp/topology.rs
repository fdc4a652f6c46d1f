//! The exchanges and queues, declared the same by everybody whose user may.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    BusError, DEAD_QUEUE, DEAD_QUEUE_MESSAGES, EVENTS_EXCHANGE, METRICS_EXCHANGE, NODE_QUEUE_BYTES,
    NODE_QUEUE_MESSAGES, NODES_EXCHANGE, node_queue,
};

/// Fans out to [`DEAD_QUEUE`]. The broker sends what it drops from a full node queue there too.
pub(super) const DEAD_EXCHANGE: &str = "clone8s.dead";

/// What does not depend on a subscriber.
pub(super) async fn declare(channel: &Channel) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    for (exchange, kind) in [
        (EVENTS_EXCHANGE, ExchangeKind::Topic),
        (NODES_EXCHANGE, ExchangeKind::Direct),
        (METRICS_EXCHANGE, ExchangeKind::Topic),
        (DEAD_EXCHANGE, ExchangeKind::Fanout),
    ] {
        channel
            .exchange_declare(exchange.into(), kind, durable, FieldTable::default())
            .await?;
    }
    let arguments = bounded(quorum(), DEAD_QUEUE_MESSAGES);
    channel
        .queue_declare(DEAD_QUEUE.into(), durable_queue(), arguments)
        .await?;
    bind(channel, DEAD_QUEUE.into(), DEAD_EXCHANGE, "".into()).await
}

/// The queue of a node, bound under its name.
pub(super) async fn declare_node(
    channel: &Channel,
    node: &ShortString,
    queue: ShortString,
) -> lapin::Result<()> {
    debug_assert_eq!(queue.as_str(), node_queue(node.as_str()));
    let mut arguments = bounded(quorum(), NODE_QUEUE_MESSAGES);
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD_EXCHANGE));
    channel
        .queue_declare(queue.clone(), durable_queue(), arguments)
        .await?;
    bind(channel, queue, NODES_EXCHANGE, node.clone()).await
}

/// A queue that goes with its connection; returns the name that the broker gave it.
pub(super) async fn declare_temporary(
    channel: &Channel,
    exchange: &str,
    pattern: ShortString,
) -> lapin::Result<ShortString> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = bounded(FieldTable::default(), NODE_QUEUE_MESSAGES);
    let queue = channel
        .queue_declare("".into(), options, arguments)
        .await?
        .name()
        .clone();
    bind(channel, queue.clone(), exchange, pattern).await?;
    Ok(queue)
}

/// A name or a routing key, as AMQP takes them.
pub(super) fn short(text: &str) -> Result<ShortString, BusError> {
    ShortString::try_new(text).map_err(|_| BusError::Refused(format!("{text} is longer than 255 bytes")))
}

async fn bind(channel: &Channel, queue: ShortString, exchange: &str, key: ShortString) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue, exchange.into(), key, options, FieldTable::default())
        .await
}

fn durable_queue() -> QueueDeclareOptions {
    QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

/// When it is full, the oldest messages make room.
fn bounded(mut arguments: FieldTable, messages: usize) -> FieldTable {
    arguments.insert("x-max-length".into(), number(messages));
    arguments.insert("x-max-length-bytes".into(), number(NODE_QUEUE_BYTES));
    arguments.insert("x-overflow".into(), text("drop-head"));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn number(number: usize) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
}
