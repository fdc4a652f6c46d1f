//! What the one path for objects needs to know of each kind beside its rules.

use std::{collections::BTreeSet, sync::Arc};

use clone8s::{
    mirror::is_mirror,
    object::Object,
    references::References,
    rules::{NODE_LEASE_NAMESPACE, Rules, Violation},
    v1::{
        ConfigMap, Event, Lease, LimitRange, Namespace, NamespaceStatus, Node, Pod, PodStatus, PriorityClass,
        ResourceQuota, Secret, ServiceAccount,
    },
};

use crate::{
    admission::{Policy, quota::Usage},
    cache::Cached,
    pod_status, registration,
    services::{self, Backend, MoreCalls},
};

/// Namespace phases.
pub(crate) const ACTIVE: &str = "Active";
pub(crate) const TERMINATING: &str = "Terminating";

/// The namespace of an object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// A pod's grace period where its spec gives none.
const DEFAULT_GRACE_SECONDS: i32 = 30;

/// A kind that the API serves.
pub(crate) trait Kind: Object + Rules + Cached {
    /// The field that [`Kind::node`] reads, where objects can be selected by it.
    const NODE_FIELD: Option<&'static str> = None;
    /// Whether its service has a call to write the status.
    const WRITES_STATUS: bool = false;
    /// Whether other objects are held to it, so that it holds from the answer to its writer on.
    const IS_POLICY: bool = false;

    /// What its service has beside the calls of all kinds.
    fn more_calls(_backend: &Arc<Backend>) -> Option<MoreCalls> {
        None
    }

    /// Takes what the policies give, and tells what they forbid.
    fn admit(&mut self, _old: Option<&Self>, _policy: &Policy) -> Vec<Violation> {
        Vec::new()
    }

    /// What it takes of what quotas count.
    fn usage(&self) -> Usage {
        Usage::one_of(Self::PLURAL, 1)
    }

    /// Gives a new object the status that it starts with, whatever the request says.
    fn start_status(&mut self) {}

    /// Takes the status of another state of the object. A kind without status has nothing to take.
    fn take_status(&mut self, _from: &Self) {}

    /// Takes what a writer of the status may change, who may have named the conditions that it is about.
    fn merge_status(&mut self, given: &Self, _condition_types: &[String]) {
        self.take_status(given);
    }

    /// Keeps what other calls gave the object and nothing can take from it, where an apply names it no more.
    fn keep_what_stays(&mut self, _old: &Self) {}

    /// The node that the object belongs to, if it belongs to one.
    fn node(&self) -> Option<&str> {
        None
    }

    /// Whether it is a node that says that there is such an object, of those that belong to it.
    fn is_told_by_node(&self) -> bool {
        true
    }

    /// Why nobody but its node can change anything of the object, if so.
    fn read_only(&self) -> Option<&'static str> {
        None
    }

    /// Which objects of this kind a pod refers to, where pods refer to such.
    const REFERENCES: Option<fn(&References) -> &BTreeSet<String>> = None;

    /// Seconds that a deletion gives the object to end, where it asks for some number or for none.
    fn grace_period(&self, _asked: Option<i32>) -> i32 {
        0
    }

    /// Why the object can never be deleted, if so.
    fn undeletable(&self) -> Option<&'static str> {
        None
    }

    /// The deletion has been asked for.
    fn start_ending(&mut self) {}

    /// True while the object must outlive its deletion, for its node or its contents to end first. An object
    /// whose deletion was asked for goes when it neither lingers nor has finalizers.
    fn lingers(&self) -> bool {
        false
    }

    /// A key of the store outside of the objects that goes with the object.
    fn goes_with(&self) -> Option<String> {
        None
    }

    /// Which object it is, without what it holds.
    fn metadata_alone(&self) -> Self {
        let mut alone = Self::default();
        *alone.metadata_mut() = self.metadata().cloned().unwrap_or_default();
        alone
    }

    /// The object without metadata and status: what generation counts the changes of.
    fn content(&self) -> Self {
        let mut content = self.clone();
        *content.metadata_mut() = clone8s::v1::ObjectMeta::default();
        content.take_status(&Self::default());
        content
    }
}

impl Kind for Pod {
    const NODE_FIELD: Option<&'static str> = Some("spec.nodeName");
    const WRITES_STATUS: bool = true;

    fn more_calls(backend: &Arc<Backend>) -> Option<MoreCalls> {
        Some(services::pod_calls(backend))
    }

    /// A mirror shows what runs, whatever the policies would have made of it.
    fn admit(&mut self, old: Option<&Self>, policy: &Policy) -> Vec<Violation> {
        if is_mirror(self) {
            return Vec::new();
        }
        policy.hold(self, old)
    }

    fn usage(&self) -> Usage {
        Usage::of_pod(self)
    }

    fn start_status(&mut self) {
        self.status = Some(PodStatus {
            phase: "Pending".into(),
            ..PodStatus::default()
        });
    }

    fn take_status(&mut self, from: &Self) {
        self.status.clone_from(&from.status);
    }

    fn merge_status(&mut self, given: &Self, condition_types: &[String]) {
        let given = given.status.clone().unwrap_or_default();
        self.status = Some(pod_status::merge(self, given, condition_types));
    }

    /// Its node, and the containers for a look into it. Who applies what a get has shown names both.
    fn keep_what_stays(&mut self, old: &Self) {
        let Some(old) = &old.spec else { return };
        let spec = self.spec.get_or_insert_default();
        if spec.node_name.is_empty() {
            spec.node_name.clone_from(&old.node_name);
        }
        if spec.ephemeral_containers.is_empty() {
            spec.ephemeral_containers.clone_from(&old.ephemeral_containers);
        }
    }

    fn node(&self) -> Option<&str> {
        self.spec
            .as_ref()
            .map(|spec| spec.node_name.as_str())
            .filter(|node| !node.is_empty())
    }

    fn is_told_by_node(&self) -> bool {
        is_mirror(self)
    }

    fn read_only(&self) -> Option<&'static str> {
        is_mirror(self).then_some(
            "it is the mirror of a pod that its node has from its manifest folder or queue; change the pod there",
        )
    }

    /// Nothing runs for a mirror that would have to end.
    fn grace_period(&self, asked: Option<i32>) -> i32 {
        if is_mirror(self) {
            return 0;
        }
        let own = self
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        asked.or(own).unwrap_or(DEFAULT_GRACE_SECONDS)
    }

    /// Until its node, which says so by a deletion with a grace period of 0, has stopped it.
    fn lingers(&self) -> bool {
        self.metadata()
            .is_some_and(|meta| meta.deletion_grace_period_seconds.unwrap_or(0) > 0)
    }
}

/// A node's status is what its kubelet says, from its registration on.
impl Kind for Node {
    const NODE_FIELD: Option<&'static str> = Some("metadata.name");
    const WRITES_STATUS: bool = true;

    fn take_status(&mut self, from: &Self) {
        self.status.clone_from(&from.status);
    }

    fn node(&self) -> Option<&str> {
        Some(self.name())
    }

    /// Its registration, so that another machine may take the name.
    fn goes_with(&self) -> Option<String> {
        Some(registration::key(self.name()))
    }
}

impl Kind for Namespace {
    fn start_status(&mut self) {
        self.status = Some(NamespaceStatus { phase: ACTIVE.into() });
    }

    fn take_status(&mut self, from: &Self) {
        self.status.clone_from(&from.status);
    }

    fn undeletable(&self) -> Option<&'static str> {
        match self.name() {
            DEFAULT_NAMESPACE => Some("it is where objects without a namespace go"),
            NODE_LEASE_NAMESPACE => Some("it is where nodes say that they live"),
            _ => None,
        }
    }

    fn start_ending(&mut self) {
        self.status.get_or_insert_default().phase = TERMINATING.into();
    }

    /// Until [`crate::namespaces`] has emptied it.
    fn lingers(&self) -> bool {
        true
    }
}

impl Kind for ConfigMap {
    const REFERENCES: Option<fn(&References) -> &BTreeSet<String>> =
        Some(|references| &references.config_maps);
}

impl Kind for Secret {
    const REFERENCES: Option<fn(&References) -> &BTreeSet<String>> = Some(|references| &references.secrets);
}

/// A node's own says that it lives.
impl Kind for Lease {
    fn node(&self) -> Option<&str> {
        (self.namespace() == NODE_LEASE_NAMESPACE).then(|| self.name())
    }
}

impl Kind for ServiceAccount {}

impl Kind for PriorityClass {
    const IS_POLICY: bool = true;
}

impl Kind for LimitRange {
    const IS_POLICY: bool = true;
}

/// Its status is what `admission::quota` counts.
impl Kind for ResourceQuota {
    const IS_POLICY: bool = true;

    fn take_status(&mut self, from: &Self) {
        self.status.clone_from(&from.status);
    }

    fn start_status(&mut self) {
        self.status = None;
    }
}

impl Kind for Event {
    const NODE_FIELD: Option<&'static str> = Some("source.host");

    fn node(&self) -> Option<&str> {
        self.source
            .as_ref()
            .map(|source| source.host.as_str())
            .filter(|host| !host.is_empty())
    }
}
