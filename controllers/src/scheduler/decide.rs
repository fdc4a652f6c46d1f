//! Where a pod goes: a pure function of the pod and a snapshot.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use super::{
    demand::Demand,
    snapshot::{NodeState, PODS, Snapshot},
};

/// What to do about a pod that has no node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Place it on this node.
    Bind(String),
    /// No node takes it now; the reason is for the pod's status.
    Wait(String),
}

/// Why a node does not take a pod. In the order in which a reason lists them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    NotReady,
    Unschedulable,
    Labels,
    TooManyPods,
    Lacks(String),
    PortTaken(i32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Unschedulable => f.write_str("unschedulable"),
            Self::Labels => f.write_str("without the labels of the pod's node selector"),
            Self::TooManyPods => f.write_str("too many pods"),
            Self::Lacks(resource) => write!(f, "too little {resource}"),
            Self::PortTaken(port) => write!(f, "host port {port} taken"),
        }
    }
}

/// The node with the most room left after placing the pod, the first by name among equals.
pub fn decide(demand: &Demand, snapshot: &Snapshot) -> Decision {
    let mut refusals: BTreeMap<Refusal, usize> = BTreeMap::new();
    let mut best: Option<(f64, &str)> = None;
    for (name, node) in snapshot.nodes() {
        let refused = refusals_of(node, demand);
        if refused.is_empty() {
            let allocated = allocated_share(node, demand);
            // Strictly less: nodes come in the order of their names, and the first of equals wins.
            if best.is_none_or(|(least, _)| allocated.total_cmp(&least) == Ordering::Less) {
                best = Some((allocated, name));
            }
        }
        for refusal in refused {
            *refusals.entry(refusal).or_default() += 1;
        }
    }
    match best {
        Some((_, name)) => Decision::Bind(name.to_owned()),
        None => Decision::Wait(reason(snapshot.nodes().len(), &refusals)),
    }
}

fn refusals_of(node: &NodeState, demand: &Demand) -> Vec<Refusal> {
    let facts = &node.facts;
    // One of these says it all: what else such a node lacks helps nobody.
    if !facts.ready {
        return vec![Refusal::NotReady];
    }
    if facts.unschedulable {
        return vec![Refusal::Unschedulable];
    }
    let carries = |(key, value)| facts.labels.get(key) == Some(value);
    if !demand.node_selector.iter().all(carries) {
        return vec![Refusal::Labels];
    }

    let mut refused = Vec::new();
    // A node that states no limit of pods has none.
    if let Some(most) = facts.allocatable.get(PODS)
        && node.pods.len() as i128 + 1 > *most
    {
        refused.push(Refusal::TooManyPods);
    }
    for (resource, amount) in demand.requests.iter().filter(|(_, amount)| **amount > 0) {
        let of = |amounts: &BTreeMap<String, i128>| amounts.get(resource).copied().unwrap_or_default();
        if of(&node.used).saturating_add(*amount) > of(&facts.allocatable) {
            refused.push(Refusal::Lacks(resource.clone()));
        }
    }
    let taken = |port: &&super::demand::HostPort| {
        node.pods
            .values()
            .flat_map(|other| &other.host_ports)
            .any(|other| other.conflicts(port))
    };
    refused.extend(
        demand
            .host_ports
            .iter()
            .filter(taken)
            .map(|port| Refusal::PortTaken(port.port)),
    );
    refused
}

/// How full the node would be with the pod: the mean over cpu, memory and the number of pods, 0 to 1.
#[allow(clippy::cast_precision_loss)]
fn allocated_share(node: &NodeState, demand: &Demand) -> f64 {
    let share = |used: i128, of: i128| if of > 0 { used as f64 / of as f64 } else { 0.0 };
    let amount =
        |amounts: &BTreeMap<String, i128>, resource| amounts.get(resource).copied().unwrap_or_default();
    let allocatable = &node.facts.allocatable;
    let resources = ["cpu", "memory"].map(|resource| {
        share(
            amount(&node.used, resource) + amount(&demand.requests, resource),
            amount(allocatable, resource),
        )
    });
    let pods = share(node.pods.len() as i128 + 1, amount(allocatable, PODS));
    (resources.iter().sum::<f64>() + pods) / 3.0
}

fn reason(nodes: usize, refusals: &BTreeMap<Refusal, usize>) -> String {
    if nodes == 0 {
        return "no node has joined the cluster".to_owned();
    }
    let refused: Vec<_> = refusals
        .iter()
        .map(|(refusal, count)| format!("{count} {refusal}"))
        .collect();
    format!("0/{nodes} nodes are available: {}", refused.join(", "))
}

#[cfg(test)]
mod tests;
