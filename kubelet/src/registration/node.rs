//! The Node object: made where it is missing, written from time to time and at once when a condition changes. It goes
//! to the apiserver, or, for a node without one, straight into an etcd. In between, the node renews its lease with the
//! apiserver, which is a hundredth of the bytes, and which the scheduler and other readers of nodes do not hear of.
//!
//! ```text
//! joined ─► status ─► lease ──(heartbeat)──► lease ──(heartbeat)──► …
//!             ▲                                │
//!             └──(a condition has changed, it was long ago, or the node was silent and may be taken for gone)
//! ```

mod api;
mod etcd;
mod facts;
mod status;

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use clone8s::v1::{Condition, Node};
use clone8s_daemon::{Shutdown, backoff, clock};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

pub use self::etcd::EtcdError;
use self::{
    api::ApiSink,
    etcd::EtcdSink,
    facts::Facts,
    status::{Seen, changed},
};
use crate::{
    ApiChannel, Config, has_changed, outage::Outage, runtime::RuntimeHealth, sources::QueueHealth,
    stats::Samples,
};

/// A lease lasts for as many heartbeats: one may be late, and the next two lost.
const HEARTBEATS_OF_A_LEASE: u32 = 4;

/// Writes the node's own Node for as long as the kubelet runs.
#[derive(Debug)]
pub struct NodeReporter {
    config: Arc<Config>,
    facts: Facts,
    health: watch::Receiver<RuntimeHealth>,
    samples: Samples,
    queue: Option<watch::Receiver<QueueHealth>>,
    sink: Sink,
    /// As they were reported last, to tell when one changes.
    conditions: Vec<Condition>,
    /// When that was.
    reported: Option<Instant>,
    /// When the node was last heard, by a lease that was there.
    heard: Option<Instant>,
    outage: Outage,
}

#[derive(Debug)]
enum Sink {
    Api(ApiSink),
    Etcd(Box<EtcdSink>),
}

impl NodeReporter {
    /// None for a node that has neither an apiserver nor an etcd to write to.
    pub fn new(
        config: Arc<Config>,
        health: watch::Receiver<RuntimeHealth>,
        samples: Samples,
        queue: Option<watch::Receiver<QueueHealth>>,
        api: ApiChannel,
    ) -> Result<Option<Self>, EtcdError> {
        let sink = match (&config.apiserver, &config.etcd) {
            (Some(_), _) => Sink::Api(ApiSink::new(api)),
            (None, Some(etcd)) => Sink::Etcd(Box::new(EtcdSink::new(etcd)?)),
            (None, None) => return Ok(None),
        };
        Ok(Some(Self {
            config,
            facts: Facts::read(),
            health,
            samples,
            queue,
            sink,
            conditions: Vec::new(),
            reported: None,
            heard: None,
            outage: Outage::new("report of this node"),
        }))
    }

    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            never = self.report_for_ever() => never,
        }
    }

    async fn report_for_ever(&mut self) -> Result<(), Infallible> {
        let mut delays = backoff::reconnect();
        loop {
            self.sink.reachable().await;
            let wait = match self.be_heard().await {
                Ok(()) => {
                    self.outage.over();
                    delays = backoff::reconnect();
                    self.config.intervals.heartbeat
                }
                Err(reason) => {
                    self.outage.failed(reason);
                    delays.next().unwrap_or(self.config.intervals.heartbeat)
                }
            };
            self.until_due(Instant::now() + wait).await;
        }
    }

    /// Reports the status if that is due, and renews the lease.
    async fn be_heard(&mut self) -> Result<(), String> {
        let node = self.node();
        if self.owes_status(&node) {
            self.sink.write(&node).await?;
            self.reported = Some(Instant::now());
            self.conditions = node.status.map(|status| status.conditions).unwrap_or_default();
        }
        let lasts = self.config.intervals.heartbeat * HEARTBEATS_OF_A_LEASE;
        let was_there = self.sink.renew(&self.config.node_name, lasts).await?;
        self.heard = was_there.then(Instant::now);
        Ok(())
    }

    fn owes_status(&self, node: &Node) -> bool {
        let intervals = &self.config.intervals;
        let within =
            |moment: Option<Instant>, time: Duration| moment.is_some_and(|moment| moment.elapsed() < time);
        let conditions = node.status.as_ref().map(|status| &status.conditions[..]);
        matches!(self.sink, Sink::Etcd(_))
            || !within(self.reported, intervals.node_status)
            || !within(self.heard, intervals.heartbeat * 2)
            || changed(&self.conditions, conditions.unwrap_or_default())
    }

    /// Returns at the time of the heartbeat, or earlier when a condition has changed.
    async fn until_due(&mut self, heartbeat: Instant) {
        loop {
            tokio::select! {
                () = sleep_until(heartbeat) => return,
                () = has_changed(&mut self.health) => {}
                () = has_changed(&mut self.samples) => {}
                () = queue_has_changed(&mut self.queue) => {}
            }
            let now = self
                .node()
                .status
                .map(|status| status.conditions)
                .unwrap_or_default();
            if changed(&self.conditions, &now) {
                return;
            }
        }
    }

    fn node(&self) -> Node {
        let health = self.health.borrow().clone();
        let sample = self.samples.borrow().clone();
        let queue = self.queue.as_ref().map(|queue| queue.borrow().clone());
        let name = &self.config.node_name;
        Node {
            metadata: Some(facts::metadata(name)),
            spec: None,
            status: Some(status::status(
                &self.facts,
                name,
                &Seen {
                    health: &health,
                    sample: sample.as_deref(),
                    queue: queue.as_ref(),
                },
                self.config.reserved,
                &self.conditions,
                clock::now(),
            )),
        }
    }
}

impl Sink {
    /// Returns once there is a way to write at all.
    async fn reachable(&mut self) {
        match self {
            Self::Api(sink) => sink.reachable().await,
            Self::Etcd(_) => {}
        }
    }

    async fn write(&mut self, node: &Node) -> Result<(), String> {
        match self {
            Self::Api(sink) => sink.write(node).await,
            Self::Etcd(sink) => sink.write(node).await,
        }
    }

    /// Without an apiserver each heartbeat writes the Node.
    async fn renew(&mut self, node: &str, lasts: Duration) -> Result<bool, String> {
        match self {
            Self::Api(sink) => Box::pin(sink.renew(node, lasts)).await,
            Self::Etcd(_) => Ok(true),
        }
    }
}

async fn queue_has_changed(receiver: &mut Option<watch::Receiver<QueueHealth>>) {
    match receiver {
        Some(receiver) => has_changed(receiver).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
