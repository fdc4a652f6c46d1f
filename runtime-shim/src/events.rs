//! GetContainerEvents: what happens to containers and sandboxes, as it happens.

use std::sync::Arc;

use clone8s::cri::{self, ContainerEventType as Kind};
use tokio::sync::broadcast;

use crate::{container::Container, ids::SandboxId, sandbox::Sandbox, table::Table, time::now_nanos};

/// How many events a slow listener may be behind. Then its stream ends with OUT_OF_RANGE, so that it lists anew: a gap
/// is an error, never silence, and nobody waits for the slow.
const BEHIND: usize = 1024;

/// Where events come together.
#[derive(Debug)]
pub(crate) struct Events {
    sender: broadcast::Sender<Arc<cri::ContainerEventResponse>>,
    table: Arc<Table>,
}

impl Events {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self {
            sender: broadcast::Sender::new(BEHIND),
            table,
        }
    }

    pub(crate) fn created(&self, container: &Container) {
        self.send(
            Kind::ContainerCreatedEvent,
            container.id.as_str(),
            &container.sandbox,
        );
    }

    pub(crate) fn started(&self, container: &Container) {
        self.send(
            Kind::ContainerStartedEvent,
            container.id.as_str(),
            &container.sandbox,
        );
    }

    pub(crate) fn stopped(&self, container: &Container) {
        self.send(
            Kind::ContainerStoppedEvent,
            container.id.as_str(),
            &container.sandbox,
        );
    }

    pub(crate) fn deleted(&self, container: &Container) {
        self.send(
            Kind::ContainerDeletedEvent,
            container.id.as_str(),
            &container.sandbox,
        );
    }

    /// A sandbox is told of like a container, as kubelets expect from runtimes whose sandboxes are ones.
    pub(crate) fn sandbox_made(&self, sandbox: &Sandbox) {
        self.send(Kind::ContainerCreatedEvent, sandbox.id.as_str(), &sandbox.id);
        self.send(Kind::ContainerStartedEvent, sandbox.id.as_str(), &sandbox.id);
    }

    pub(crate) fn sandbox_stopped(&self, sandbox: &Sandbox) {
        self.send(Kind::ContainerStoppedEvent, sandbox.id.as_str(), &sandbox.id);
    }

    /// After it has left the table, so that its last status is taken from itself.
    pub(crate) fn sandbox_removed(&self, sandbox: &Sandbox) {
        if self.sender.receiver_count() > 0 {
            let event = self.describe(Kind::ContainerDeletedEvent, sandbox.id.as_str(), &sandbox.id);
            let _ = self.sender.send(Arc::new(cri::ContainerEventResponse {
                pod_sandbox_status: Some(sandbox.status()),
                ..event
            }));
        }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<cri::ContainerEventResponse>> {
        self.sender.subscribe()
    }

    fn send(&self, kind: Kind, id: &str, sandbox: &SandboxId) {
        // Without a listener there is nobody to describe it to.
        if self.sender.receiver_count() > 0 {
            let _ = self.sender.send(Arc::new(self.describe(kind, id, sandbox)));
        }
    }

    /// With the pod as it is at this moment, not as it is when a slow listener comes to read.
    fn describe(&self, kind: Kind, id: &str, sandbox: &SandboxId) -> cri::ContainerEventResponse {
        let pod = self.table.sandbox(sandbox.as_str()).ok();
        let siblings = self.table.containers_of(sandbox);
        cri::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now_nanos(),
            pod_sandbox_status: pod.map(|sandbox| sandbox.status()),
            containers_statuses: siblings.iter().map(|container| container.status()).collect(),
        }
    }
}
