//! Several apiservers over one store and one bus, all in memory, in a time that does not wait: seconds of it pass as soon as
//! nobody has anything to do. The clients and what they hold the API to are those of the integration tests' robustness.
//!
//! ```text
//! clients, watchers ──(gRPC over pipes)──► apiservers, which crash and start again
//!                                             │ ways on which things take long or are lost
//!                                             ▼
//!                                   a store that goes away; a bus that confirms nothing now and then
//! ```

mod bus;

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use clone8s_daemon::{Shutdown, clock};
use clone8s_integration::robustness::{
    Players,
    history::{Change, History, Verb},
    verify::verify,
};
use hyper_util::rt::TokioIo;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{
    Channel, Endpoint,
    server::{Connected, UdsConnectInfo},
};

use self::bus::FlakyBus;
use crate::{
    cache, member,
    metrics::Metrics,
    namespaces, outbox, ownership,
    pki::Pki,
    registration::Registrar,
    registry::Registry,
    server,
    services::Backend,
    shared,
    store::{Revision, far::FarStore},
    tunnel::Tunnels,
    wait_for_store,
};

const APISERVERS: usize = 3;
const SPAN: Duration = Duration::from_secs(40);
const SEED: &str = "CLONE8S_ROBUSTNESS_SEED";

/// One apiserver, or the place of one that has crashed.
struct Server {
    number: usize,
    store: FarStore,
    bus: FlakyBus,
    folder: tempfile::TempDir,
    /// Where connections go to while it runs.
    door: Arc<Mutex<Option<mpsc::Sender<io::Result<Pipe>>>>>,
    tasks: JoinSet<()>,
    /// While it is, none of its tasks goes on; a call that is under way does.
    frozen: watch::Sender<bool>,
}

impl Server {
    fn new(number: usize, store: &FarStore, bus: &FlakyBus) -> Self {
        Self {
            number,
            store: store.clone(),
            bus: bus.clone(),
            folder: tempfile::tempdir().unwrap(),
            door: Arc::default(),
            tasks: JoinSet::new(),
            frozen: watch::Sender::new(false),
        }
    }

    async fn start(&mut self) {
        let shutdown = Shutdown::new();
        let identity = format!("apiserver-{}", self.number);
        let (member, store) = shared(Arc::new(self.store.clone()), &identity);
        let registry = Registry::new(Arc::clone(&store), shutdown.clone());
        let joined = wait_for_store(&registry, member.as_ref(), &shutdown).await;
        let session = joined.unwrap().expect("others share the store");
        let pki = Arc::new(Pki::open(self.folder.path(), None, clock::now()).unwrap());
        let backend = Arc::new(Backend {
            registry: registry.clone(),
            tunnels: Arc::new(Tunnels::new(shutdown.clone())),
            registrar: Registrar::new(Arc::clone(&store), Arc::clone(&pki)),
            pki,
            shutdown: shutdown.clone(),
        });
        let (door, connections) = mpsc::channel(16);
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = Some(door);
        let (_, health) = tonic_health::server::health_reporter();
        let routes = server::routes(&backend, health);
        let connections = ReceiverStream::new(connections);
        let metrics = Arc::new(Metrics::new());
        let serving = server::serve(routes, connections, metrics, shutdown.clone());
        let caches = Arc::clone(registry.caches());
        let feeding = cache::feed(Arc::clone(&caches), Arc::clone(&store), shutdown.clone());
        let emptying = namespaces::empty_ending(registry.clone(), shutdown.clone());
        let owning = ownership::keep(registry, shutdown.clone());
        let staying = member::keep(session, shutdown.clone());
        let (takes, _) = watch::channel(true);
        let bus = Arc::new(self.bus.clone());
        let publishing = outbox::run(store, caches, bus, identity, takes, shutdown);
        self.spawn(async { serving.await.unwrap() });
        self.spawn(async { feeding.await.unwrap() });
        self.spawn(async { emptying.await.unwrap() });
        self.spawn(async { owning.await.unwrap() });
        self.spawn(async { staying.await.unwrap() });
        self.spawn(async { publishing.await.unwrap() });
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let mut frozen = self.frozen.subscribe();
        self.tasks.spawn(async move {
            tokio::pin!(task);
            loop {
                // The sender goes with the tasks.
                let _ = frozen.wait_for(|frozen| !frozen).await;
                tokio::select! {
                    biased;
                    Ok(_) = frozen.wait_for(|frozen| *frozen) => {}
                    () = &mut task => return,
                }
            }
        });
    }

    /// Everything of it stops where it is, and its connections break.
    async fn crash(&mut self) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.tasks.shutdown().await;
    }

    fn channel(&self) -> Channel {
        let door = Arc::clone(&self.door);
        let connect = tower::service_fn(move |_| {
            let door = door.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move {
                let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
                let (near, far) = duplex(64 * 1024);
                let door = door.ok_or_else(refused)?;
                door.send(Ok(Pipe(far))).await.map_err(|_| refused())?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        });
        Endpoint::from_static("http://simulated").connect_with_connector_lazy(connect)
    }
}

/// The server's end of a connection, by which everybody is root.
struct Pipe(DuplexStream);

impl Connected for Pipe {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        UdsConnectInfo {
            peer_addr: None,
            peer_cred: None,
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Crashes one apiserver after another, leaves one alone, and takes the store away now and then.
async fn trouble(servers: &mut [Server], store: &FarStore, rng: &mut StdRng) {
    sleep(millis(rng, 200, 3_000)).await;
    match rng.random_range(0..10) {
        0..3 => {
            store.set_away(true);
            sleep(millis(rng, 100, 4_000)).await;
            store.set_away(false);
        }
        3..6 => leave_alone(servers, rng).await,
        _ => {
            let victim = &mut servers[rng.random_range(0..APISERVERS)];
            victim.crash().await;
            sleep(millis(rng, 0, 3_000)).await;
            victim.start().await;
        }
    }
}

/// Crashes all but one for about as long as that one takes to believe it; then it may be frozen while the others come back.
async fn leave_alone(servers: &mut [Server], rng: &mut StdRng) {
    let (first, others) = servers.split_at_mut(1);
    let first = &first[0];
    for other in &mut *others {
        other.crash().await;
    }
    sleep(millis(rng, 5_000, 15_000)).await;
    first.frozen.send_replace(rng.random_bool(0.5));
    for other in others {
        other.start().await;
    }
    sleep(millis(rng, 0, 3_000)).await;
    first.frozen.send_replace(false);
}

fn millis(rng: &mut StdRng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.random_range(least..most))
}

async fn play(seed: u64) -> History {
    let (store, bus) = (FarStore::new(seed), FlakyBus::new(seed));
    let mut servers: Vec<_> = (0..APISERVERS)
        .map(|number| Server::new(number, &store, &bus))
        .collect();
    for server in &mut servers {
        server.start().await;
    }
    let channels: Vec<_> = servers.iter().map(Server::channel).collect();
    let mut players = Players::start(seed, SPAN, || channels.clone());
    let mut rng = StdRng::seed_from_u64(seed);
    let troubled = async {
        loop {
            trouble(&mut servers, &store, &mut rng).await;
        }
    };
    let _ = timeout(SPAN, troubled).await;
    // The last trouble may have been cut short.
    store.calm();
    bus.calm();
    for server in &mut servers {
        server.crash().await;
        server.frozen.send_replace(false);
        server.start().await;
    }
    let mut history = players.written().await.unwrap();
    history.order = order(&store);
    history.watches = players.watched(&history.order).await.unwrap();
    let told = async {
        while bus.told().len() < history.order.len() || !bus.has_told(&history.order) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let _ = timeout(Duration::from_mins(1), told).await;
    history.messages = bus.told();
    history
}

fn order(store: &FarStore) -> Vec<Change> {
    let of_a_run = |change: crate::store::Change| {
        let (verb, value) = match (change.value, change.previous) {
            (Some(value), None) => (Verb::Added, value),
            (Some(value), Some(_)) => (Verb::Modified, value),
            (None, previous) => (Verb::Deleted, previous?.value),
        };
        let change = Change::of(&change.key, change.revision.0, verb, &value);
        change.expect("a stored object is readable")
    };
    store
        .changes_after(Revision(0))
        .into_iter()
        .filter_map(of_a_run)
        .collect()
}

/// Seconds of a machine are minutes of the simulation.
#[test]
fn the_promises_hold_in_a_time_that_does_not_wait() {
    let told = std::env::var(SEED).ok().map(|seed| seed.parse().expect("a seed"));
    let since = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seeds = match told {
        Some(seed) => vec![seed],
        None => vec![1, 2, since.as_secs()],
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let history = runtime.block_on(play(seed));
        let found = verify(&history);
        assert!(
            found.is_empty(),
            "{SEED}={seed}: {} broken promises: {:#?}",
            found.len(),
            &found[..found.len().min(5)]
        );
        assert!(
            history.order.len() > 50,
            "{SEED}={seed}: only {} changes",
            history.order.len()
        );
    }
}
