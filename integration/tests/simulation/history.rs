//! What happened in a simulation, in order: what the rules are checked on, and what a failing seed shows.

use std::{collections::BTreeMap, fmt, time::Duration};

use clone8s::{cri, object::Object as _, v1::Pod};
use clone8s_kubelet::identity;

/// A node's name.
pub(crate) type NodeName = &'static str;

/// The image of each pod that a node is to have by message or manifest; None where it is to have none of that name.
pub(crate) type Wishes = BTreeMap<(NodeName, String), Option<&'static str>>;

/// One run of a container, as its labels tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) container: String,
    /// How many runs came before it.
    pub(crate) count: u32,
    pub(crate) image: String,
}

impl Run {
    /// None for a container that is not a kubelet's.
    pub(crate) fn of(container: &cri::Container) -> Option<Self> {
        let label = |name| container.labels.get(name).cloned();
        let annotation = |name| container.annotations.get(name).cloned();
        Some(Self {
            pod: label(identity::POD_NAME)?,
            uid: label(identity::POD_UID)?,
            container: label(identity::CONTAINER_NAME)?,
            count: annotation(identity::RESTART_COUNT)?.parse().ok()?,
            image: annotation(identity::IMAGE)?,
        })
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pod,
            uid,
            container,
            count,
            image,
        } = self;
        let short = uid.get(..4).unwrap_or(uid);
        write!(f, "{pod}({short})/{container}#{count} {image}")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    /// A step of the schedule.
    Step(String),
    /// The store has taken a pod, whose revision is in its metadata.
    Stored(Box<Pod>),
    /// The store has let go of the pod with this uid.
    Removed(String),
    /// By a message or a manifest, a node is to run a pod of this name with this image, or none.
    Wanted {
        node: NodeName,
        pod: String,
        image: Option<&'static str>,
    },
    /// The node has acknowledged a message by which the pod with this uid is to end.
    Told { node: NodeName, uid: String },
    /// The kubelet asks its runtime to start a run, …
    StartAsked { node: NodeName, run: Run },
    /// … to stop one.
    StopAsked { node: NodeName, id: String },
    /// A run is under way.
    Started { node: NodeName, id: String, run: Run },
    /// A run is over; None where the container went with it.
    Ended {
        node: NodeName,
        id: String,
        code: Option<i32>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Since the start of the simulation.
    pub(crate) at: Duration,
    pub(crate) fact: Fact,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} ", self.at.as_secs_f64())?;
        match &self.fact {
            Fact::Step(step) => write!(f, "-- {step}"),
            Fact::Stored(pod) => {
                let status = pod.status.clone().unwrap_or_default();
                let ready = status.conditions.iter().find(|one| one.r#type == "Ready");
                let spec = pod.spec.clone().unwrap_or_default();
                let ending = pod.metadata.clone().unwrap_or_default().deletion_timestamp;
                write!(
                    f,
                    "stored  {}({}) @{} on {:?}: {} ready {} {}, runs {:?}{}",
                    pod.name(),
                    pod.uid().get(..4).unwrap_or_default(),
                    pod.resource_version(),
                    spec.node_name,
                    status.phase,
                    ready.map_or("-", |ready| &ready.status),
                    ready.map_or("", |ready| &ready.reason),
                    restarts(pod).map(|(_, count)| count).collect::<Vec<_>>(),
                    if ending.is_some() { ", ending" } else { "" }
                )
            }
            Fact::Removed(uid) => write!(f, "removed ({})", uid.get(..4).unwrap_or(uid)),
            Fact::Wanted { node, pod, image } => write!(f, "wanted  on {node}: {pod} {image:?}"),
            Fact::Told { node, uid } => write!(f, "told    {node}: ({}) ends", uid.get(..4).unwrap_or(uid)),
            Fact::StartAsked { node, run } => write!(f, "start?  on {node}: {run}"),
            Fact::StopAsked { node, id } => write!(f, "stop?   on {node}: {id}"),
            Fact::Started { node, id, run } => write!(f, "started on {node}: {id} {run}"),
            Fact::Ended { node, id, code } => write!(f, "ended   on {node}: {id} {code:?}"),
        }
    }
}

/// The restart counts of a pod's status, by container.
pub(crate) fn restarts(pod: &Pod) -> impl Iterator<Item = (&str, i32)> {
    let status = pod.status.iter();
    let containers = status.flat_map(|status| &status.container_statuses);
    containers.map(|one| (one.name.as_str(), one.restart_count))
}
