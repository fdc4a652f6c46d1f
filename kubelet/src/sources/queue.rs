//! Pods from the node's queue.
//!
//! For each delivery: interpret, put on disk, show, acknowledge, in this order; what cannot be understood is
//! rejected with the reason. What the apiserver has stored goes to the API source as a hint, where there is an
//! apiserver; otherwise, and for what any other program asks for, the message is the truth.

mod health;
mod interpret;
mod pods;

use std::{convert::Infallible, sync::Arc, time::Duration};

use clone8s_bus::{BusError, Delivery, EventBus, Queue, Subscription};
use clone8s_daemon::{Shutdown, backoff, clock, supervisor::chain};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use uuid::Uuid;

pub use self::health::QueueHealth;
use self::{
    health::HealthSender,
    interpret::{Command, interpret},
    pods::QueuePods,
};
use super::{
    api::{Hint, HintDelivery},
    checkpoint::Checkpoint,
    view::{View, ViewSender},
};
use crate::outage::Outage;

/// Deliveries that may wait here unacknowledged.
const PREFETCH: u16 = 64;
/// Between attempts to put a pod on a disk that refuses it.
const DISK_RETRY: Duration = Duration::from_secs(2);

/// Consumes the node's queue for as long as the kubelet runs.
pub(super) struct QueueSource {
    node: String,
    bus: Arc<dyn EventBus>,
    hints: Option<mpsc::Sender<HintDelivery>>,
    pods: QueuePods,
    checkpoint: Checkpoint,
    view: ViewSender,
    health: HealthSender,
    disk: Outage,
}

impl std::fmt::Debug for QueueSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueSource")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl QueueSource {
    /// Shows the pods of the checkpoint at once. `hints` leads to the API source, where there is one.
    pub(super) fn new(
        node: &str,
        bus: Arc<dyn EventBus>,
        hints: Option<mpsc::Sender<HintDelivery>>,
        checkpoint: Checkpoint,
        view: ViewSender,
    ) -> Self {
        let source = Self {
            node: node.to_owned(),
            bus,
            health: HealthSender::new(node, hints.is_some()),
            hints,
            pods: QueuePods::new(checkpoint.pods().clone()),
            checkpoint,
            view,
            disk: Outage::new("checkpoint of the queue's pods"),
        };
        source.show();
        source
    }

    /// Whether the queue is consumed.
    pub(super) fn health(&self) -> watch::Receiver<QueueHealth> {
        self.health.subscribe()
    }

    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            never = self.consume_for_ever() => never,
        }
    }

    async fn consume_for_ever(&mut self) -> Result<(), Infallible> {
        let mut delays = backoff::reconnect();
        loop {
            let error = match self.bus.subscribe(Queue::Node(self.node.clone()), PREFETCH).await {
                Ok(subscription) => {
                    self.health.consuming();
                    delays = backoff::reconnect();
                    self.consume(subscription).await
                }
                Err(error) => error,
            };
            self.health.failed(&error);
            sleep(delays.next().unwrap_or(DISK_RETRY)).await;
        }
    }

    async fn consume(&mut self, mut subscription: Box<dyn Subscription>) -> BusError {
        loop {
            let delivery = match subscription.next().await {
                Ok(delivery) => delivery,
                Err(error) => return error,
            };
            if let Err(error) = self.take(delivery).await {
                return error;
            }
        }
    }

    async fn take(&mut self, delivery: Box<dyn Delivery>) -> Result<(), BusError> {
        match interpret(delivery.message(), &self.node) {
            Err(reason) => {
                let id = &delivery.message().message_id;
                tracing::warn!(message_id = id, %reason, "a message cannot be understood");
                delivery.reject(&reason.to_string()).await
            }
            Ok(Command::Stored(hint)) if self.hints.is_some() => {
                self.pass_on(hint).await?;
                delivery.ack().await
            }
            Ok(command) => {
                self.pods.apply(command, Uuid::new_v4(), clock::now());
                self.keep().await;
                self.show();
                delivery.ack().await
            }
        }
    }

    /// Returns when the API source has the hint on disk. Without an answer the delivery stays unacknowledged and comes
    /// again.
    async fn pass_on(&self, hint: Hint) -> Result<(), BusError> {
        let Some(hints) = &self.hints else {
            return Ok(());
        };
        let (checkpointed, answer) = oneshot::channel();
        let delivery = HintDelivery { hint, checkpointed };
        hints.send(delivery).await.map_err(|_| BusError::Closed)?;
        answer.await.map_err(|_| BusError::Closed)
    }

    /// Returns when the pods are on disk: here the message is the truth, so it must not be lost.
    async fn keep(&mut self) {
        while let Err(error) = self.checkpoint.keep(self.pods.pods()).await {
            self.disk.failed(chain(&error));
            sleep(DISK_RETRY).await;
        }
        self.disk.over();
    }

    fn show(&self) {
        self.view.replace(View {
            pods: self.pods.shown(),
            // Nobody else knows what the messages said; only a file that was set aside leaves a doubt.
            spoken: self.checkpoint.is_whole(),
        });
    }
}

#[cfg(test)]
mod tests;
