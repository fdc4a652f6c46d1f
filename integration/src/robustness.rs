//! A checker in the spirit of etcd's robustness tests: random clients write, read, watch and listen while apiservers,
//! etcd members and the broker are killed, paused and cut off, and the store forgets its past; then what they were told is held
//! to what the API promises.
//!
//! ```text
//! seed ─► schedule of faults ─► cluster (three apiservers, three etcd members, a broker, each in a network namespace)
//!   └───► clients, watchers ──────►  │                                   the store's log ─┐
//!                                    └─► what each was told ─► history ───────────────────┴─► verify (pure)
//! ```

mod clients;
pub mod cluster;
pub mod faults;
pub mod history;
mod listener;
mod log;
pub mod objects;
pub mod verify;
mod watchers;

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use rand::Rng as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;

use self::{
    clients::{Client, Record, rng, selector},
    cluster::Cluster,
    faults::Schedule,
    history::{Change, History, Kind, Revision, Span, Start, Watch},
    listener::Inbox,
    log::Log,
    watchers::Watcher,
};
use crate::{Sandbox, network::Network, programs::program};

const CLIENTS: usize = 12;
const WATCHERS: usize = 8;

/// How long watchers and messages may take to come to the end once everything is well again: longer than the outbox needs
/// to be taken over after a crash.
const CATCH_UP: Duration = Duration::from_mins(1);

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Run {
    /// The clients' choices come from it.
    pub seed: u64,
    /// How long the clients write.
    pub span: Duration,
    pub faults: Schedule,
}

/// Time since the start of a run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    fn now(self) -> Duration {
        self.start.elapsed()
    }

    fn instant(self) -> Span {
        let now = self.now();
        Span {
            begun: now,
            ended: now,
        }
    }
}

impl Run {
    /// Plays the run on a cluster of its own.
    pub fn play(self) -> anyhow::Result<History> {
        with_cluster(async |cluster| self.on(cluster).await)
    }

    async fn on(&self, cluster: &mut Cluster) -> anyhow::Result<History> {
        let access = cluster.access.clone();
        let inbox = Inbox::open(&access.amqp).await;
        let log = Log::new(access.etcd.clone());
        let mut aside = JoinSet::new();
        aside.spawn(inbox.clone().fill(access.amqp.clone()));
        aside.spawn(log.clone().follow());
        let mut players = Players::start(self.seed, self.span, || access.channels());
        let clock = players.clock;

        self.faults.run(cluster, &log, clock).await?;
        let mut history = players.written().await?;
        eprintln!("{clock} the clients have ended");
        access.ready().await;
        (history.order, history.failures) = log.whole().await?;
        // The apiservers forget by themselves what is older than they are told to keep.
        let newest = history.order.last().map_or(0, |change| change.revision);
        history.compacted = log.compacted().max(newest - cluster::HISTORY);
        history.watches = players.watched(&history.order).await?;
        eprintln!("{clock} the watchers have ended");
        all_arrived(&inbox, &history.order).await;
        eprintln!("{clock} the messages have come");
        let arrived = inbox.arrived();
        history.messages = arrived.messages;
        history.failures.extend(arrived.failures);
        Ok(history)
    }
}

/// The clients and the watchers of a run, whatever their apiservers run on.
#[derive(Debug)]
pub struct Players {
    clock: Clock,
    clients: JoinSet<Record>,
    watchers: JoinSet<Watch>,
    target: watch::Sender<Option<Revision>>,
}

impl Players {
    /// Each gets a connection of its own to every apiserver.
    pub fn start(seed: u64, span: Duration, channels: impl Fn() -> Vec<Channel>) -> Self {
        let clock = Clock {
            start: Instant::now(),
        };
        let (target, _) = watch::channel(None);
        let mut watchers = JoinSet::new();
        for number in CLIENTS..CLIENTS + WATCHERS {
            let mut choices = rng(seed, number, u64::MAX);
            let kind = Kind::ALL[number % Kind::ALL.len()];
            let watcher = Watcher {
                number,
                seed,
                channels: channels(),
                clock,
                kind,
                selector: selector(&mut choices, kind),
                stays_away: choices.random_bool(0.4),
                // The revision of an empty store: all that a run does comes after it.
                start: if choices.random_bool(0.3) {
                    Start::State
                } else {
                    Start::After(1)
                },
                target: target.subscribe(),
            };
            watchers.spawn(watcher.run());
        }
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client::new(number, seed, channels(), clock);
            clients.spawn(client.run(clock.start + span));
        }
        Self {
            clock,
            clients,
            watchers,
            target,
        }
    }

    /// What the clients did, once all have ended.
    pub async fn written(&mut self) -> anyhow::Result<History> {
        let mut history = History::default();
        while let Some(record) = self.clients.join_next().await {
            let Record { writes, reads } = record?;
            history.writes.extend(writes);
            history.reads.extend(reads);
        }
        Ok(history)
    }

    /// What the watchers were told, once that is everything.
    pub async fn watched(&mut self, order: &[Change]) -> anyhow::Result<Vec<Watch>> {
        self.target
            .send_replace(order.last().map(|change| change.revision));
        let mut told = Vec::new();
        let all = async {
            while let Some(watch) = self.watchers.join_next().await {
                told.push(watch?);
            }
            anyhow::Ok(())
        };
        timeout(CATCH_UP, all)
            .await
            .context("a watcher does not come to the end of the run")??;
        Ok(told)
    }
}

/// Does something with a new cluster, on threads that can reach its places.
pub fn with_cluster<T: Send>(
    something: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let sandbox = Sandbox::new();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    // From a thread that is outside: processes are made by the thread that made the first. There they may be built, too.
    program("apiserver");
    let mut network = runtime()?.block_on(Network::new(&sandbox));
    let done = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            network.enter()?;
            runtime()?.block_on(async {
                let mut cluster = Cluster::start(&sandbox, &mut network).await;
                something(&mut cluster).await
            })
        });
        inside.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Waits for the messages; what is missing after that is the verification's to tell.
async fn all_arrived(inbox: &Inbox, order: &[Change]) {
    let wanted: BTreeSet<_> = order.iter().map(|change| change.revision).collect();
    let arrive = async {
        loop {
            let messages = inbox.arrived().messages;
            let come: BTreeSet<_> = messages.iter().map(|message| message.revision).collect();
            if wanted.is_subset(&come) {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let _ = timeout(CATCH_UP, arrive).await;
}
