//! A consumer of the broker's messages that comes back after every break.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::{sleep, timeout};

use super::history::{Kind, Message, Verb};
use crate::{
    Foreign,
    foreign::{self, Received},
};

const QUEUE: &str = "robustness";

/// A connection over which nothing comes for so long is tried anew.
const SILENCE: Duration = Duration::from_secs(10);

/// What has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Inbox {
    arrived: Arc<Mutex<Arrived>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Arrived {
    pub(super) messages: Vec<Message>,
    pub(super) failures: Vec<String>,
}

impl Inbox {
    /// Makes the queue, so that nothing that is published from now on is missed.
    pub(super) async fn open(amqp: &str) -> Self {
        Foreign::bind(amqp, QUEUE, "clone8s.events", "#").await;
        Self::default()
    }

    /// Listens for ever.
    pub(super) async fn fill(self, amqp: String) {
        loop {
            // Whatever the error is: with a broker that comes and goes, it says nothing.
            let _ = self.listen(&amqp).await;
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn listen(&self, amqp: &str) -> anyhow::Result<()> {
        let foreign = timeout(SILENCE, Foreign::connect(amqp)).await??;
        let mut consumer = timeout(SILENCE, foreign.consume(QUEUE)).await??;
        loop {
            let received = timeout(SILENCE, foreign::next(&mut consumer)).await??;
            let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            match message(&received) {
                Ok(Some(message)) => arrived.messages.push(message),
                Ok(None) => {}
                Err(error) => arrived
                    .failures
                    .push(format!("{:?}: {error:#}", received.routing_key)),
            }
        }
    }

    pub(super) fn arrived(&self) -> Arrived {
        self.arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// None for what is of no kind of a run; an error for what breaks the contract of messages.
fn message(received: &Received) -> anyhow::Result<Option<Message>> {
    if received.header("verb") == "gap" {
        bail!("a gap: {}", String::from_utf8_lossy(&received.body));
    }
    let Some(kind) = Kind::of_message(&received.kind) else {
        return Ok(None);
    };
    let (name, version) = kind.decode(&received.body)?;
    // Of another namespace.
    if Kind::of(&name).is_none() {
        return Ok(None);
    }
    let revision = received.header("revision").parse().context("its revision")?;
    let verb = match received.header("verb") {
        "added" => Verb::Added,
        "modified" => Verb::Modified,
        "deleted" => Verb::Deleted,
        other => bail!("the verb {other:?}"),
    };
    let id = format!("{}/{revision}", version.state.uid);
    let key = routing_key(&name, received.header("verb"));
    anyhow::ensure!(
        received.message_id == id,
        "message-id {:?}, not {id:?}",
        received.message_id
    );
    anyhow::ensure!(received.routing_key == key, "not {key:?}");
    anyhow::ensure!(
        version.revision == revision,
        "the object's revision is {}",
        version.revision
    );
    Ok(Some(Message {
        revision,
        name,
        verb,
        state: version.state,
    }))
}

/// `<plural>.<verb>.<namespace>.<name>`, with a dash for no namespace.
fn routing_key(name: &str, verb: &str) -> String {
    let parts: Vec<_> = name.split('/').collect();
    match parts[..] {
        [plural, namespace, name] => format!("{plural}.{verb}.{namespace}.{name}"),
        [plural, name] => format!("{plural}.{verb}.-.{name}"),
        _ => String::new(),
    }
}
