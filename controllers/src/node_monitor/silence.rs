//! Who has been heard, and when: no input or output in here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clone8s::{
    object::Object as _,
    v1::{Condition, Lease, Node, Pod},
};
use pbjson_types::Timestamp;
use tokio::time::Instant;

use crate::{
    conditions::{READY, is_terminal},
    reflector::Update,
};

#[derive(Debug)]
pub(super) struct Silence {
    patience: Duration,
    synced: bool,
    nodes: BTreeMap<String, Heard>,
    /// The renewals of nodes' leases.
    leases: BTreeMap<String, Pulse>,
    /// Nodes that pods are bound to and that have no object, since when.
    missing: BTreeMap<String, Instant>,
}

#[derive(Debug)]
struct Heard {
    node: Node,
    heartbeat: Pulse,
}

/// A time that somebody else tells, as a sign of life.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    told: Option<Timestamp>,
    /// When that was seen to change.
    at: Instant,
}

impl Pulse {
    /// What is told now, after what was told before.
    fn after(before: Option<&Self>, told: Option<Timestamp>, now: Instant) -> Self {
        match before {
            Some(before) if before.told == told => *before,
            _ => Self { told, at: now },
        }
    }
}

impl Silence {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            synced: false,
            nodes: BTreeMap::new(),
            leases: BTreeMap::new(),
            missing: BTreeMap::new(),
        }
    }

    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    pub(super) fn apply(&mut self, update: Update<Node>, now: Instant) {
        match update {
            Update::Replaced(nodes) => {
                let present: BTreeSet<String> = nodes.iter().map(|node| node.name().to_owned()).collect();
                self.nodes.retain(|name, _| present.contains(name));
                for node in nodes {
                    self.hear(node, now);
                }
                self.synced = true;
            }
            Update::Changed(node) => self.hear(node, now),
            Update::Deleted(node) => {
                self.nodes.remove(node.name());
            }
        }
    }

    pub(super) fn apply_lease(&mut self, update: Update<Lease>, now: Instant) {
        match update {
            Update::Replaced(leases) => {
                let present: BTreeSet<String> = leases.iter().map(|lease| lease.name().to_owned()).collect();
                self.leases.retain(|name, _| present.contains(name));
                for lease in leases {
                    self.renewed(&lease, now);
                }
            }
            Update::Changed(lease) => drop(self.renewed(&lease, now)),
            Update::Deleted(lease) => {
                self.leases.remove(lease.name());
            }
        }
    }

    /// The nodes that have been silent for too long and are not marked so yet.
    pub(super) fn fallen_silent(&self, now: Instant) -> Vec<Node> {
        let is_silent = |name: &String, heard: &Heard| {
            let renewed = self.leases.get(name).map(|lease| lease.at);
            let last = renewed.map_or(heard.heartbeat.at, |at| at.max(heard.heartbeat.at));
            now.duration_since(last) >= self.patience
        };
        self.nodes
            .iter()
            .filter(|(name, heard)| is_silent(name, heard) && !is_unknown(&heard.node))
            .map(|(_, heard)| heard.node.clone())
            .collect()
    }

    /// The leases that nobody renews any more, of nodes that are gone.
    pub(super) fn ownerless(&self, now: Instant) -> Vec<String> {
        self.leases
            .iter()
            .filter(|(name, lease)| {
                !self.nodes.contains_key(*name) && now.duration_since(lease.at) >= self.patience
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Takes what the lease says of its node; true when that is news.
    pub(super) fn renewed(&mut self, lease: &Lease, now: Instant) -> bool {
        let told = lease.spec.as_ref().and_then(|spec| spec.renew_time);
        let known = self.leases.get(lease.name());
        let is_news = known.is_none_or(|known| known.told != told);
        let pulse = Pulse::after(known, told, now);
        self.leases.insert(lease.name().to_owned(), pulse);
        is_news
    }

    /// The names of the nodes that are marked silent.
    pub(super) fn unreachable(&self) -> impl Iterator<Item = &str> {
        let marked = self.nodes.iter().filter(|(_, heard)| is_unknown(&heard.node));
        marked.map(|(name, _)| name.as_str())
    }

    /// Those of the bound pods whose node's object has been missing for too long.
    pub(super) fn lost(&mut self, bound: Vec<Pod>, now: Instant) -> Vec<Pod> {
        let node_of = |pod: &Pod| {
            pod.spec
                .as_ref()
                .map(|spec| spec.node_name.clone())
                .unwrap_or_default()
        };
        let mut missing = BTreeMap::new();
        for name in bound.iter().map(node_of) {
            if !name.is_empty() && !self.nodes.contains_key(&name) {
                let since = self.missing.get(&name).copied().unwrap_or(now);
                missing.insert(name, since);
            }
        }
        self.missing = missing;
        let lost_node = |name: &str| {
            let since = self.missing.get(name);
            since.is_some_and(|since| now.duration_since(*since) >= self.patience)
        };
        bound
            .into_iter()
            .filter(|pod| lost_node(&node_of(pod)) && !waits_for_its_node(pod))
            .collect()
    }

    fn hear(&mut self, node: Node, now: Instant) {
        let told = ready(&node).and_then(|ready| ready.last_heartbeat_time);
        let known = self.nodes.get(node.name()).map(|known| &known.heartbeat);
        let heartbeat = Pulse::after(known, told, now);
        self.nodes
            .insert(node.name().to_owned(), Heard { node, heartbeat });
    }
}

fn ready(node: &Node) -> Option<&Condition> {
    let conditions = &node.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.r#type == READY)
}

fn is_unknown(node: &Node) -> bool {
    ready(node).is_some_and(|ready| ready.status == "Unknown")
}

/// Nothing of it has run: its node may be about to join. A pod that has ended is what it is.
fn waits_for_its_node(pod: &Pod) -> bool {
    let deleting = pod
        .metadata()
        .is_some_and(|meta| meta.deletion_timestamp.is_some());
    let started = pod
        .status
        .as_ref()
        .is_some_and(|status| status.start_time.is_some());
    !deleting && (!started || is_terminal(pod))
}

#[cfg(test)]
mod tests;
