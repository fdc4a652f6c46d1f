use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::scheduler::{demand::HostPort, snapshot::NodeFacts};

fn facts(cpu: i128, memory: i128, pods: i128) -> NodeFacts {
    NodeFacts {
        ready: true,
        unschedulable: false,
        labels: BTreeMap::new(),
        allocatable: [("cpu", cpu), ("memory", memory), ("pods", pods)]
            .map(|(resource, amount)| (resource.to_owned(), amount))
            .into(),
    }
}

fn demand(cpu: i128, memory: i128) -> Demand {
    Demand {
        requests: [("cpu", cpu), ("memory", memory)]
            .map(|(resource, amount)| (resource.to_owned(), amount))
            .into(),
        ..Demand::default()
    }
}

fn port(port: i32, address: &str) -> HostPort {
    HostPort {
        protocol: "TCP".to_owned(),
        address: address.to_owned(),
        port,
    }
}

fn waits(demand: &Demand, snapshot: &Snapshot) -> String {
    match decide(demand, snapshot) {
        Decision::Wait(reason) => reason,
        Decision::Bind(node) => panic!("bound to {node}"),
    }
}

#[test]
fn the_emptier_node_wins_and_names_break_ties() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node("b", facts(1000, 1 << 30, 10));
    snapshot.set_node("a", facts(1000, 1 << 30, 10));
    assert_eq!(decide(&demand(100, 1), &snapshot), Decision::Bind("a".to_owned()));
    snapshot.place("u1", "a", &Arc::new(demand(100, 1)));
    assert_eq!(decide(&demand(100, 1), &snapshot), Decision::Bind("b".to_owned()));
}

#[test]
fn the_reason_counts_what_each_node_lacks() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(
        "down",
        NodeFacts {
            ready: false,
            ..facts(1000, 1 << 30, 10)
        },
    );
    snapshot.set_node("small", facts(1000, 1 << 20, 10));
    assert_eq!(
        waits(&demand(100, 1 << 25), &snapshot),
        "0/2 nodes are available: 1 not ready, 1 too little memory"
    );
    assert_eq!(
        waits(&demand(2000, 1 << 25), &snapshot),
        "0/2 nodes are available: 1 not ready, 1 too little cpu, 1 too little memory"
    );
    assert_eq!(
        waits(&demand(1, 1), &Snapshot::default()),
        "no node has joined the cluster"
    );
}

#[test]
fn a_selector_needs_every_label() {
    let mut snapshot = Snapshot::default();
    let labels = [("disk", "ssd"), ("zone", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let selector = Demand {
        node_selector: labels.clone().into(),
        ..Demand::default()
    };
    snapshot.set_node(
        "half",
        NodeFacts {
            labels: labels[..1].iter().cloned().collect(),
            ..facts(1, 1, 1)
        },
    );
    assert!(waits(&selector, &snapshot).contains("1 without the labels"));
    snapshot.set_node(
        "whole",
        NodeFacts {
            labels: labels.into(),
            ..facts(1, 1, 1)
        },
    );
    assert_eq!(decide(&selector, &snapshot), Decision::Bind("whole".to_owned()));
}

#[test]
fn a_cordoned_and_a_full_node_take_nothing() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(
        "cordoned",
        NodeFacts {
            unschedulable: true,
            ..facts(1000, 1000, 10)
        },
    );
    snapshot.set_node("full", facts(1000, 1000, 1));
    snapshot.place("u1", "full", &Arc::default());
    assert_eq!(
        waits(&Demand::default(), &snapshot),
        "0/2 nodes are available: 1 unschedulable, 1 too many pods"
    );
}

#[test]
fn host_ports_conflict_on_one_address_or_on_any() {
    let with = |address| Demand {
        host_ports: vec![port(80, address)],
        ..Demand::default()
    };
    let mut snapshot = Snapshot::default();
    snapshot.set_node("n", facts(1000, 1000, 10));
    snapshot.place("u1", "n", &Arc::new(with("10.0.0.1")));
    assert_eq!(
        decide(&with("10.0.0.2"), &snapshot),
        Decision::Bind("n".to_owned())
    );
    for taken in ["10.0.0.1", "", "0.0.0.0"] {
        assert_eq!(
            waits(&with(taken), &snapshot),
            "0/1 nodes are available: 1 host port 80 taken"
        );
    }
}

fn node() -> impl Strategy<Value = NodeFacts> {
    (
        any::<bool>(),
        prop::bool::weighted(0.2),
        0..4000i128,
        0..4096i128,
        0..5i128,
    )
        .prop_map(|(ready, unschedulable, cpu, memory, pods)| NodeFacts {
            ready,
            unschedulable,
            ..facts(cpu, memory, pods)
        })
}

fn pod() -> impl Strategy<Value = Demand> {
    (0..1500i128, 0..2048i128, prop::option::weighted(0.3, 1..4i32)).prop_map(|(cpu, memory, taken)| Demand {
        host_ports: taken.into_iter().map(|number| port(number, "")).collect(),
        ..demand(cpu, memory)
    })
}

proptest! {
    /// Counted apart from the snapshot's own sums: the pods of each node, added up from nothing.
    #[test]
    fn no_sequence_of_pods_overcommits_a_node(
        nodes in prop::collection::vec(node(), 0..5),
        pods in prop::collection::vec((pod(), any::<bool>()), 0..30),
    ) {
        let mut snapshot = Snapshot::default();
        for (index, facts) in nodes.iter().enumerate() {
            snapshot.set_node(&format!("n{index}"), facts.clone());
        }
        let mut placed: Vec<(String, String, Demand)> = Vec::new();
        for (index, (demand, leaves)) in pods.into_iter().enumerate() {
            let uid = format!("u{index}");
            if let Decision::Bind(node) = decide(&demand, &snapshot) {
                snapshot.place(&uid, &node, &Arc::new(demand.clone()));
                placed.push((uid, node, demand));
            }
            if leaves && !placed.is_empty() {
                snapshot.remove(&placed.remove(0).0);
            }
            for (number, facts) in nodes.iter().enumerate() {
                let name = format!("n{number}");
                let here: Vec<_> = placed.iter().filter(|(_, node, _)| *node == name).collect();
                prop_assert!(here.is_empty() || (facts.ready && !facts.unschedulable));
                prop_assert!(here.len() as i128 <= facts.allocatable["pods"]);
                for resource in ["cpu", "memory"] {
                    let sum: i128 = here.iter().map(|(_, _, demand)| demand.requests[resource]).sum();
                    prop_assert!(sum <= facts.allocatable[resource], "{name} {resource}: {sum}");
                }
                let mut ports: Vec<i32> = here.iter().flat_map(|(_, _, d)| &d.host_ports).map(|p| p.port).collect();
                let all = ports.len();
                ports.sort_unstable();
                ports.dedup();
                prop_assert_eq!(ports.len(), all);
            }
        }
    }

    #[test]
    fn a_pod_waits_only_when_no_node_fits(nodes in prop::collection::vec(node(), 1..5), demand in pod()) {
        let mut snapshot = Snapshot::default();
        for (index, facts) in nodes.iter().enumerate() {
            snapshot.set_node(&format!("n{index}"), facts.clone());
        }
        let fits = |facts: &NodeFacts| {
            facts.ready
                && !facts.unschedulable
                && facts.allocatable["pods"] >= 1
                && demand.requests.iter().all(|(resource, amount)| *amount <= facts.allocatable[resource])
        };
        let waits = matches!(decide(&demand, &snapshot), Decision::Wait(_));
        prop_assert_eq!(waits, !nodes.iter().any(fits));
    }
}
