//! Publishing until it is confirmed.

use std::sync::Arc;

use clone8s_bus::EventBus;
use clone8s_daemon::{backoff, supervisor::chain};
use futures::{StreamExt as _, future::join_all, stream};
use tokio::sync::watch;

use super::route::Publication;

/// Objects whose changes are on their way at the same time.
const WINDOW: usize = 64;

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

    /// Publishes changes in the order given per object, and returns when each message is confirmed.
    ///
    /// A change waits for the confirm of the one before it of the same object: on a connection that breaks in
    /// between, a later message could otherwise arrive and an earlier one be repeated behind it.
    pub(super) async fn publish(&self, changes: Vec<Routed>) {
        let mut objects: Vec<Vec<Routed>> = Vec::new();
        let mut place = std::collections::HashMap::new();
        for change in changes {
            let at = *place.entry(change.key.clone()).or_insert(objects.len());
            if at == objects.len() {
                objects.push(Vec::new());
            }
            objects[at].push(change);
        }
        let in_order = |changes: Vec<Routed>| async move {
            for change in changes {
                if let Some(node) = &change.queue_of {
                    self.make_queue(node).await;
                }
                join_all(
                    change
                        .publications
                        .iter()
                        .map(|publication| self.deliver(publication)),
                )
                .await;
            }
        };
        stream::iter(objects).for_each_concurrent(WINDOW, in_order).await;
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
