//! GetContainerEvents: what happens to containers, as it happens.

use std::sync::Arc;

use clone8s::cri::{self, ContainerEventType as Kind};
use tokio::sync::broadcast;

use crate::{container::Container, ids::ContainerId, shim::Shim, time::now_nanos};

/// How many events a slow listener may be behind. Then its stream ends with an error, so that it lists anew: a gap is
/// an error, never silence.
const BEHIND: usize = 1024;

/// Where events come together.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Happened>,
}

/// An event with what CRI says beside it; the sandbox's part is looked up when it is sent on.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    kind: Kind,
    at: i64,
    id: ContainerId,
    container: Arc<Container>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(BEHIND),
        }
    }
}

impl Events {
    pub(crate) fn created(&self, container: &Arc<Container>) {
        self.send(Kind::ContainerCreatedEvent, container);
    }

    pub(crate) fn started(&self, container: &Arc<Container>) {
        self.send(Kind::ContainerStartedEvent, container);
    }

    pub(crate) fn stopped(&self, container: &Arc<Container>) {
        self.send(Kind::ContainerStoppedEvent, container);
    }

    pub(crate) fn deleted(&self, container: &Arc<Container>) {
        self.send(Kind::ContainerDeletedEvent, container);
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Happened> {
        self.sender.subscribe()
    }

    fn send(&self, kind: Kind, container: &Arc<Container>) {
        // Without a listener there is nobody to tell.
        let _ = self.sender.send(Happened {
            kind,
            at: now_nanos(),
            id: container.id.clone(),
            container: Arc::clone(container),
        });
    }
}

impl Shim {
    /// An event in CRI's form, with the sandbox as it is now.
    pub(crate) fn describe_event(&self, happened: &Happened) -> cri::ContainerEventResponse {
        let sandbox = self.table.sandbox(happened.container.sandbox.as_str()).ok();
        let siblings = self.table.containers_of(&happened.container.sandbox);
        cri::ContainerEventResponse {
            container_id: happened.id.to_string(),
            container_event_type: happened.kind.into(),
            created_at: happened.at,
            pod_sandbox_status: sandbox.map(|sandbox| sandbox.status()),
            containers_statuses: siblings.iter().map(|container| container.status()).collect(),
        }
    }
}
