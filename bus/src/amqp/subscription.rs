//! The deliveries of one queue, on a channel of their own: closing it gives back what was not acknowledged.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt as _;
use lapin::{
    Acker, Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    protocol::AMQPSoftError,
    types::FieldTable,
};
use tokio::time::timeout;

use super::{
    Inner,
    link::{self, Live},
    topology, wire,
};
use crate::{BusError, DEAD_QUEUE, Delivery, Message, Queue, Subscription, dead_letter, node_queue};

/// For declaring the queue and starting to consume, once the connection is there.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a waiting subscriber looks whether its channel is still open: lapin now and then lets who waits on a
/// connection that broke wait for ever.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn subscribe(
    bus: Arc<Inner>,
    queue: Queue,
    prefetch: u16,
) -> Result<Box<dyn Subscription>, BusError> {
    let live = bus.consuming.live().await?;
    let starting = async {
        let channel = live
            .connection
            .create_channel()
            .await
            .map_err(|error| bus.consuming.error(&error))?;
        consume(&bus, &live, channel, &queue, prefetch).await
    };
    let Ok(started) = timeout(SUBSCRIBE_TIMEOUT, starting).await else {
        bus.consuming.give_up(&live).await;
        return Err(BusError::NotConfirmed(SUBSCRIBE_TIMEOUT));
    };
    let (channel, consumer) = started?;
    Ok(Box::new(AmqpSubscription {
        bus,
        origin: queue.to_string(),
        consumer,
        channel,
        live,
    }))
}

async fn consume(
    bus: &Inner,
    live: &Live,
    mut channel: Channel,
    queue: &Queue,
    prefetch: u16,
) -> Result<(Channel, Consumer), BusError> {
    let failed = |error: lapin::Error| bus.consuming.error(&error);
    let name = match queue {
        Queue::Node(node) => {
            let (name, key) = (topology::short(&node_queue(node))?, topology::short(node)?);
            let target = &bus.consuming.target;
            if target.declares() {
                let declared = topology::declare_node(&channel, &key, name.clone()).await;
                if target.is_refused(declared).map_err(failed)? {
                    channel = live.connection.create_channel().await.map_err(failed)?;
                }
            }
            name
        }
        Queue::Temporary { exchange, pattern } => {
            topology::declare_temporary(&channel, exchange, topology::short(pattern)?)
                .await
                .map_err(failed)?
        }
        Queue::Dead => DEAD_QUEUE.into(),
    };
    // Zero would mean without a bound.
    channel
        .basic_qos(prefetch.max(1), BasicQosOptions::default())
        .await
        .map_err(failed)?;
    let options = BasicConsumeOptions::default();
    let consumer = channel
        .basic_consume(name, "".into(), options, FieldTable::default())
        .await
        .map_err(|error| {
            if link::is(&error, &AMQPSoftError::NOTFOUND) {
                bus.consuming.target.declare_again();
                return BusError::NoQueue(queue.to_string());
            }
            failed(error)
        })?;
    Ok((channel, consumer))
}

#[derive(Debug)]
struct AmqpSubscription {
    bus: Arc<Inner>,
    origin: String,
    // Before the channel, which closes with its last handle.
    consumer: Consumer,
    channel: Channel,
    live: Arc<Live>,
}

impl AmqpSubscription {
    fn ended(&self) -> BusError {
        if self.live.usable() {
            BusError::Refused(format!(
                "the subscription to {} has ended; its queue may have been deleted",
                self.origin
            ))
        } else {
            self.bus.consuming.lost()
        }
    }
}

async fn closed(live: &Live, channel: &Channel) {
    while live.usable() && channel.status().connected() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[async_trait]
impl Subscription for AmqpSubscription {
    async fn next(&mut self) -> Result<Box<dyn Delivery>, BusError> {
        let arrived = tokio::select! {
            biased;
            arrived = self.consumer.next() => arrived,
            () = closed(&self.live, &self.channel) => None,
        };
        let delivery = match arrived {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Err(self.bus.consuming.error(&error)),
            None => return Err(self.ended()),
        };
        Ok(Box::new(AmqpDelivery {
            bus: Arc::clone(&self.bus),
            live: Arc::clone(&self.live),
            origin: self.origin.clone(),
            message: wire::message(&delivery.properties, delivery.data),
            redelivered: delivery.redelivered,
            acker: delivery.acker,
        }))
    }
}

#[derive(Debug)]
struct AmqpDelivery {
    bus: Arc<Inner>,
    live: Arc<Live>,
    origin: String,
    message: Message,
    redelivered: bool,
    acker: Acker,
}

#[async_trait]
impl Delivery for AmqpDelivery {
    fn message(&self) -> &Message {
        &self.message
    }

    fn redelivered(&self) -> bool {
        self.redelivered
    }

    async fn ack(self: Box<Self>) -> Result<(), BusError> {
        let acknowledging = self.acker.ack(BasicAckOptions::default());
        let Ok(taken) = timeout(self.bus.confirm_timeout, acknowledging).await else {
            self.bus.consuming.give_up(&self.live).await;
            return Err(self.bus.consuming.lost());
        };
        let still_ours = taken.map_err(|error| self.bus.consuming.error(&error))?;
        if still_ours { Ok(()) } else { Err(BusError::Closed) }
    }

    /// First the copy with the reason, confirmed, and only then the acknowledgement: a crash in between leaves two
    /// copies, never none.
    async fn reject(self: Box<Self>, reason: &str) -> Result<(), BusError> {
        let letter = dead_letter(self.message.clone(), reason, &self.origin);
        self.bus.publish_dead(&letter).await?;
        self.ack().await
    }
}
