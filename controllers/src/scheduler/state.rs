//! Everything that the scheduler knows, and what it does next: no input or output in here.
//!
//! A pod without a node:
//! ```text
//!            ┌───────── opportunity (room freed, node changed) ─────────┐
//!            ▼                                                          │
//! new ──► queued ──decide──► in flight (bind) ──stored──► settled       │
//!            ▲   ├─decide──► in flight (report the reason) ──stored──► queued
//!            │   └─decide, same reason as reported ────────────────► waiting
//!            └──delay over── backed off ◄──failed── in flight
//! ```
//! From the decision to bind on, the pod takes its room on the node: bursts do not overcommit.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use clone8s::{
    object::Object as _,
    v1::{Node, Pod},
};
use tokio::time::Instant;

use super::{
    decide::{Decision, decide},
    demand::Demand,
    snapshot::{NodeFacts, Snapshot},
};
use crate::{
    conditions::{is_terminal, unschedulable_message},
    reflector::Update,
};

/// The delay after the n-th failed write in a row doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A write to make for a pod; [`State::finished`] wants to hear how it went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Bind {
        pod: Arc<Pod>,
        node: String,
    },
    /// Tell in the pod's status why it waits.
    Report {
        pod: Arc<Pod>,
        reason: String,
    },
}

impl Action {
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        match self {
            Self::Bind { pod, .. } | Self::Report { pod, .. } => pod,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    snapshot: Snapshot,
    pods: HashMap<Uid, Record>,
    queued: BTreeSet<(Age, Uid)>,
    waiting: HashSet<Uid>,
    backed_off: BTreeSet<(Instant, Uid)>,
    /// The snapshot's opportunities that the waiting pods have been tried on.
    tried: u64,
    pods_synced: bool,
    nodes_synced: bool,
}

type Uid = Arc<str>;
/// Older pods go first: seconds and nanoseconds of creation.
type Age = (i64, i32);

#[derive(Debug)]
enum Record {
    Unbound(Unbound),
    /// Bound, ended or being deleted: nothing to decide.
    Settled {
        version: i64,
    },
}

#[derive(Debug)]
struct Unbound {
    pod: Arc<Pod>,
    demand: Result<Arc<Demand>, String>,
    phase: Phase,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Queued,
    InFlight,
    Waiting,
    BackedOff { until: Instant },
}

impl State {
    pub(crate) fn apply_pods(&mut self, update: Update<Pod>) {
        match update {
            Update::Replaced(pods) => {
                let present: HashSet<Uid> = pods.iter().map(|pod| pod.uid().into()).collect();
                let gone: Vec<Uid> = self
                    .pods
                    .keys()
                    .filter(|uid| !present.contains(*uid))
                    .cloned()
                    .collect();
                for uid in gone {
                    self.forget(&uid);
                }
                for pod in pods {
                    self.take(pod);
                }
                self.pods_synced = true;
            }
            Update::Changed(pod) => self.take_newer(pod),
            Update::Deleted(pod) => self.forget(pod.uid()),
        }
    }

    pub(crate) fn apply_nodes(&mut self, update: Update<Node>) {
        match update {
            Update::Replaced(nodes) => {
                let present: HashSet<&str> = nodes.iter().map(Node::name).collect();
                self.snapshot.retain_nodes(|name| present.contains(name));
                for node in &nodes {
                    self.snapshot.set_node(node.name(), NodeFacts::of(node));
                }
                self.nodes_synced = true;
            }
            Update::Changed(node) => self.snapshot.set_node(node.name(), NodeFacts::of(&node)),
            Update::Deleted(node) => self.snapshot.remove_node(node.name()),
        }
    }

    /// The next write to make, or None until something happens or [`State::next_retry`] comes.
    pub(crate) fn next_action(&mut self, now: Instant) -> Option<Action> {
        if !(self.pods_synced && self.nodes_synced) {
            // With half the picture every node looks empty.
            return None;
        }
        self.requeue_due(now);
        self.requeue_waiting();
        while let Some((_, uid)) = self.queued.pop_first() {
            if let Some(action) = self.decide(&uid) {
                return Some(action);
            }
        }
        None
    }

    /// When the first pod whose write failed is to be tried again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.backed_off.first().map(|(until, _)| *until)
    }

    /// An action has ended: with the pod as it is stored now, or not at all.
    pub(crate) fn finished(&mut self, uid: &str, stored: Option<Pod>, now: Instant) {
        // A pod that is gone or settled by now is not touched by an old answer.
        let Some(Record::Unbound(unbound)) = self.pods.get_mut(uid) else {
            return;
        };
        if unbound.phase != Phase::InFlight {
            return;
        }
        match stored {
            Some(pod) => {
                unbound.failures = 0;
                // Look again: the watch may have brought something newer than this answer, or room.
                self.requeue(uid.into());
                self.take_newer(pod);
            }
            None => self.back_off(uid, now),
        }
    }

    fn decide(&mut self, uid: &Uid) -> Option<Action> {
        let Some(Record::Unbound(unbound)) = self.pods.get_mut(uid) else {
            return None;
        };
        let decision = match &unbound.demand {
            Ok(demand) => decide(demand, &self.snapshot),
            Err(reason) => Decision::Wait(reason.clone()),
        };
        let pod = Arc::clone(&unbound.pod);
        match (decision, &unbound.demand) {
            (Decision::Bind(node), Ok(demand)) => {
                unbound.phase = Phase::InFlight;
                self.snapshot.place(uid, &node, demand);
                Some(Action::Bind { pod, node })
            }
            (Decision::Wait(reason), _) if unschedulable_message(&pod) != Some(&reason) => {
                unbound.phase = Phase::InFlight;
                Some(Action::Report { pod, reason })
            }
            _ => {
                unbound.phase = Phase::Waiting;
                self.waiting.insert(Arc::clone(uid));
                None
            }
        }
    }

    /// Takes a pod in unless what is known of it is as new: answers to writes and watch events overtake each other.
    fn take_newer(&mut self, pod: Pod) {
        let known = match self.pods.get(pod.uid()) {
            Some(Record::Unbound(unbound)) => unbound.pod.resource_version(),
            Some(Record::Settled { version }) => *version,
            None => 0,
        };
        if pod.resource_version() > known {
            self.take(pod);
        }
    }

    fn take(&mut self, pod: Pod) {
        let uid: Uid = pod.uid().into();
        let node = pod.spec.as_ref().map_or("", |spec| &spec.node_name);
        let deleting = pod
            .metadata()
            .is_some_and(|meta| meta.deletion_timestamp.is_some());
        let settled = Record::Settled {
            version: pod.resource_version(),
        };
        if is_terminal(&pod) || (node.is_empty() && deleting) {
            self.leave_queues(&uid);
            self.snapshot.remove(&uid);
            self.pods.insert(uid, settled);
        } else if node.is_empty() {
            self.take_unbound(uid, pod);
        } else {
            self.leave_queues(&uid);
            // What cannot be counted still counts as one pod.
            let demand = Arc::new(Demand::of(&pod).unwrap_or_default());
            self.snapshot.place(&uid, node, &demand);
            self.pods.insert(uid, settled);
        }
    }

    fn take_unbound(&mut self, uid: Uid, pod: Pod) {
        let demand = Demand::of(&pod).map(Arc::new);
        let pod = Arc::new(pod);
        if let Some(Record::Unbound(known)) = self.pods.get_mut(&uid)
            && known.phase == Phase::InFlight
        {
            // The write on the older version will be refused or not; either way its end decides what comes next.
            known.pod = pod;
            known.demand = demand;
            return;
        }
        self.leave_queues(&uid);
        self.snapshot.remove(&uid);
        let failures = match self.pods.get(&uid) {
            Some(Record::Unbound(known)) => known.failures,
            _ => 0,
        };
        self.queued.insert((age(&pod), Arc::clone(&uid)));
        self.pods.insert(
            uid,
            Record::Unbound(Unbound {
                pod,
                demand,
                phase: Phase::Queued,
                failures,
            }),
        );
    }

    fn forget(&mut self, uid: &str) {
        self.leave_queues(uid);
        self.snapshot.remove(uid);
        self.pods.remove(uid);
    }

    fn leave_queues(&mut self, uid: &str) {
        let Some(Record::Unbound(unbound)) = self.pods.get(uid) else {
            return;
        };
        match unbound.phase {
            Phase::Queued => {
                self.queued.remove(&(age(&unbound.pod), uid.into()));
            }
            Phase::Waiting => {
                self.waiting.remove(uid);
            }
            Phase::BackedOff { until } => {
                self.backed_off.remove(&(until, uid.into()));
            }
            Phase::InFlight => {}
        }
    }

    fn back_off(&mut self, uid: &str, now: Instant) {
        self.snapshot.remove(uid);
        if let Some(Record::Unbound(unbound)) = self.pods.get_mut(uid) {
            let delay = RETRY.0.saturating_mul(1 << unbound.failures.min(16)).min(RETRY.1);
            unbound.failures = unbound.failures.saturating_add(1);
            let until = now + delay;
            unbound.phase = Phase::BackedOff { until };
            self.backed_off.insert((until, uid.into()));
        }
    }

    fn requeue_due(&mut self, now: Instant) {
        while let Some((until, uid)) = self.backed_off.pop_first() {
            if until > now {
                self.backed_off.insert((until, uid));
                return;
            }
            self.requeue(uid);
        }
    }

    fn requeue_waiting(&mut self) {
        if self.tried == self.snapshot.opportunities() {
            return;
        }
        self.tried = self.snapshot.opportunities();
        for uid in std::mem::take(&mut self.waiting) {
            self.requeue(uid);
        }
    }

    fn requeue(&mut self, uid: Uid) {
        if let Some(Record::Unbound(unbound)) = self.pods.get_mut(&uid) {
            unbound.phase = Phase::Queued;
            self.queued.insert((age(&unbound.pod), uid));
        }
    }
}

fn age(pod: &Pod) -> Age {
    pod.metadata()
        .and_then(|meta| meta.creation_timestamp.as_ref())
        .map_or((i64::MAX, 0), |created| (created.seconds, created.nanos))
}

#[cfg(test)]
mod tests;
