//! Whether the node gets its pods from its queue: told to the log, and on the Node.

use clone8s_bus::{BusError, node_queue};
use clone8s_daemon::supervisor::chain;
use tokio::sync::watch;

use crate::outage::Outage;

/// What the Node's condition [`clone8s_bus::QUEUE_CONDITION`] says. Kept by the queue's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueHealth {
    pub consuming: bool,
    /// One CamelCase word: "Consuming", "Connecting", "QueueMissing", "BrokerRefuses", "BrokerUnreachable".
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Where the state of one node's queue is told.
#[derive(Debug)]
pub(super) struct HealthSender {
    node: String,
    /// There is an apiserver, which makes the queues of nodes.
    member: bool,
    outage: Outage,
    told: watch::Sender<QueueHealth>,
}

impl HealthSender {
    pub(super) fn new(node: &str, member: bool) -> Self {
        let (told, _) = watch::channel(QueueHealth {
            consuming: false,
            reason: "Connecting",
            message: "the broker has not answered yet".to_owned(),
        });
        Self {
            node: node.to_owned(),
            member,
            outage: Outage::new("this node's queue"),
            told,
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<QueueHealth> {
        self.told.subscribe()
    }

    pub(super) fn consuming(&mut self) {
        self.outage.over();
        self.told.send_replace(QueueHealth {
            consuming: true,
            reason: "Consuming",
            message: format!("pods come by {}", node_queue(&self.node)),
        });
    }

    pub(super) fn failed(&mut self, error: &BusError) {
        let (reason, next_step) = match (error, self.member) {
            (BusError::NoQueue(_), true) => (
                "QueueMissing",
                "; the apiserver makes it, where it has the same broker",
            ),
            (BusError::NoQueue(_), false) => (
                "QueueMissing",
                "; make it there, or give this user the permission to",
            ),
            (BusError::Refused(_), _) => ("BrokerRefuses", ""),
            _ => ("BrokerUnreachable", ""),
        };
        let message = format!("{}{next_step}", chain(error));
        self.outage.failed(&message);
        self.told.send_replace(QueueHealth {
            consuming: false,
            reason,
            message,
        });
    }
}
