//! Validates, stores, lists, watches and publishes the objects of a cluster.
//!
//! ```text
//! connection ─► door (identity, access) ─► services (messages) ─► registry (rules, preconditions) ─► store
//!                                             │                       ▲                               │  │
//!                                             └─► tunnel ─► a node    └── reads, watches ── cache ◄───┘  │
//!                                                                                  bus ◄── outbox ◄──────┘
//! ```

mod access;
mod admission;
pub mod backup;
mod binding;
mod cache;
mod config;
mod door;
mod ephemeral;
mod error;
mod events;
mod eviction;
mod fields;
mod gathering;
mod identity;
mod kind;
mod member;
mod metrics;
mod namespaces;
mod on_first_call;
mod outbox;
mod ownership;
mod page_token;
mod pki;
mod pod_calls;
mod pod_status;
mod readiness;
mod references;
mod registration;
mod registry;
mod server;
mod services;
#[cfg(test)]
mod simulation;
pub mod store;
mod time;
mod tls;
mod tunnel;

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clone8s_bus::EventBus;
use clone8s_daemon::{
    Shutdown, Supervisor, backoff, clock,
    supervisor::SupervisorError,
    unix::{self, ListenError},
};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic_health::ServingStatus;
use tracing::Instrument as _;

pub use self::{
    config::{Config, HistoryArgs, KeyPairFiles, StoreConfig, TlsConfig},
    error::ERROR_DOMAIN,
    pki::{PkiError, RootCa},
    tls::TlsError,
};
use self::{
    error::ApiError,
    member::{Member, Session},
    metrics::Metrics,
    pki::Pki,
    registration::Registrar,
    registry::Registry,
    services::Backend,
    store::{
        History, Store,
        embedded::{self, EmbeddedStore},
        etcd::{EtcdStore, compaction},
        traced,
    },
    tls::TlsListener,
    tunnel::Tunnels,
};

/// How long open calls may take to end once shutdown is asked for.
const GRACE: Duration = Duration::from_secs(10);
/// How long it may take then to tell the other apiservers.
const LEAVE: Duration = Duration::from_secs(2);

/// Why an apiserver could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot keep this apiserver's identity in {folder}", folder = .folder.display())]
    Identity {
        folder: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot open the embedded store")]
    EmbeddedStore(#[from] store::embedded::OpenError),
    #[error("cannot use etcd")]
    EtcdStore(#[from] store::etcd::ConfigError),
    #[error("cannot use the cluster's certificates")]
    Pki(#[from] PkiError),
    #[error("cannot serve TLS")]
    Tls(#[from] TlsError),
    #[error("cannot serve metrics on {address}: choose another address, or stop what uses it")]
    Metrics {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("cannot listen")]
    Listen(#[from] ListenError),
    #[error("cannot read the store")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("asked to stop while the store was not reachable")]
    StoppedBeforeStore,
    #[error(transparent)]
    Stopped(#[from] SupervisorError),
}

/// Starts an apiserver and serves until shutdown.
pub async fn run(config: Config, bus: Arc<dyn EventBus>, shutdown: Shutdown) -> Result<(), Error> {
    match Apiserver::start(config, bus, shutdown).await {
        Ok(apiserver) => apiserver.serve().await,
        // It is what was asked for.
        Err(Error::StoppedBeforeStore) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An apiserver whose store is open and whose sockets are bound: clients can connect, and are answered once
/// [`Apiserver::serve`] runs.
pub struct Apiserver {
    registry: Registry,
    /// With the other apiservers of the store; None where there can be no other.
    session: Option<Session>,
    /// None where the store bounds its history itself.
    compaction: Option<(EtcdStore, History)>,
    backend: Arc<Backend>,
    pki: Arc<Pki>,
    bus: Arc<dyn EventBus>,
    identity: String,
    socket: UnixListenerStream,
    tls: Option<TlsListener>,
    metrics_listener: Option<TcpListener>,
    shutdown: Shutdown,
}

impl fmt::Debug for Apiserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apiserver")
            .field("socket", &self.socket)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Apiserver {
    /// Opens the certificates and the store, waiting for one that is not reachable yet, and binds the sockets.
    pub async fn start(config: Config, bus: Arc<dyn EventBus>, shutdown: Shutdown) -> Result<Self, Error> {
        let own = Own::open(&config)?;
        let history = config.history.of(&config.store);
        let opening = traced::opening();
        let (store, etcd) = open_store(&config.store, history)
            .instrument(opening.clone())
            .await?;
        let store = traced::traced(store, &opening);
        let compaction = etcd.map(|etcd| (etcd, history));
        Self::open(own, store, compaction, config, bus, shutdown).await
    }

    /// The same on any store that bounds its history itself.
    pub async fn start_on(
        store: Arc<dyn Store>,
        config: Config,
        bus: Arc<dyn EventBus>,
        shutdown: Shutdown,
    ) -> Result<Self, Error> {
        Self::open(Own::open(&config)?, store, None, config, bus, shutdown).await
    }

    async fn open(
        Own { pki, identity }: Own,
        store: Arc<dyn Store>,
        compaction: Option<(EtcdStore, History)>,
        config: Config,
        bus: Arc<dyn EventBus>,
        shutdown: Shutdown,
    ) -> Result<Self, Error> {
        let (member, store) = shared(store, &identity);
        let registry = Registry::new(store, shutdown.clone());
        let session = wait_for_store(&registry, member.as_ref(), &shutdown).await?;
        let socket = unix::listen(&config.socket).await?;
        let tls = match &config.tls {
            Some(tls) => Some(TlsListener::bind(tls.address, &pki).await?),
            None => None,
        };
        let metrics_listener = match config.metrics {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|cause| Error::Metrics { address, cause })?,
            ),
            None => None,
        };
        let backend = Arc::new(Backend {
            registry: registry.clone(),
            tunnels: Arc::new(Tunnels::new(shutdown.clone())),
            registrar: Registrar::new(Arc::clone(registry.store()), Arc::clone(&pki)),
            pki: Arc::clone(&pki),
            shutdown: shutdown.clone(),
        });
        Ok(Self {
            registry,
            session,
            compaction,
            backend,
            pki,
            bus,
            identity,
            socket,
            tls,
            metrics_listener,
            shutdown,
        })
    }

    /// Where TLS is served, with the port that was taken; None when it is not.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.as_ref().and_then(|tls| tls.address().ok())
    }

    /// Where the metrics are served, with the port that was taken; None when they are not.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until shutdown.
    pub async fn serve(self) -> Result<(), Error> {
        tracing::info!(tls = ?self.tls_address(), "serving the API");
        let shutdown = self.shutdown;
        let (health, health_service) = tonic_health::server::health_reporter();
        readiness::tell_alive(&health, ServingStatus::Serving).await;
        let routes = server::routes(&self.backend, health_service);
        let metrics = Arc::new(Metrics::new());
        let mut supervisor = Supervisor::new(shutdown.clone());
        let (bus_takes, bus_told) = watch::channel(true);
        supervisor.spawn(
            "readiness",
            readiness::keep(
                health,
                Arc::clone(&metrics),
                Arc::clone(self.registry.store()),
                bus_told,
                shutdown.clone(),
            ),
        );
        supervisor.spawn(
            "unix-socket",
            server::serve(
                routes.clone(),
                self.socket,
                Arc::clone(&metrics),
                shutdown.clone(),
            ),
        );
        if let Some(tls) = self.tls {
            let certificate = tls.certificate();
            supervisor.spawn("certificates", certificate.keep_fresh(self.pki, shutdown.clone()));
            supervisor.spawn(
                "tls",
                server::serve(routes, tls.connections(), Arc::clone(&metrics), shutdown.clone()),
            );
        }
        if let Some(listener) = self.metrics_listener {
            supervisor.spawn(
                "metrics",
                server::serve_metrics(metrics, listener, shutdown.clone()),
            );
        }
        supervisor.spawn(
            "cache",
            cache::feed(
                Arc::clone(self.registry.caches()),
                Arc::clone(self.registry.store()),
                shutdown.clone(),
            ),
        );
        supervisor.spawn(
            "outbox",
            outbox::run(
                Arc::clone(self.registry.store()),
                Arc::clone(self.registry.caches()),
                self.bus,
                self.identity,
                bus_takes,
                shutdown.clone(),
            ),
        );
        let member = self.session.as_ref().map(|session| Arc::clone(session.member()));
        if let Some(session) = self.session {
            supervisor.spawn("membership", member::keep(session, shutdown.clone()));
        }
        if let Some((etcd, history)) = self.compaction {
            supervisor.spawn("compaction", compaction::keep(etcd, history, shutdown.clone()));
        }
        supervisor.spawn(
            "namespaces",
            namespaces::empty_ending(self.registry.clone(), shutdown.clone()),
        );
        supervisor.spawn(
            "ownership",
            ownership::keep(self.registry.clone(), shutdown.clone()),
        );
        supervisor.spawn(
            "quotas",
            admission::quota::keep_statuses(self.registry.clone(), shutdown.clone()),
        );
        supervisor.spawn(
            "requests",
            registry::sweep_requests(self.registry.clone(), shutdown.clone()),
        );
        supervisor.spawn("events", events::sweep(self.registry, shutdown));
        supervisor.run(GRACE).await?;
        if let Some(member) = member {
            // Whoever does not wait for this finds out.
            let _ = timeout(LEAVE, member.leave()).await;
        }
        Ok(())
    }
}

/// What an apiserver keeps in its folder.
struct Own {
    pki: Arc<Pki>,
    identity: String,
}

impl Own {
    fn open(config: &Config) -> Result<Self, Error> {
        let pki = Arc::new(Pki::open(&config.data_dir, config.tls.as_ref(), clock::now())?);
        let identity = identity::load_or_make(&config.data_dir).map_err(|cause| Error::Identity {
            folder: config.data_dir.clone(),
            cause,
        })?;
        Ok(Self { pki, identity })
    }
}

/// The store, and etcd's own where it is one.
async fn open_store(
    config: &StoreConfig,
    history: History,
) -> Result<(Arc<dyn Store>, Option<EtcdStore>), Error> {
    Ok(match config {
        StoreConfig::Embedded { path } => {
            let options = embedded::Options {
                history,
                ..embedded::Options::default()
            };
            (Arc::new(EmbeddedStore::open_with(path, &options)?), None)
        }
        StoreConfig::Etcd(etcd) => {
            let etcd = EtcdStore::connect(etcd).await?;
            (Arc::new(etcd.clone()), Some(etcd))
        }
    })
}

/// A store that other apiservers may write to is written to as one of them.
fn shared(store: Arc<dyn Store>, identity: &str) -> (Option<Arc<Member>>, Arc<dyn Store>) {
    if store.is_exclusive() {
        return (None, store);
    }
    let member = Arc::new(Member::new(store, identity.to_owned()));
    (Some(Arc::clone(&member)), member)
}

/// Joins the store's other apiservers, makes the namespaces that are always there, which shows too that the store answers,
/// and reads what there is.
async fn prepare(registry: &Registry, member: Option<&Arc<Member>>) -> Result<Option<Session>, ApiError> {
    let session = match member {
        Some(member) => Some(Session::join(member).await?),
        None => None,
    };
    namespaces::ensure_own(registry).await?;
    registry.caches().fill(registry.store().as_ref()).await?;
    Ok(session)
}

/// Waits until the store has answered for all that serving begins with.
async fn wait_for_store(
    registry: &Registry,
    member: Option<&Arc<Member>>,
    shutdown: &Shutdown,
) -> Result<Option<Session>, Error> {
    let mut retries = backoff::reconnect();
    loop {
        let prepared = tokio::select! {
            () = shutdown.cancelled() => return Err(Error::StoppedBeforeStore),
            prepared = prepare(registry, member) => prepared,
        };
        match prepared {
            Ok(session) => return Ok(session),
            Err(error @ ApiError::StoreUnavailable(_)) => {
                tracing::warn!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "waiting for the store"
                );
            }
            Err(error) => return Err(Error::Prepare(error.into())),
        }
        let pause = retries.next().unwrap_or(Duration::from_secs(5));
        tokio::select! {
            () = shutdown.cancelled() => return Err(Error::StoppedBeforeStore),
            () = tokio::time::sleep(pause) => {}
        }
    }
}
