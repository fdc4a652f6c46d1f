//! Events: what controllers tell people about an object. The apiserver deletes old ones.
//!
//! An event is a hint: one that cannot be written is not tried again.

use std::time::Duration;

use clone8s::{
    client::Resource as _,
    object::Object as _,
    v1::{Event, EventSource, ObjectMeta, ObjectReference},
};
use clone8s_daemon::channel::Channel;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::time;

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How much a person should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records that something happened to a pod. The same thing again raises the event's count: a pod has at most one
/// event for each reason.
pub(crate) async fn record(
    channel: &Channel,
    component: &str,
    pod: &ObjectMeta,
    kind: Kind,
    reason: &str,
    message: String,
) {
    let event = event(component, pod, kind, reason, message);
    let outcome = timeout(WRITE_TIMEOUT, store(channel, event))
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
    if let Err(status) = outcome {
        tracing::debug!(code = ?status.code(), reason = status.message(), "an event is lost");
    }
}

fn event(component: &str, pod: &ObjectMeta, kind: Kind, reason: &str, message: String) -> Event {
    let now = time::now();
    // The uid's start keeps the events of a pod apart from those of an earlier pod of its name.
    let uid = pod.uid.split('-').next().unwrap_or_default();
    Event {
        metadata: Some(ObjectMeta {
            name: format!("{}.{}.{uid}", pod.name, reason.to_ascii_lowercase()),
            namespace: pod.namespace.clone(),
            ..ObjectMeta::default()
        }),
        involved_object: Some(ObjectReference {
            kind: "Pod".to_owned(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }),
        reason: reason.to_owned(),
        message,
        r#type: kind.word().to_owned(),
        count: 1,
        first_timestamp: Some(now),
        last_timestamp: Some(now),
        source: Some(EventSource {
            component: component.to_owned(),
            host: String::new(),
        }),
    }
}

async fn store(channel: &Channel, event: Event) -> Result<(), Status> {
    match Event::create(channel, event.clone()).await {
        Ok(_) => return Ok(()),
        Err(status) if status.code() == Code::AlreadyExists => {}
        Err(status) => return Err(status),
    }
    let known = Event::get(channel, event.namespace(), event.name()).await?;
    let again = Event {
        metadata: known.metadata,
        first_timestamp: known.first_timestamp,
        count: known.count.saturating_add(1),
        ..event
    };
    Event::update(channel, again).await.map(drop)
}
