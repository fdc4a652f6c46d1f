//! What the kubelet tells people about its pods, as Event objects.
//!
//! Best effort: while there is no apiserver, or it is slow, events are dropped, and nothing waits for them.

mod aggregate;

use std::{convert::Infallible, time::Duration};

use clone8s::{
    mirror,
    v1::{CreateEventRequest, Event, UpdateEventRequest, event_service_client::EventServiceClient},
};
use clone8s_daemon::{Shutdown, channel::Channel};
use tokio::sync::mpsc;
use tonic::Code;

use crate::{ApiChannel, clock::Clock, desired::DesiredPod};
use aggregate::{Aggregator, Write};

/// More than a full node says while one write is on its way; beyond it, events are dropped.
const QUEUE: usize = 512;
/// Nobody waits for an event.
const DEADLINE: Duration = Duration::from_secs(5);

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub kind: EventType,
    pub reason: &'static str,
    /// What tells it from others of the same pod and reason. One whose subject was told before is counted, and its message
    /// takes the place of the one before.
    pub subject: String,
    pub message: String,
}

/// Where workers put their events. Never waits.
#[derive(Debug, Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Happening>,
}

impl EventRecorder {
    pub fn new() -> (Self, mpsc::Receiver<Happening>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue }, receiver)
    }

    /// Happens again when it is told again in the same words.
    pub fn record(&self, pod: &DesiredPod, kind: EventType, reason: &'static str, message: String) {
        let message = shortened(message);
        self.record_of(pod, kind, reason, message.clone(), message);
    }

    /// Happens again when it is told again of the same subject: for messages that hold amounts or times.
    pub fn record_of(
        &self,
        pod: &DesiredPod,
        kind: EventType,
        reason: &'static str,
        subject: impl Into<String>,
        message: String,
    ) {
        let key = pod.key();
        tracing::info!(pod = %key, reason, text = message, "pod event");
        let name = if pod.source.is_nodes_own() {
            mirror::name(&key.name, &pod.spec().node_name)
        } else {
            key.name
        };
        // Full: the oldest news is on its way, the newest is dropped.
        let _ = self.queue.try_send(Happening {
            namespace: key.namespace,
            name,
            uid: pod.uid().as_str().to_owned(),
            kind,
            reason,
            subject: subject.into(),
            message: shortened(message),
        });
    }
}

/// As long as an event's message may be.
fn shortened(mut message: String) -> String {
    const LONGEST: usize = 1024;
    const MARK: char = '…';
    if message.len() > LONGEST {
        let most = LONGEST - MARK.len_utf8();
        message.truncate(message.floor_char_boundary(most));
        message.push(MARK);
    }
    message
}

/// Writes what workers record to the apiserver, for as long as the kubelet runs.
pub(crate) async fn run(
    mut queue: mpsc::Receiver<Happening>,
    api: ApiChannel,
    node: String,
    clock: Clock,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let mut aggregator = Aggregator::new(node);
    loop {
        let happening = tokio::select! {
            happening = queue.recv() => happening,
            () = shutdown.cancelled() => None,
        };
        let Some(happening) = happening else { return Ok(()) };
        let Some(channel) = api.borrow().clone() else {
            continue;
        };
        let write = aggregator.add(happening, clock.now());
        match send(channel, &write).await {
            Ok(stored) => aggregator.stored(&stored),
            Err(status) => {
                tracing::debug!(%status, "an event was dropped");
                aggregator.forget(write.event());
            }
        }
    }
}

async fn send(channel: Channel, write: &Write) -> Result<Event, tonic::Status> {
    let mut client = EventServiceClient::new(channel);
    let stored = tokio::time::timeout(DEADLINE, async {
        match write {
            Write::Create(event) => create(&mut client, event).await,
            Write::Update(event) => {
                let request = UpdateEventRequest {
                    event: Some(event.clone()),
                    ..Default::default()
                };
                match client.update_event(request).await {
                    Ok(response) => Ok(response.into_inner().event),
                    // The apiserver forgets events after a while.
                    Err(status) if status.code() == Code::NotFound => create(&mut client, event).await,
                    Err(status) => Err(status),
                }
            }
        }
    })
    .await
    .map_err(|_| tonic::Status::deadline_exceeded("no answer"))??;
    Ok(stored.unwrap_or_else(|| write.event().clone()))
}

async fn create(
    client: &mut EventServiceClient<Channel>,
    event: &Event,
) -> Result<Option<Event>, tonic::Status> {
    let request = CreateEventRequest {
        event: Some(event.clone()),
        ..Default::default()
    };
    Ok(client.create_event(request).await?.into_inner().event)
}
