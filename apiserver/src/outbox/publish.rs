//! Publishing until it is confirmed.

use std::sync::Arc;

use clone8s_bus::EventBus;
use clone8s_daemon::{backoff, supervisor::chain};
use futures::future::join_all;
use tokio::sync::watch;

use super::route::Publication;

/// The messages of one change.
#[derive(Debug)]
pub(super) struct Routed {
    /// The object's key: what has the same key is published in order.
    pub(super) key: String,
    /// A node whose queue is to be there first.
    pub(super) queue_of: Option<String>,
    pub(super) publications: Vec<Publication>,
}

pub(super) struct Publisher {
    bus: Arc<dyn EventBus>,
    takes: watch::Sender<bool>,
}

impl Publisher {
    /// `takes` is told whether the bus takes messages.
    pub(super) fn new(bus: Arc<dyn EventBus>, takes: watch::Sender<bool>) -> Self {
        Self { bus, takes }
    }

    /// Publishes the messages of a change, and returns when each is confirmed.
    pub(super) async fn tell(&self, change: &Routed) {
        if let Some(node) = &change.queue_of {
            self.make_queue(node).await;
        }
        let messages = change.publications.iter();
        join_all(messages.map(|publication| self.deliver(publication))).await;
    }

    /// Tried once: a node that has no queue says so again with its next heartbeat.
    async fn make_queue(&self, node: &str) {
        if let Err(error) = self.bus.declare_node(node).await {
            tracing::warn!(error = chain(&error), node, "the queue of a node is not made");
        }
    }

    async fn deliver(&self, publication: &Publication) {
        let mut delays = backoff::reconnect();
        loop {
            let message = publication.message.clone();
            match self
                .bus
                .publish(publication.exchange, &publication.routing_key, message)
                .await
            {
                // A node that never listened finds its pods in its first list.
                Ok(_) => {
                    if self
                        .takes
                        .send_if_modified(|takes| !std::mem::replace(takes, true))
                    {
                        tracing::info!("the bus takes messages again");
                    }
                    return;
                }
                Err(error) => {
                    if self.takes.send_if_modified(std::mem::take) {
                        tracing::warn!(
                            error = chain(&error),
                            message = publication.message.message_id,
                            "the outbox waits for the bus"
                        );
                    }
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
            }
        }
    }
}
