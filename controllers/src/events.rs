//! Events: what controllers tell people about an object, and how long it is kept.
//!
//! An event is a hint: one that cannot be written is not tried again.

use std::time::Duration;

use clone8s::{
    client::{DeleteOptions, Query, Resource as _},
    object::Object as _,
    v1::{Event, EventSource, ObjectMeta, ObjectReference},
};
use clone8s_daemon::Shutdown;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::{Code, Status, transport::Channel};

use crate::time;

/// An event is deleted this long after it last happened.
const KEPT: Duration = Duration::from_hours(1);
const SWEEP: Duration = Duration::from_mins(5);
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

/// Deletes what is older than an hour, until shutdown: events are bounded by time.
pub(crate) async fn expire(channel: Channel, shutdown: Shutdown) {
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = sweeps.tick() => {}
        }
        let swept = tokio::select! {
            () = shutdown.cancelled() => return,
            swept = sweep(&channel) => swept,
        };
        match swept {
            Ok(0) => {}
            Ok(deleted) => tracing::debug!(deleted, "deleted old events"),
            Err(status) => {
                tracing::debug!(code = ?status.code(), reason = status.message(), "cannot delete old events now");
            }
        }
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

async fn sweep(channel: &Channel) -> Result<usize, Status> {
    let oldest = time::now().seconds - i64::try_from(KEPT.as_secs()).unwrap_or(i64::MAX);
    let mut deleted = 0;
    let mut page_token = String::new();
    loop {
        let page = Event::list(channel, &Query::default(), page_token).await?;
        for event in page.items.iter().filter(|event| last_seen(event) < oldest) {
            let options = DeleteOptions {
                // Not if it has just happened again.
                resource_version: event.resource_version(),
                uid: event.uid().to_owned(),
                ..DeleteOptions::default()
            };
            match Event::delete(channel, event.namespace(), event.name(), &options).await {
                Ok(_) => deleted += 1,
                Err(status) if matches!(status.code(), Code::NotFound | Code::Aborted) => {}
                Err(status) => return Err(status),
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(deleted);
        }
        page_token = page.next_page_token;
    }
}

/// Unix seconds; 0 for an event without any time.
fn last_seen(event: &Event) -> i64 {
    let created = || event.metadata().and_then(|meta| meta.creation_timestamp);
    event
        .last_timestamp
        .or_else(created)
        .map_or(0, |last| last.seconds)
}
