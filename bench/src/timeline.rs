//! When each step of a pod's way was seen from outside: on the API's watch, on the broker, in containerd's events.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clone8s::{
    client::{From, Query, Resource as _},
    object::Object as _,
    v1::Pod,
};
use clone8s_integration::{ControlPlane, Foreign, Node, foreign, pods, wait};
use containerd_client::services::v1::{SubscribeRequest, events_client::EventsClient};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::transport::Channel;

/// Something that was seen, of a pod where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// The watch shows the pod on a node.
    Bound(String),
    /// The broker has handed out the pod for its node.
    OnBus(String),
    /// containerd did something in the shim's namespace.
    Containerd(String),
    /// The watch shows the pod running and ready.
    Reported(String),
}

/// One pod's way, each step as the time that it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Journey {
    /// CreatePod, from the call to its answer.
    pub(crate) store: Duration,
    /// From there until a watch shows the pod bound.
    pub(crate) schedule: Duration,
    /// From there until a queue beside the node's has the pod.
    pub(crate) bus: Duration,
    /// From there until containerd's first step: the kubelet's checkpoint and plan, and the shim's sandbox.
    pub(crate) plan: Duration,
    /// From there until the container's process has started.
    pub(crate) containerd: Duration,
    /// From the call until the container's process has started.
    pub(crate) running: Duration,
    /// From the call until a watch shows that.
    pub(crate) reported: Duration,
}

/// Sees what one node and its cluster do.
#[derive(Debug)]
pub(crate) struct Observer {
    marks: Receiver<(Instant, Mark)>,
    // Ended with the observer.
    _watchers: JoinSet<anyhow::Result<()>>,
}

/// A pod leaves about a dozen marks; a full channel only delays whoever sees more.
const MARKS: usize = 1_024;
const AUDIT_QUEUE: &str = "bench";

impl Observer {
    pub(crate) async fn start(plane: &ControlPlane, node: &Node, broker: &str) -> anyhow::Result<Self> {
        let (marks, inbox) = channel(MARKS);
        let mut watchers = JoinSet::new();
        Foreign::bind(broker, AUDIT_QUEUE, "clone8s.nodes", node.name()).await;
        watchers.spawn(watch_bus(broker.to_owned(), marks.clone()));
        watchers.spawn(watch_containerd(node.containerd.channel(), marks.clone()));
        let (_, revision) = Pod::list_all(&plane.channel(), &Query::default()).await?;
        watchers.spawn(watch_pods(plane.channel(), revision, marks));
        Ok(Self {
            marks: inbox,
            _watchers: watchers,
        })
    }

    /// Creates the pod and follows it until it is reported running.
    pub(crate) async fn follow(&mut self, plane: &ControlPlane, pod: Pod) -> anyhow::Result<Journey> {
        // What the pod before left behind.
        while self.marks.try_recv().is_ok() {}
        let name = pod.name().to_owned();
        let start = Instant::now();
        Pod::create(&plane.channel(), pod).await?;
        let stored = Instant::now();
        let (mut bound, mut on_bus, mut first, mut started) = (None, None, None, None);
        let reported = loop {
            let next = timeout(wait::BOUND, self.marks.recv()).await;
            let (at, mark) = next
                .with_context(|| format!("{name} does not run"))?
                .context("the watchers ended")?;
            match mark {
                Mark::Bound(of) if of == name => drop(bound.get_or_insert(at)),
                Mark::OnBus(of) if of == name => drop(on_bus.get_or_insert(at)),
                Mark::Containerd(topic) => {
                    first.get_or_insert(at);
                    if topic == "/tasks/start" {
                        started.get_or_insert(at);
                    }
                }
                Mark::Reported(of) if of == name => break at,
                _ => {}
            }
        };
        let Some(((bound, on_bus), (first, started))) = bound.zip(on_bus).zip(first.zip(started)) else {
            bail!(
                "{name} runs, but not every step was seen: bound {bound:?}, bus {on_bus:?}, started {started:?}"
            );
        };
        // Two watchers may see two steps in either order: a step is never negative.
        Ok(Journey {
            store: stored - start,
            schedule: bound.saturating_duration_since(stored),
            bus: on_bus.saturating_duration_since(bound.max(stored)),
            plan: first.saturating_duration_since(on_bus.max(bound)),
            containerd: started.saturating_duration_since(first),
            running: started - start,
            reported: reported - start,
        })
    }
}

async fn watch_pods(channel: Channel, revision: i64, marks: Sender<(Instant, Mark)>) -> anyhow::Result<()> {
    let mut watch = Pod::watch(&channel, &Query::default(), From::Revision(revision)).await?;
    while let Some(event) = watch.next().await? {
        let at = Instant::now();
        let Some(pod) = event.object else { continue };
        let name = pod.name().to_owned();
        if pods::check_ready(&pod).is_ok() {
            marks.send((at, Mark::Reported(name))).await?;
        } else if pod.spec.is_some_and(|spec| !spec.node_name.is_empty()) {
            marks.send((at, Mark::Bound(name))).await?;
        }
    }
    Ok(())
}

async fn watch_bus(broker: String, marks: Sender<(Instant, Mark)>) -> anyhow::Result<()> {
    let foreign = Foreign::connect(&broker).await?;
    let mut consumer = foreign.consume(AUDIT_QUEUE).await?;
    loop {
        let message = foreign::next(&mut consumer).await?;
        let at = Instant::now();
        let pod = <Pod as prost::Message>::decode(message.body.as_slice())?;
        marks.send((at, Mark::OnBus(pod.name().to_owned()))).await?;
    }
}

async fn watch_containerd(channel: Channel, marks: Sender<(Instant, Mark)>) -> anyhow::Result<()> {
    let mut events = EventsClient::new(channel)
        .subscribe(SubscribeRequest { filters: Vec::new() })
        .await?
        .into_inner();
    while let Some(event) = events.message().await? {
        let at = Instant::now();
        if event.namespace == Node::NAMESPACE {
            marks.send((at, Mark::Containerd(event.topic))).await?;
        }
    }
    Ok(())
}
