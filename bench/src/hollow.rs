//! Many nodes on one apiserver: kubelets as they are, each on a runtime that keeps its containers in memory.

use std::{
    fmt::Write as _,
    future::ready,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clone8s::{
    client::{Query, Resource as _},
    rules::NODE_LEASE_NAMESPACE,
    v1::{Lease, Node, Pod},
};
use clone8s_bus::{
    EventBus,
    amqp::{AmqpBus, AmqpConfig},
};
use clone8s_daemon::{Shutdown, memory};
use clone8s_integration::{ControlPlane, RabbitMq, Sandbox, pods, wait};
use clone8s_kubelet::{
    Config, RunError,
    clock::Clock,
    config::{Apiserver, JoinToken},
    run_on,
    runtime::fake::{FakeRuntime, ImageBehavior},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{task::JoinSet, time::Instant};

use crate::machine;

/// How long any of the phases may take.
const PATIENCE: Duration = Duration::from_mins(30);
pub(crate) const IMAGE: &str = "registry.example/hollow:1";
/// Of a token, which is used at once.
const TOKEN_SECONDS: i32 = 600;
/// Callers who create pods.
const WRITERS: usize = 32;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    nodes: u32,
    /// How many pods each, of one container
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=200))]
    pods: u32,
    /// How many join, and are restarted, at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    at_a_time: u16,
    /// For how long they are looked at while nothing happens
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    // As each kubelet of its own does.
    memory::map_large_pieces();
    let sandbox = Sandbox::new();
    let broker = RabbitMq::start(&sandbox).await;
    let amqp = broker.vhost();
    let plane = ControlPlane::start(&sandbox, Some(&amqp)).await;
    let parts = Parts {
        apiserver: plane.apiserver.pid(),
        etcd: plane.etcd.process.pid(),
        broker: broker.process.pid(),
    };
    let at_a_time = usize::from(args.at_a_time);
    let mut report = format!(
        "{} nodes of {} pods. On: {}\n\n{HEADINGS}",
        args.nodes,
        args.pods,
        machine::describe()
    );

    let joining = async {
        let nodes: Vec<_> = stream::iter(0..args.nodes)
            .map(|number| Hollow::join(&plane, &amqp, sandbox.dir(), number, None))
            .buffered(at_a_time)
            .try_collect()
            .await?;
        all_ready(&plane, args.nodes).await;
        anyhow::Ok(nodes)
    };
    let mut nodes = parts.during("all join", &mut report, joining).await??;

    let starting = start_pods(&plane, &nodes, args.pods);
    parts.during("all pods run", &mut report, starting).await??;

    let idling = tokio::time::sleep(Duration::from_secs(args.seconds));
    parts.during("nothing happens", &mut report, idling).await?;

    let restarting = async {
        for some in nodes.chunks_mut(at_a_time) {
            let restarts = some.iter_mut().map(|node| node.restart(&plane));
            futures::future::try_join_all(restarts).await?;
        }
        anyhow::Ok(())
    };
    parts
        .during("a rolling restart of all", &mut report, restarting)
        .await??;

    for node in &mut nodes {
        let (sandboxes, containers) = node.runtime.counts();
        let expected = args.pods as usize;
        ensure!(
            (sandboxes, containers) == (expected, expected) && node.runtime.running().len() == expected,
            "{}: {sandboxes} sandboxes and {containers} containers for {expected} pods",
            node.config.node_name
        );
        node.stop().await?;
    }
    Ok(report)
}

const HEADINGS: &str = "| | took, s | apiserver, % of a core | etcd | RabbitMQ | the nodes together | apiserver, MB | of \
                        that its own, MB |\n|---|---:|---:|---:|---:|---:|---:|---:|\n";

/// The processes that all nodes share.
struct Parts {
    apiserver: u32,
    etcd: u32,
    broker: u32,
}

impl Parts {
    /// Adds a line of what everybody took while the work was done.
    async fn during<T>(
        &self,
        phase: &str,
        report: &mut String,
        work: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        let (start, before) = (Instant::now(), self.busy()?);
        let done = work.await;
        let (took, after) = (start.elapsed(), self.busy()?);
        // Writing to a string cannot fail.
        let _ = write!(report, "| {phase} | {:.1} |", took.as_secs_f64());
        for (before, after) in before.iter().zip(after) {
            let busy = after.saturating_sub(*before).as_secs_f64();
            let _ = write!(report, " {:.1} |", 100.0 * busy / took.as_secs_f64());
        }
        for line in ["VmRSS:", "RssAnon:"] {
            let bytes = machine::process_memory(self.apiserver, line)?;
            let _ = write!(report, " {:.1} |", machine::megabytes(bytes));
        }
        report.push('\n');
        Ok(done)
    }

    fn busy(&self) -> anyhow::Result<[Duration; 4]> {
        let [apiserver, etcd, broker, own] = [self.apiserver, self.etcd, self.broker, std::process::id()];
        Ok([
            machine::process_cpu(apiserver)?,
            machine::process_cpu(etcd)?,
            machine::process_cpu(broker)?,
            machine::process_cpu(own)?,
        ])
    }
}

/// A node of this process.
pub(crate) struct Hollow {
    config: Config,
    amqp: String,
    pub(crate) runtime: FakeRuntime,
    shutdown: Shutdown,
    kubelet: JoinSet<Result<(), RunError>>,
}

impl Hollow {
    pub(crate) async fn join(
        plane: &ControlPlane,
        amqp: &str,
        dir: &Path,
        number: u32,
        manifest_folder: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let name = format!("hollow-{number:04}");
        let mut config = Config::new(&name);
        config.data_dir = dir.join(&name);
        config.log_root = dir.join(&name).join("logs");
        // Its containers are in memory: nothing on this machine is to be held to their limits.
        config.cgroup_root = None;
        config.manifest_folder = manifest_folder;
        config.apiserver = Some(Apiserver::Url(plane.url()));
        config.join_token = Some(JoinToken::Literal(plane.join_token(&name, TOKEN_SECONDS).await));
        let runtime = FakeRuntime::new(Clock::Wall);
        runtime.add_image(IMAGE, ImageBehavior::default());
        let mut node = Self {
            config,
            amqp: amqp.to_owned(),
            runtime,
            shutdown: Shutdown::new(),
            kubelet: JoinSet::new(),
        };
        node.start()?;
        node.heard_since(plane, None).await;
        Ok(node)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let bus: Arc<dyn EventBus> = Arc::new(AmqpBus::connect(&AmqpConfig::new(&self.amqp))?);
        self.shutdown = Shutdown::new();
        let runtime = Arc::new(self.runtime.clone());
        let kubelet = run_on(runtime, self.config.clone(), Some(bus), self.shutdown.clone());
        self.kubelet.spawn(kubelet);
        Ok(())
    }

    /// Ends the kubelet and starts another, until the apiserver has heard of that.
    async fn restart(&mut self, plane: &ControlPlane) -> anyhow::Result<()> {
        let before = self.acquired(plane).await;
        self.stop().await?;
        self.start()?;
        self.heard_since(plane, before).await;
        Ok(())
    }

    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        while let Some(ended) = self.kubelet.join_next().await {
            ended?.with_context(|| self.config.node_name.clone())?;
        }
        Ok(())
    }

    /// When the kubelet that is heard now began to be.
    async fn acquired(&self, plane: &ControlPlane) -> Option<(i64, i32)> {
        let lease = Lease::get(&plane.channel(), NODE_LEASE_NAMESPACE, &self.config.node_name).await;
        let acquired = lease.ok()?.spec?.acquire_time?;
        Some((acquired.seconds, acquired.nanos))
    }

    async fn heard_since(&self, plane: &ControlPlane, before: Option<(i64, i32)>) {
        let what = format!("{} is heard", self.config.node_name);
        wait::until_within(PATIENCE, &what, || async {
            ensure!(self.acquired(plane).await > before, "not yet");
            Ok(())
        })
        .await;
    }
}

async fn all_ready(plane: &ControlPlane, nodes: u32) {
    wait::until_within(PATIENCE, "all nodes are ready", || async {
        let (listed, _) = Node::list_all(&plane.channel(), &Query::default()).await?;
        let ready = listed.iter().filter(|node| is_ready(node)).count();
        ensure!(ready == nodes as usize, "{ready} are");
        Ok(())
    })
    .await;
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|one| one.r#type == "Ready" && one.status == "True")
}

/// Creates the pods of each node by name, and waits until the apiserver knows that they run.
async fn start_pods(plane: &ControlPlane, nodes: &[Hollow], each: u32) -> anyhow::Result<()> {
    let channel = plane.channel();
    let all = (0..each).flat_map(|number| nodes.iter().map(move |node| (node, number)));
    stream::iter(all)
        .map(|(node, number)| {
            let mut pod = pods::pod(
                &format!("{}-{number:03}", node.config.node_name),
                &[("main", IMAGE)],
            );
            pod.spec
                .get_or_insert_default()
                .node_name
                .clone_from(&node.config.node_name);
            Pod::create(&channel, pod)
        })
        .buffer_unordered(WRITERS)
        .try_for_each(|_| ready(Ok(())))
        .await
        .context("create pods")?;
    for node in nodes {
        let query = Query {
            field_selector: format!("spec.nodeName={}", node.config.node_name),
            ..Query::default()
        };
        wait::until_within(PATIENCE, "the pods of a node run", || async {
            let (pods, _) = Pod::list_all(&channel, &query).await?;
            let running = pods.iter().filter(|pod| pods::check_ready(pod).is_ok()).count();
            ensure!(running == each as usize, "{running} of {}", node.config.node_name);
            Ok(())
        })
        .await;
    }
    Ok(())
}
