//! Samples on the bus, for whoever listens: hints, of which a lost one is followed by the next.

use std::{convert::Infallible, sync::Arc};

use clone8s::v1::NodeStats;
use clone8s_bus::{EventBus, METRICS_EXCHANGE, Message};
use clone8s_daemon::{Shutdown, supervisor::chain};
use prost::Message as _;

use super::Samples;
use crate::outage::Outage;

/// Publishes each sample once, the latest only where the bus is slow.
pub struct Publisher {
    samples: Samples,
    bus: Arc<dyn EventBus>,
    outage: Outage,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    pub fn new(samples: Samples, bus: Arc<dyn EventBus>) -> Self {
        Self {
            samples,
            bus,
            outage: Outage::new("publishing of samples"),
        }
    }

    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.publish_each() => shutdown.cancelled().await,
        }
        Ok(())
    }

    /// Returns when there is no sampler any more.
    async fn publish_each(&mut self) {
        while self.samples.changed().await.is_ok() {
            let sample = self.samples.borrow_and_update().clone();
            let Some(sample) = sample else {
                continue;
            };
            let routing_key = format!("nodes.{}", sample.stats.node_name);
            match self
                .bus
                .publish(METRICS_EXCHANGE, &routing_key, message(&sample.stats))
                .await
            {
                Ok(_) => self.outage.over(),
                Err(error) => self.outage.failed(chain(&error)),
            }
        }
    }
}

fn message(stats: &NodeStats) -> Message {
    let time = stats.time.unwrap_or_default();
    Message {
        message_id: format!("{}/{}.{:09}", stats.node_name, time.seconds, time.nanos),
        content_type: "application/x-protobuf".to_owned(),
        kind: "clone8s.v1.NodeStats".to_owned(),
        body: stats.encode_to_vec().into(),
        ..Message::default()
    }
}
