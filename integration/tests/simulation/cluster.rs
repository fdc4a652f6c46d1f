//! The parts of a cluster as they are, in one process: kubelets, apiserver and controllers, each of which can be killed
//! and started again, on a store, a bus and runtimes in memory.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clone8s_apiserver::{
    Apiserver,
    store::{Store, far::FarStore},
};
use clone8s_bus::EventBus;
use clone8s_controllers::NODE_GRACE_PERIOD;
use clone8s_daemon::{
    Shutdown,
    clock::{self, SimulatedTime},
    unix,
};
use clone8s_kubelet::runtime::Runtime;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use crate::{
    bus::FlakyBus,
    convergence::{Found, State},
    history::{Fact, NodeName},
    journal::Journal,
    link::Link,
    runtime::FlakyRuntime,
    schedule::{Act, NODES, Own, Part, Way},
    users::Users,
};

/// The longest that a byte is on its way between two sockets. A runtime whose time is paused goes on to its next timer when
/// all tasks wait, whatever the kernel has for them: with a timer this near, no connection loses more time than that.
const HOP: Duration = Duration::from_millis(2);

/// A part that ends where it is when it is killed.
#[derive(Debug)]
struct Process {
    end: Shutdown,
    task: JoinSet<()>,
}

impl Process {
    fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let end = Shutdown::new();
        let killed = end.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                () = work => panic!("a part of the cluster ends by itself"),
            }
        });
        Self { end, task }
    }

    fn has_ended(&self) -> bool {
        self.end.is_cancelled()
    }

    async fn kill(mut self) {
        self.end.cancel();
        while let Some(ended) = self.task.join_next().await {
            ended.unwrap();
        }
    }
}

struct Node {
    name: NodeName,
    dir: PathBuf,
    link: Link,
    runtime: FlakyRuntime,
    kubelet: Option<Process>,
}

pub(crate) struct Cluster {
    clock: SimulatedTime,
    dir: tempfile::TempDir,
    store: FarStore,
    bus: FlakyBus,
    journal: Journal,
    apiserver: Option<Process>,
    controllers: Option<Process>,
    nodes: Vec<Node>,
    /// The controllers' way, and the users'.
    links: [Link; 2],
    users: Users,
    _ticking: JoinSet<()>,
}

impl Cluster {
    /// Nothing runs yet.
    pub(crate) async fn new(seed: u64, clock: SimulatedTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = FarStore::new(seed);
        let journal = Journal::new(&store);
        let bus = FlakyBus::new(seed, journal.clone());
        let socket = dir.path().join("apiserver.sock");
        let mut nodes = Vec::new();
        for (number, name) in (1..).zip(NODES) {
            let own = dir.path().join(name);
            nodes.push(Node {
                name,
                link: Link::open(own.join("api.sock"), &socket).await,
                dir: own,
                runtime: FlakyRuntime::new(name, seed.wrapping_add(number), journal.clone()),
                kubelet: None,
            });
        }
        let link = async |name: &str| Link::open(dir.path().join(name), &socket).await;
        let links = [link("controllers.sock").await, link("users.sock").await];
        let users = Users::new(unix::channel(links[1].path()), bus.clone(), journal.clone());
        let mut ticking = JoinSet::new();
        let ticked = journal.clone();
        ticking.spawn(async move {
            loop {
                sleep(HOP).await;
                ticked.catch_up();
            }
        });
        Self {
            clock,
            dir,
            store,
            bus,
            journal,
            apiserver: None,
            controllers: None,
            nodes,
            links,
            users,
            _ticking: ticking,
        }
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) async fn act(&mut self, act: Act) {
        self.journal.write(Fact::Step(act.to_string()));
        match act {
            Act::Create { pod, kind, grace } => self.users.create(pod, kind, grace),
            Act::Update { pod } => self.users.update(pod),
            Act::Delete { pod } => self.users.delete(pod),
            Act::Cordon { node, on: true } => self.users.cordon(node),
            Act::Cordon { node, on: false } => self.users.uncordon(node),
            Act::Want {
                node,
                own,
                pod,
                image,
            } => {
                let folder = self.node(node).manifests();
                match own {
                    Own::Queue => self.users.tell(node, pod, image).await,
                    Own::Folder => self.users.write(&folder, node, pod, image),
                }
            }
            Act::Kill(part) => self.kill(part).await,
            Act::KillAtAck(node) => {
                let kubelet = self.node(node).kubelet.as_ref();
                if let Some(end) = kubelet.map(|kubelet| kubelet.end.clone()) {
                    self.bus.kill_at_ack(node, end);
                }
            }
            Act::Start(part) => self.start(part).await,
            Act::Way { node, way } => self.node(node).link.set(way),
            Act::Store { away } => self.store.set_away(away),
            Act::Bus { away } => self.bus.set_away(away),
            Act::Runtime { node, wrong } => self.node(node).runtime.set_wrong(wrong),
            Act::SetClock { by } => self.clock.set(later(clock::now(), by)),
            Act::Exit { node, choice, code } => self.node(node).runtime.clone().exit(choice, code).await,
        }
    }

    /// From now on nothing fails, and everything runs.
    pub(crate) async fn calm(&mut self) {
        self.journal
            .write(Fact::Step("from here on nothing fails".to_owned()));
        self.store.calm();
        self.bus.calm();
        self.start(Part::Apiserver).await;
        self.start(Part::Controllers).await;
        for name in NODES {
            let node = self.node(name);
            node.link.set(Way::Open);
            node.runtime.set_wrong(0);
            self.start(Part::Kubelet(name)).await;
            self.users.uncordon(name);
        }
    }

    pub(crate) async fn restart_all(&mut self) {
        let kubelets = NODES.map(Part::Kubelet);
        for part in kubelets.into_iter().chain([Part::Apiserver, Part::Controllers]) {
            self.kill(part).await;
            self.start(part).await;
        }
    }

    /// What there is now; None while a user is not done.
    pub(crate) async fn state(&mut self) -> Option<State> {
        if self.users.are_busy() {
            return None;
        }
        let mut nodes = Vec::new();
        for node in &self.nodes {
            nodes.push(Found {
                node: node.name,
                running: node.runtime.running().into_values().collect(),
                uids: node.runtime.uids().await,
            });
        }
        let (pods, wanted) = self.journal.wanted();
        Some(State { pods, wanted, nodes })
    }

    fn node(&mut self, name: NodeName) -> &mut Node {
        let mut nodes = self.nodes.iter_mut();
        nodes
            .find(|node| node.name == name)
            .expect("a node of the schedule")
    }

    fn place(&mut self, part: Part) -> &mut Option<Process> {
        match part {
            Part::Kubelet(name) => &mut self.node(name).kubelet,
            Part::Apiserver => &mut self.apiserver,
            Part::Controllers => &mut self.controllers,
        }
    }

    async fn kill(&mut self, part: Part) {
        if let Some(process) = self.place(part).take() {
            process.kill().await;
        }
        if part == Part::Apiserver {
            let links = self.nodes.iter().map(|node| &node.link).chain(&self.links);
            links.for_each(Link::break_all);
        }
    }

    async fn start(&mut self, part: Part) {
        if let Part::Kubelet(name) = part {
            self.bus.spare(name);
        }
        if self.place(part).as_ref().is_some_and(Process::has_ended) {
            self.kill(part).await;
        }
        if self.place(part).is_some() {
            return;
        }
        let process = match part {
            Part::Kubelet(name) => {
                let bus = Arc::new(self.bus.clone());
                self.node(name).kubelet(bus)
            }
            Part::Apiserver => self.apiserver(),
            Part::Controllers => self.controllers(),
        };
        *self.place(part) = Some(process);
    }

    fn apiserver(&self) -> Process {
        let dir = self.dir.path();
        let config = clone8s_apiserver::Config {
            data_dir: dir.join("apiserver"),
            store: clone8s_apiserver::StoreConfig::Embedded {
                path: dir.join("unused.redb"),
            },
            history: clone8s_apiserver::HistoryArgs::default(),
            socket: dir.join("apiserver.sock"),
            tls: None,
            metrics: None,
        };
        let store: Arc<dyn Store> = Arc::new(self.store.clone());
        let bus: Arc<dyn EventBus> = Arc::new(self.bus.clone());
        Process::start(async move {
            let started = Apiserver::start_on(store, config, bus, Shutdown::new()).await;
            started.unwrap().serve().await.unwrap();
        })
    }

    fn controllers(&self) -> Process {
        let config = clone8s_controllers::Config {
            channel: unix::channel(self.links[0].path()).into(),
            node_grace_period: NODE_GRACE_PERIOD,
        };
        Process::start(async move {
            clone8s_controllers::run(config, Shutdown::new()).await.unwrap();
        })
    }
}

impl Node {
    fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    fn kubelet(&self, bus: Arc<dyn EventBus>) -> Process {
        let mut config = clone8s_kubelet::Config::new(self.name);
        config.data_dir = self.dir.join("data");
        config.log_root = self.dir.join("logs");
        // Its containers are in memory: nothing on this machine is to be held to their limits.
        config.cgroup_root = None;
        config.manifest_folder = Some(self.manifests());
        config.apiserver = Some(clone8s_kubelet::config::Apiserver::Socket(
            self.link.path().to_owned(),
        ));
        // There is no process to put there.
        config.cgroup_root = None;
        // However full this machine's disk is.
        config.images.high_threshold = 100;
        // So that what waits for its next start comes to it in the span of a simulation.
        config.intervals.backoff_base = Duration::from_secs(1);
        config.intervals.backoff_max = Duration::from_secs(10);
        let runtime: Arc<dyn Runtime> = Arc::new(self.runtime.clone());
        Process::start(async move {
            // What the one before has begun on the disk ends first: there is one thread for that.
            spawn_blocking(|| ()).await.unwrap();
            let run = clone8s_kubelet::run_on(runtime, config, Some(bus), Shutdown::new());
            run.await.unwrap();
        })
    }
}

fn later(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - by } else { time + by }
}
