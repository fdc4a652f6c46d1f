//! What all CRI calls share.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clone8s_daemon::{Shutdown, traces};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::{
    cgroups::Cgroups,
    config::Config,
    containerd::Containerd,
    error::{Error, Result},
    events::Events,
    features::KnownFeatures,
    handlers::DefaultHandler,
    host,
    images::Images,
    network::Network,
    oci::Host,
    programs::Programs,
    stats::{Layers, Rates},
    table::Table,
};

/// The runtime: containerd, and a copy in memory of what the shim keeps there.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) config: Config,
    pub(crate) default_handler: DefaultHandler,
    pub(crate) containerd: Arc<dyn Containerd>,
    pub(crate) images: Images,
    pub(crate) network: Network,
    pub(crate) cgroups: Cgroups,
    pub(crate) host: Host,
    pub(crate) table: Arc<Table>,
    pub(crate) events: Events,
    pub(crate) programs: Programs,
    pub(crate) rates: Rates,
    pub(crate) layers: Layers,
    pub(crate) known_features: KnownFeatures,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// Something could not be undone or recorded: containerd's state is to be read again.
    pub(crate) unsettled: Notify,
    /// Set once containerd's state has been read.
    pub(crate) recovered: OnceLock<()>,
    /// Told when the process ends: sessions that would last let go of what they have.
    pub(crate) stopping: Shutdown,
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
    pub(crate) async fn new(config: Config, containerd: Arc<dyn Containerd>, stopping: Shutdown) -> Self {
        let cgroups = Cgroups::of_host();
        let programs = Programs::default();
        let default_handler = DefaultHandler::choose(&config, &cgroups, &programs).await;
        let table = Arc::<Table>::default();
        Self {
            images: Images::new(
                Arc::clone(&containerd),
                &config.snapshotter,
                config.plain_http.clone(),
                &config.images,
            ),
            network: Network::new(&config),
            host: host::read(&cgroups),
            cgroups,
            events: Events::new(Arc::clone(&table)),
            table,
            programs,
            rates: Rates::default(),
            layers: Layers::default(),
            known_features: KnownFeatures::default(),
            readiness: watch::Sender::new(Readiness::Waiting("containerd has not answered yet".into())),
            unsettled: Notify::new(),
            recovered: OnceLock::new(),
            stopping,
            operations: TaskTracker::new(),
            containerd,
            default_handler,
            config,
        }
    }

    /// Runs a call that changes something to its end, even when its caller hangs up halfway: a half-made sandbox
    /// would be nobody's.
    pub(crate) async fn complete<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.ready()?;
        // Made here, where the span of the call is known: it may end before the operation does.
        let span = tracing::trace_span!(target: traces::TARGET, "operation");
        self.operations
            .spawn(operation.instrument(span).in_current_span())
            .await
            .unwrap_or(Err(Error::Stopping))
    }

    /// Owns a task that belongs to no call.
    pub(crate) fn own(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.operations.spawn(task);
    }

    /// For what the shim knows by itself: it does, once it has read containerd's state, whether or not containerd
    /// answers now.
    pub(crate) fn known(&self) -> Result<()> {
        if self.recovered.get().is_some() {
            return Ok(());
        }
        self.ready()
    }

    pub(crate) fn ready(&self) -> Result<()> {
        match &*self.readiness.borrow() {
            Readiness::Ready { .. } => Ok(()),
            Readiness::Waiting(reason) => Err(Error::NotReady(reason.clone())),
        }
    }

    /// Waits for operations that are under way, and lets go of the containers' output.
    pub(crate) async fn finish_operations(&self, grace: Duration) {
        for container in self.table.containers() {
            container.close_log();
        }
        self.unwatch_inits().await;
        self.operations.close();
        if timeout(grace, self.operations.wait()).await.is_err() {
            tracing::warn!(
                operations = self.operations.len(),
                "operations outlived the grace period"
            );
        }
    }
}
