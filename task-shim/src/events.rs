//! What happens to tasks, told to containerd in the order in which it happened.
//!
//! Events are hints: whoever needs the truth asks for the state. So containerd's absence delays them, and after
//! [`TRY_FOR`] drops them.

use std::{path::PathBuf, time::Duration};

use prost::Message;
use prost_types::Any;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    clock,
    messages::{
        Envelope, ForwardRequest, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted,
        TaskExit, TaskNote, TaskStart,
    },
    ttrpc::Client,
};

/// More than a pod does in any restart of containerd; a full queue drops what comes last.
const QUEUE: usize = 1024;
const TRY_FOR: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
const FLUSH: Duration = Duration::from_secs(2);
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

#[derive(Debug)]
pub(crate) enum Event {
    Create(TaskCreate),
    Start(TaskStart),
    Exit(TaskExit),
    Delete(TaskDelete),
    ExecAdded(TaskExecAdded),
    ExecStarted(TaskExecStarted),
    OutOfMemory(TaskNote),
    Paused(TaskNote),
    Resumed(TaskNote),
    Checkpointed(TaskCheckpointed),
}

/// Where events are left.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Sender<Envelope>,
    namespace: String,
}

/// What brings them to containerd.
#[derive(Debug)]
pub(crate) struct Publisher(JoinHandle<()>);

impl Events {
    /// `socket` is containerd's ttrpc socket; without one events go nowhere.
    pub(crate) fn start(namespace: &str, socket: Option<PathBuf>) -> (Self, Publisher) {
        let (queue, inbox) = channel(QUEUE);
        let publisher = tokio::task::spawn_local(publish(inbox, socket));
        (
            Self {
                queue,
                namespace: namespace.to_owned(),
            },
            Publisher(publisher),
        )
    }

    pub(crate) fn send(&self, event: &Event) {
        let (topic, event) = event.pack();
        let envelope = Envelope {
            timestamp: Some(clock::now()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event),
        };
        // Full: see QUEUE.
        let _ = self.queue.try_send(envelope);
    }
}

impl Publisher {
    /// Waits until what was left with [`Events`], which must be gone, has arrived.
    pub(crate) async fn flush(self) {
        let _ = timeout(FLUSH, self.0).await;
    }
}

impl Event {
    fn pack(&self) -> (&'static str, Any) {
        fn any(name: &str, message: &impl Message) -> Any {
            Any {
                type_url: format!("containerd.events.{name}"),
                value: message.encode_to_vec(),
            }
        }
        match self {
            Self::Create(event) => ("/tasks/create", any("TaskCreate", event)),
            Self::Start(event) => ("/tasks/start", any("TaskStart", event)),
            Self::Exit(event) => ("/tasks/exit", any("TaskExit", event)),
            Self::Delete(event) => ("/tasks/delete", any("TaskDelete", event)),
            Self::ExecAdded(event) => ("/tasks/exec-added", any("TaskExecAdded", event)),
            Self::ExecStarted(event) => ("/tasks/exec-started", any("TaskExecStarted", event)),
            Self::OutOfMemory(event) => ("/tasks/oom", any("TaskOOM", event)),
            Self::Paused(event) => ("/tasks/paused", any("TaskPaused", event)),
            Self::Resumed(event) => ("/tasks/resumed", any("TaskResumed", event)),
            Self::Checkpointed(event) => ("/tasks/checkpointed", any("TaskCheckpointed", event)),
        }
    }
}

async fn publish(mut inbox: Receiver<Envelope>, socket: Option<PathBuf>) {
    let mut client = None;
    while let Some(envelope) = inbox.recv().await {
        let Some(socket) = &socket else { continue };
        let message = ForwardRequest {
            envelope: Some(envelope),
        };
        let attempts = async {
            loop {
                if client.is_none() {
                    client = Client::connect(socket).await.ok();
                }
                if let Some(connected) = &mut client
                    && connected.call(SERVICE, "Forward", &message).await.is_ok()
                {
                    break;
                }
                client = None;
                sleep(PAUSE).await;
            }
        };
        let _ = timeout(TRY_FOR, attempts).await;
    }
}
