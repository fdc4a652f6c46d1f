//! Makes the containers of one node match its desired pods.
//!
//! ```text
//! sources ──Desired──► pod workers ──CRI──► runtime
//!                        │   ▲                 │
//!             status board   └──── relist ◄────┘
//!                        │
//!              status sync, events ──► apiserver
//! ```

pub mod address;
mod admission;
pub mod clock;
pub mod config;
pub mod desired;
pub mod events;
mod eviction;
pub mod identity;
mod image_archives;
pub mod images;
pub mod logs;
mod mirrors;
pub mod objects;
mod outage;
pub mod pod;
pub mod pod_cgroups;
mod pods;
pub mod probe;
mod pull_logins;
pub mod registration;
mod relist;
pub mod runtime;
pub mod sources;
pub mod stats;
pub mod status;
pub mod sysctls;
mod table;
mod timestamp;
pub mod tunnel;
pub mod user_ranges;
pub mod volumes;
mod watched_folder;

use std::{convert::Infallible, sync::Arc, time::Duration};

use clone8s_bus::EventBus;
use clone8s_daemon::{Shutdown, Supervisor, channel::Channel, supervisor::SupervisorError};
use tokio::sync::watch;

use clock::Clock;
pub use config::Config;
use desired::Desired;
use eviction::Evictor;
use image_archives::ArchiveFolder;
use images::Collector;
use logs::Rotation;
use mirrors::MirrorKeeper;
use objects::{ApiObjects, LocalObjects, ObjectsSender};
use registration::{EtcdError, NodeReporter, Registration, RegistrationError};
use runtime::{CriRuntime, Runtime, RuntimeHealth};
use sources::{FolderError, Sources, SourcesError};
use stats::{Publisher, Sampler};
use status::{PodStatuses, StatusBoard};
use tunnel::Tunnel;

/// How long the parts have to end once the kubelet is told to stop. Containers run on.
const GRACE: Duration = Duration::from_secs(10);
/// What manifests are held to is given back after so long, or twice that, without any.
const UNUSED: Duration = Duration::from_secs(15);

/// The way to the apiserver: None until the node has joined, and always on a stand-alone node.
pub type ApiChannel = watch::Receiver<Option<Channel>>;

/// Returns when there is something else in it; never when nobody is left to change it.
pub(crate) async fn has_changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the parts of one kubelet share. Each state has one writer; these are the readers' ends.
#[derive(Clone)]
pub struct Shared {
    pub config: Arc<Config>,
    pub runtime: Arc<dyn Runtime>,
    pub desired: watch::Receiver<Desired>,
    pub statuses: watch::Receiver<PodStatuses>,
    pub runtime_health: watch::Receiver<RuntimeHealth>,
    pub api: ApiChannel,
    pub bus: Option<Arc<dyn EventBus>>,
    pub shutdown: Shutdown,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why a kubelet stopped, or did not start, other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Sources(#[from] SourcesError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("read the notes of evicted pods")]
    Evictions(#[source] std::io::Error),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// Runs a kubelet until `shutdown`. Its containers outlive it.
pub async fn run(config: Config, bus: Option<Arc<dyn EventBus>>, shutdown: Shutdown) -> Result<(), RunError> {
    let runtime = Arc::new(CriRuntime::new(&config.runtime_socket));
    run_on(runtime, config, bus, shutdown).await
}

/// The same on any runtime.
pub async fn run_on(
    runtime: Arc<dyn Runtime>,
    config: Config,
    bus: Option<Arc<dyn EventBus>>,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let mut supervisor = Supervisor::new(shutdown.clone());
    let config = Arc::new(config);
    let board = StatusBoard::new();
    let (desired_writer, desired) = watch::channel(Desired::default());
    let (api_writer, api) = watch::channel(None);
    let (mirrors_writer, mirrors) = watch::channel(None);

    let registration = Registration::new(&config, api_writer)?;
    let sources = Sources::open(&config, api.clone(), bus.clone(), desired_writer, mirrors_writer)?;
    let objects = ObjectsSender::new();
    let local_objects = match &config.config_objects {
        Some(dir) => Some(LocalObjects::new(dir.clone(), objects.clone())?),
        None => None,
    };
    let (sampler, samples) = Sampler::new(Arc::clone(&config), Arc::clone(&runtime), desired.clone());
    let (evictor, evictions) =
        Evictor::open(&config.data_dir, desired.clone(), samples.clone()).map_err(RunError::Evictions)?;
    let (archive_folder, archives) = match &config.image_archives {
        Some(dir) => {
            let (folder, images) = ArchiveFolder::new(dir.clone(), Arc::clone(&runtime));
            (Some(folder), images)
        }
        None => (None, image_archives::none()),
    };
    let runtime_health = pods::spawn(
        &mut supervisor,
        pods::Setup {
            config: Arc::clone(&config),
            runtime: Arc::clone(&runtime),
            clock: Clock::Wall,
            desired: desired.clone(),
            api: api.clone(),
            mirrors: mirrors.clone(),
            board: board.clone(),
            objects: objects.subscribe(),
            evictions,
            archives: archives.clone(),
            host_ip: address::host_ip().to_string(),
            node_memory: pods::node_memory(),
            node_milli_cpu: pods::node_milli_cpu(),
            page_sizes: stats::host::huge_pages().into_keys().collect(),
        },
    );
    let reporter = NodeReporter::new(
        Arc::clone(&config),
        runtime_health.clone(),
        samples.clone(),
        sources.queue_health(),
        api.clone(),
    )?;

    sources.spawn(&mut supervisor);
    if let Some(folder) = archive_folder {
        supervisor.spawn("image archives", folder.run(shutdown.clone()));
    }
    if let Some(local) = local_objects {
        supervisor.spawn("config maps and secrets of the node", local.run(shutdown.clone()));
    }
    if config.apiserver.is_some() {
        let api_objects = ApiObjects::new(desired.clone(), api.clone(), objects);
        supervisor.spawn("config maps and secrets", api_objects.run(shutdown.clone()));
        let keeper = MirrorKeeper::new(
            &config.node_name,
            desired.clone(),
            board.subscribe(),
            mirrors,
            api.clone(),
        );
        supervisor.spawn("mirrors", keeper.run(shutdown.clone()));
    }
    if let Some(registration) = registration {
        supervisor.spawn("registration", registration.run(shutdown.clone()));
    }
    supervisor.spawn("descriptors", forget_descriptors(shutdown.clone()));
    let rotation = Rotation::new(config.log_root.clone(), config.kept_logs, Arc::clone(&runtime));
    supervisor.spawn("log rotation", rotation.run(shutdown.clone()));
    let collector = Collector::new(
        config.images.clone(),
        Arc::clone(&runtime),
        desired.clone(),
        archives,
    );
    supervisor.spawn("image collection", collector.run(shutdown.clone()));
    supervisor.spawn("stats", sampler.run(shutdown.clone()));
    supervisor.spawn("evictions", evictor.run(shutdown.clone()));
    if let Some(reporter) = reporter {
        supervisor.spawn("node report", reporter.run(shutdown.clone()));
    }
    if let Some(bus) = &bus {
        let publisher = Publisher::new(samples, Arc::clone(bus));
        supervisor.spawn("stats on the bus", publisher.run(shutdown.clone()));
    }
    let shared = Shared {
        config,
        runtime,
        desired,
        statuses: board.subscribe(),
        runtime_health,
        api,
        bus,
        shutdown,
    };
    if shared.config.apiserver.is_some() {
        supervisor.spawn("tunnel", Tunnel::new(&shared).run(shared.shutdown.clone()));
    }
    tracing::info!(node = shared.config.node_name, "kubelet started");
    Ok(supervisor.run(GRACE).await?)
}

/// Manifests come now and then, and then several at a time.
async fn forget_descriptors(shutdown: Shutdown) -> Result<(), Infallible> {
    let mut ticks = tokio::time::interval(UNUSED);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = ticks.tick() => clone8s::forget_unused_object_descriptors(),
        }
    }
}
