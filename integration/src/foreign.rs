//! An AMQP program that is not of this project: it knows the written contract, and no type of ours.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Consumer, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};

use crate::{rabbitmq::connect, wait};

/// A connection with one channel, in confirm mode.
#[derive(Debug)]
pub struct Foreign {
    connection: Connection,
    channel: Channel,
}

/// A message as it came from a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    pub routing_key: String,
    pub content_type: String,
    /// The `type` property: the full name of the message in the body.
    pub kind: String,
    pub message_id: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Foreign {
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let connection = connect(address).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// Publishes with a confirm; an error when no queue takes the message.
    pub async fn publish(
        &self,
        exchange: &str,
        key: &str,
        content_type: &str,
        body: &str,
    ) -> anyhow::Result<()> {
        let properties = BasicProperties::default()
            .with_content_type(content_type.into())
            .with_delivery_mode(2);
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirm = self
            .channel
            .basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties)
            .await?
            .await?;
        match confirm {
            Confirmation::Ack(None) => Ok(()),
            other => bail!("{exchange:?} {key:?}: {other:?}"),
        }
    }

    /// Publishes to one node's queue, waiting for the queue to be there.
    pub async fn send_to_node(address: &str, node: &str, content_type: &str, body: &str) {
        wait::until(&format!("the queue of node {node} takes a message"), || async {
            let foreign = Self::connect(address).await?;
            let sent = foreign.publish("clone8s.nodes", node, content_type, body).await;
            foreign.close().await;
            sent
        })
        .await;
    }

    /// A durable queue with everything that `pattern` matches from an exchange, from now on.
    ///
    /// Waits for the exchange, which the publisher declares.
    pub async fn bind(address: &str, queue: &str, exchange: &str, pattern: &str) {
        wait::until(&format!("exchange {exchange} is there"), || async {
            // A refused declaration closes the channel, so each look has its own connection.
            let foreign = Self::connect(address).await?;
            let passive = ExchangeDeclareOptions {
                passive: true,
                ..ExchangeDeclareOptions::default()
            };
            let channel = &foreign.channel;
            channel
                .exchange_declare(
                    exchange.into(),
                    ExchangeKind::Topic,
                    passive,
                    FieldTable::default(),
                )
                .await?;
            let durable = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(queue.into(), durable, FieldTable::default())
                .await?;
            channel
                .queue_bind(
                    queue.into(),
                    exchange.into(),
                    pattern.into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await?;
            foreign.close().await;
            Ok(())
        })
        .await;
    }

    /// Takes the next message out of a queue; None when it is empty now.
    pub async fn take(&self, queue: &str) -> anyhow::Result<Option<Received>> {
        let Some(got) = self
            .channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await?
        else {
            return Ok(None);
        };
        got.delivery.ack(BasicAckOptions::default()).await?;
        Ok(Some(Received::of(&got.delivery)))
    }

    /// Every message of a queue, acknowledged as it is read.
    pub async fn consume(&self, queue: &str) -> anyhow::Result<Consumer> {
        let options = BasicConsumeOptions::default();
        Ok(self
            .channel
            .basic_consume(queue.into(), "".into(), options, FieldTable::default())
            .await?)
    }

    pub async fn close(self) {
        // Nothing hangs on the goodbye.
        let _ = self.connection.close(200, "bye".into()).await;
    }
}

/// The next message of a consumer.
pub async fn next(consumer: &mut Consumer) -> anyhow::Result<Received> {
    let delivery = consumer.next().await.context("the consumer has ended")??;
    delivery.ack(BasicAckOptions::default()).await?;
    Ok(Received::of(&delivery))
}

impl Received {
    fn of(delivery: &lapin::message::Delivery) -> Self {
        let properties = &delivery.properties;
        let text = |value: &Option<lapin::types::ShortString>| {
            value.as_ref().map_or_else(String::new, ToString::to_string)
        };
        let headers = properties.headers().as_ref().map(|table| {
            table
                .inner()
                .iter()
                .map(|(key, value)| (key.to_string(), plain(value)))
                .collect()
        });
        Self {
            routing_key: delivery.routing_key.to_string(),
            content_type: text(properties.content_type()),
            kind: text(properties.kind()),
            message_id: text(properties.message_id()),
            headers: headers.unwrap_or_default(),
            body: delivery.data.clone(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A header's value without its AMQP type.
fn plain(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}
