//! The nodes and what is placed on them, as the scheduler believes them to be.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use clone8s::{
    object::Object as _,
    v1::{Node, NodeStatus},
};

use super::demand::{Amounts, Demand, amounts};

/// A resource that every pod takes one of.
pub(super) const PODS: &str = "pods";

/// A node's facts, without what changes with every heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    pub ready: bool,
    pub unschedulable: bool,
    pub labels: BTreeMap<String, String>,
    pub allocatable: Amounts,
}

impl NodeFacts {
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        Self {
            ready: status.is_some_and(is_ready),
            unschedulable: node.spec.as_ref().is_some_and(|spec| spec.unschedulable),
            labels: node
                .metadata()
                .map(|meta| meta.labels.clone())
                .unwrap_or_default(),
            // A node that states its room in words that nobody understands has none.
            allocatable: status
                .and_then(|status| amounts(&status.allocatable).ok())
                .unwrap_or_default(),
        }
    }
}

/// A node and what is placed on it.
#[derive(Debug, Clone)]
pub struct NodeState {
    pub facts: NodeFacts,
    pub used: Amounts,
    pub pods: HashMap<String, Arc<Demand>>,
}

#[derive(Debug, Clone)]
struct Placement {
    node: String,
    demand: Arc<Demand>,
}

/// Nodes by name, and placements by the pods' uids.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeState>,
    // Kept apart from the nodes: a pod may be bound to a node that is not known (yet).
    placements: HashMap<String, Placement>,
    /// Grows whenever a pod that had to wait might find room.
    opportunities: u64,
}

impl Snapshot {
    pub fn nodes(&self) -> &BTreeMap<String, NodeState> {
        &self.nodes
    }

    /// Changes whenever a pod that found no room might find some now.
    pub fn opportunities(&self) -> u64 {
        self.opportunities
    }

    pub fn set_node(&mut self, name: &str, facts: NodeFacts) {
        if let Some(known) = self.nodes.get_mut(name) {
            if known.facts == facts {
                return;
            }
            known.facts = facts;
        } else {
            let mut state = NodeState {
                facts,
                used: Amounts::new(),
                pods: HashMap::new(),
            };
            for (uid, placement) in &self.placements {
                if placement.node == name {
                    state.add(uid, &placement.demand);
                }
            }
            self.nodes.insert(name.to_owned(), state);
        }
        self.opportunities += 1;
    }

    pub fn remove_node(&mut self, name: &str) {
        // A reason that counts nodes changes with it.
        if self.nodes.remove(name).is_some() {
            self.opportunities += 1;
        }
    }

    /// Leaves only these nodes.
    pub fn retain_nodes(&mut self, mut keep: impl FnMut(&str) -> bool) {
        let before = self.nodes.len();
        self.nodes.retain(|name, _| keep(name));
        if self.nodes.len() != before {
            self.opportunities += 1;
        }
    }

    /// The pod is on the node, or is about to be. Saying it again changes nothing.
    pub fn place(&mut self, uid: &str, node: &str, demand: &Arc<Demand>) {
        if let Some(placed) = self.placements.get(uid) {
            if placed.node == node && placed.demand == *demand {
                return;
            }
            self.remove(uid);
        }
        if let Some(state) = self.nodes.get_mut(node) {
            state.add(uid, demand);
        }
        let placement = Placement {
            node: node.to_owned(),
            demand: Arc::clone(demand),
        };
        self.placements.insert(uid.to_owned(), placement);
    }

    /// The pod takes no room any more.
    pub fn remove(&mut self, uid: &str) {
        let Some(placement) = self.placements.remove(uid) else {
            return;
        };
        if let Some(state) = self.nodes.get_mut(&placement.node) {
            state.subtract(uid, &placement.demand);
        }
        self.opportunities += 1;
    }
}

impl NodeState {
    fn add(&mut self, uid: &str, demand: &Arc<Demand>) {
        for (resource, amount) in &demand.requests {
            *self.used.entry(resource.clone()).or_default() += amount;
        }
        self.pods.insert(uid.to_owned(), Arc::clone(demand));
    }

    fn subtract(&mut self, uid: &str, demand: &Demand) {
        for (resource, amount) in &demand.requests {
            if let Some(used) = self.used.get_mut(resource) {
                *used -= amount;
            }
        }
        self.pods.remove(uid);
    }
}

fn is_ready(status: &NodeStatus) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.r#type == "Ready" && condition.status == "True")
}
