//! What all CRI calls share.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    config::Config,
    containerd::Containerd,
    error::{Error, Result},
    network::Network,
};

/// The runtime: containerd, and a copy in memory of what the shim keeps there.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) config: Config,
    pub(crate) containerd: Arc<dyn Containerd>,
    pub(crate) network: Network,
    pub(crate) readiness: watch::Sender<Readiness>,
    operations: TaskTracker,
}

/// Whether containerd answers and its state has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Not yet, or not any more; the reason, with the next step.
    Waiting(String),
    Ready {
        containerd_version: String,
    },
}

impl Shim {
    pub(crate) fn new(config: Config, containerd: Arc<dyn Containerd>) -> Self {
        Self {
            network: Network::new(&config),
            config,
            containerd,
            readiness: watch::Sender::new(Readiness::Waiting("containerd has not answered yet".into())),
            operations: TaskTracker::new(),
        }
    }

    /// Runs a call that changes something to its end, even when its caller hangs up halfway: a half-made sandbox
    /// would be nobody's.
    pub(crate) async fn complete<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.ready()?;
        self.operations
            .spawn(operation)
            .await
            .unwrap_or(Err(Error::Stopping))
    }

    /// Owns a task that belongs to no call.
    pub(crate) fn own(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.operations.spawn(task);
    }

    pub(crate) fn ready(&self) -> Result<()> {
        match &*self.readiness.borrow() {
            Readiness::Ready { .. } => Ok(()),
            Readiness::Waiting(reason) => Err(Error::NotReady(reason.clone())),
        }
    }

    /// Waits for operations that are under way.
    pub(crate) async fn finish(&self, grace: Duration) {
        self.operations.close();
        if timeout(grace, self.operations.wait()).await.is_err() {
            tracing::warn!(
                operations = self.operations.len(),
                "operations outlived the grace period"
            );
        }
    }
}
