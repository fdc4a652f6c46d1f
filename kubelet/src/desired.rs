//! What the node is to run: the seam between the sources of pods and the workers that run them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock},
};

use clone8s::{
    mirror,
    object::Object as _,
    rules::{NODE_CONDITIONS, NODE_NOT_READY},
    v1::{Condition, Pod, PodSpec},
};

/// True when the node monitor has set the pod's readiness, while it did not hear of this node.
pub(crate) fn is_overruled(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|one| one.r#type == "Ready" && one.reason == NODE_NOT_READY)
}

/// The conditions of a pod that others than its node set, for its readiness gates.
pub(crate) fn conditions_of_others(pod: &Pod) -> impl Iterator<Item = &Condition> + Clone {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|one| !NODE_CONDITIONS.contains(&one.r#type.as_str()))
}

/// Whether two pods are equal: those that are one in memory, as most are, without a look at what is in them.
pub(crate) fn are_equal(one: &Arc<Pod>, other: &Arc<Pod>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// A pod's place: one pod at a time has it, whatever its uid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
}

impl PodKey {
    /// A pod without a namespace is in "default".
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        let namespace = namespace.into();
        Self {
            namespace: if namespace.is_empty() {
                "default".to_owned()
            } else {
                namespace
            },
            name: name.into(),
        }
    }

    pub fn of(pod: &Pod) -> Self {
        Self::new(pod.namespace(), pod.name())
    }

    /// The place in the API where a pod of this place of the node is shown.
    #[must_use]
    pub fn of_mirror(&self, node: &str) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: mirror::name(&self.name, node),
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Tells two pods of one key apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    pub fn new(uid: impl Into<String>) -> Self {
        Self(uid.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a desired pod comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Folder,
    Api,
    Queue,
}

impl Source {
    /// Whether the node has the pod by itself, so that the apiserver knows it by its mirror alone.
    pub fn is_nodes_own(self) -> bool {
        match self {
            Self::Folder | Self::Queue => true,
            Self::Api => false,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Api => "api",
            Self::Queue => "queue",
        }
    }
}

/// One pod that the node is to run.
///
/// Its metadata holds a uid: the apiserver's, or one that the source derives from the pod's name, so that it is the
/// same after a restart of the kubelet.
#[derive(Debug, Clone)]
pub struct DesiredPod {
    pub pod: Arc<Pod>,
    pub source: Source,
}

impl PartialEq for DesiredPod {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && are_equal(&self.pod, &other.pod)
    }
}

impl DesiredPod {
    pub fn key(&self) -> PodKey {
        PodKey::of(&self.pod)
    }

    pub fn uid(&self) -> PodUid {
        PodUid::new(self.pod.uid())
    }

    /// The pod's spec; a pod without one asks for nothing and is refused at admission.
    pub fn spec(&self) -> &PodSpec {
        static NOTHING: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NOTHING)
    }

    /// The readiness gates that are open: whose condition somebody has set to True.
    pub fn open_gates(&self) -> Vec<&str> {
        let conditions = conditions_of_others(&self.pod);
        let gates = self.spec().readiness_gates.iter();
        let types = gates.map(|gate| gate.condition_type.as_str());
        types
            .filter(|kind| {
                let mut conditions = conditions.clone();
                conditions.any(|one| one.r#type == **kind && one.status == "True")
            })
            .collect()
    }

    /// True once a graceful deletion was asked for.
    pub fn is_terminating(&self) -> bool {
        self.pod
            .metadata
            .as_ref()
            .is_some_and(|meta| meta.deletion_timestamp.is_some())
    }
}

pub type DesiredPods = Arc<BTreeMap<PodKey, DesiredPod>>;

/// The whole desired state, as of now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Desired {
    pub pods: DesiredPods,
    /// True once every configured source has spoken or the checkpoint is loaded. Until then `pods` may be short: what
    /// it names is started, and what it does not name is left alone.
    pub complete: bool,
}
