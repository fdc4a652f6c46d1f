//! What the node is to do with a pod.

use clone8s::v1::ObjectMeta;

use crate::desired::DesiredPod;

/// What is to become of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    /// It runs as its spec says.
    Run(DesiredPod),
    /// Nothing of it is left. `pod` is there while its source still names it.
    Stop { pod: Option<DesiredPod> },
    /// It has taken too much of the node: nothing of it is left, and its status says why while its source names it.
    Evict { pod: DesiredPod, message: String },
    /// The node cannot run it for a reason of its own; what runs is left alone.
    Refuse { pod: DesiredPod, refusal: Refusal },
}

impl Want {
    pub fn pod(&self) -> Option<&DesiredPod> {
        match self {
            Self::Run(pod) | Self::Evict { pod, .. } | Self::Refuse { pod, .. } => Some(pod),
            Self::Stop { pod } => pod.as_ref(),
        }
    }
}

impl Want {
    /// True for a pod whose containers end and do not start again.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Stop { .. } | Self::Evict { .. })
    }

    /// True when a worker would do the same for both: they may differ in what the kubelet itself wrote, such as the
    /// pod's status, of which only what others say for its readiness gates counts.
    pub fn asks_the_same_as(&self, other: &Self) -> bool {
        let same_pod = |one: &DesiredPod, other: &DesiredPod| {
            one.uid() == other.uid()
                && one.source == other.source
                && same_orders(one.pod.metadata.as_ref(), other.pod.metadata.as_ref())
                && one.spec() == other.spec()
                && one.open_gates() == other.open_gates()
        };
        match (self, other) {
            (Self::Run(one), Self::Run(other))
            | (Self::Stop { pod: Some(one) }, Self::Stop { pod: Some(other) }) => same_pod(one, other),
            (Self::Stop { pod: None }, Self::Stop { pod: None }) => true,
            (
                Self::Evict { pod: one, message },
                Self::Evict {
                    pod: other,
                    message: same,
                },
            ) => message == same && same_pod(one, other),
            (
                Self::Refuse { pod: one, refusal },
                Self::Refuse {
                    pod: other,
                    refusal: same,
                },
            ) => refusal == same && same_pod(one, other),
            _ => false,
        }
    }
}

/// Equal but for the bookkeeping.
fn same_orders(one: Option<&ObjectMeta>, other: Option<&ObjectMeta>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            one.generation == other.generation
                && one.deletion_timestamp == other.deletion_timestamp
                && one.deletion_grace_period_seconds == other.deletion_grace_period_seconds
                // Volumes may show them.
                && one.labels == other.labels
                && one.annotations == other.annotations
        }
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// Why the node does not run a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One CamelCase word, such as "HostPortConflict".
    pub reason: &'static str,
    pub message: String,
}
