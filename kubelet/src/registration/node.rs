//! The Node object: made where it is missing, kept fresh by a heartbeat, and written at once when a condition
//! changes. It goes to the apiserver, or, for a node without one, straight into an etcd.

mod api;
mod etcd;
mod facts;
mod status;

use std::{convert::Infallible, future::pending, sync::Arc};

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
            let node = self.node();
            let wait = match self.sink.write(&node).await {
                Ok(()) => {
                    self.outage.over();
                    delays = backoff::reconnect();
                    self.conditions = node.status.map(|status| status.conditions).unwrap_or_default();
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
}

async fn queue_has_changed(receiver: &mut Option<watch::Receiver<QueueHealth>>) {
    match receiver {
        Some(receiver) => has_changed(receiver).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
