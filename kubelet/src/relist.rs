//! What runs on the whole node: lists made from time to time, and the runtime's events in between.
//!
//! The list tells the truth; an event only says that it is time to look.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use clone8s::cri::{Container, ContainerEventResponse, PodSandbox, StatusResponse};
use clone8s_daemon::{Shutdown, backoff};
use futures::StreamExt as _;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    desired::{PodKey, PodUid},
    identity,
    pod::observed::{Run, Sandbox},
    runtime::{Runtime, RuntimeError, RuntimeErrorReason, RuntimeHealth},
};

/// Between lists while the runtime sends no events.
const WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Between looks for a runtime that has never answered.
const FIRST_LOOKS: Duration = Duration::from_millis(100);
/// A runtime that restarts within this time was never away: the node's condition does not flip.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wake-ups on their way to the workers; beyond it a list finds what they would have said.
const WAKES: usize = 256;

/// What the runtime has of our pods, as of one list.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// When the list was asked for.
    pub(crate) taken: Instant,
    pub(crate) pods: BTreeMap<PodKey, Digest>,
}

/// Differs when anything of a pod has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) uids: BTreeSet<PodUid>,
    states: BTreeSet<(String, i32)>,
}

impl Snapshot {
    fn of(taken: Instant, sandboxes: &[PodSandbox], containers: &[Container]) -> Self {
        let mut pods: BTreeMap<PodKey, Digest> = BTreeMap::new();
        let mut add = |key: PodKey, uid: PodUid, id: &str, state: i32| {
            let digest = pods.entry(key).or_default();
            digest.uids.insert(uid);
            digest.states.insert((id.to_owned(), state));
        };
        for listed in sandboxes {
            if let Some((key, sandbox)) = Sandbox::parse(listed) {
                add(key, sandbox.uid, &listed.id, listed.state);
            }
        }
        for listed in containers {
            if let Some((key, run)) = Run::parse(listed, None) {
                add(key, run.uid, &listed.id, listed.state);
            }
        }
        Self { taken, pods }
    }
}

/// Keeps the snapshot and the runtime's health, and passes on events.
pub(crate) struct Relist {
    runtime: Arc<dyn Runtime>,
    interval: Duration,
    /// None before the first list.
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    health: watch::Sender<RuntimeHealth>,
    wakes: mpsc::Sender<PodKey>,
    hurry: Notify,
    events_flow: watch::Sender<bool>,
}

/// The readers' ends.
pub(crate) struct Feeds {
    pub(crate) snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) health: watch::Receiver<RuntimeHealth>,
    pub(crate) wakes: mpsc::Receiver<PodKey>,
}

impl Relist {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, interval: Duration) -> (Arc<Self>, Feeds) {
        let snapshot = watch::Sender::new(None);
        let health = watch::Sender::new(RuntimeHealth::starting());
        let (wakes, woken) = mpsc::channel(WAKES);
        let feeds = Feeds {
            snapshot: snapshot.subscribe(),
            health: health.subscribe(),
            wakes: woken,
        };
        let relist = Self {
            runtime,
            interval,
            snapshot,
            health,
            wakes,
            hurry: Notify::new(),
            events_flow: watch::Sender::new(false),
        };
        (Arc::new(relist), feeds)
    }

    /// Lists until shutdown.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut last_answer = None;
        let mut outage = backoff::reconnect();
        let mut events_flow = self.events_flow.subscribe();
        loop {
            let listed = tokio::select! {
                listed = self.list() => listed,
                () = shutdown.cancelled() => return Ok(()),
            };
            let wait = match listed {
                Ok(()) => {
                    last_answer = Some(Instant::now());
                    outage = backoff::reconnect();
                    if *events_flow.borrow_and_update() {
                        self.interval
                    } else {
                        self.interval.min(WITHOUT_EVENTS)
                    }
                }
                Err(error) => {
                    self.note_outage(&error, last_answer);
                    let wait = outage.next().unwrap_or(WITHOUT_EVENTS);
                    // At the start the runtime comes up beside us: to see it late would be to start pods late.
                    if last_answer.is_none() {
                        wait.min(FIRST_LOOKS)
                    } else {
                        wait
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.hurry.notified() => {}
                // Events begin: what happened before them must be seen. They end: lists must come faster.
                _ = events_flow.changed() => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    async fn list(&self) -> Result<(), RuntimeError> {
        let taken = Instant::now();
        let (version, sandboxes, containers) = tokio::try_join!(
            self.version(),
            self.runtime.list_sandboxes(None),
            self.runtime.list_containers(None)
        )?;
        // The version comes first: the pods of the list are told with the runtime's name in their containers' IDs.
        self.health.send_if_modified(|health| {
            let is_new = health.version != version;
            health.version.clone_from(&version);
            is_new
        });
        let snapshot = Snapshot::of(taken, &sandboxes, &containers);
        self.snapshot.send_replace(Some(Arc::new(snapshot)));
        let status = self.runtime.status().await?;
        self.set_health(judge(&status, version));
        Ok(())
    }

    async fn version(&self) -> Result<String, RuntimeError> {
        let RuntimeHealth { ready, version, .. } = self.health.borrow().clone();
        if ready {
            return Ok(version);
        }
        // Another runtime may have taken the place of the one before.
        let answer = self.runtime.version().await?;
        Ok(format!("{}://{}", answer.runtime_name, answer.runtime_version))
    }

    fn note_outage(&self, error: &RuntimeError, last_answer: Option<Instant>) {
        tracing::debug!(%error, "the container runtime does not answer");
        if last_answer.is_some_and(|answer| answer.elapsed() < PATIENCE) {
            return;
        }
        let version = self.health.borrow().version.clone();
        self.set_health(RuntimeHealth {
            ready: false,
            reason: "ContainerRuntimeNotReady",
            message: error.to_string(),
            version,
        });
    }

    fn set_health(&self, health: RuntimeHealth) {
        self.health.send_if_modified(|old| {
            if *old == health {
                return false;
            }
            if old.ready != health.ready {
                let RuntimeHealth {
                    ready,
                    reason,
                    message,
                    version,
                } = &health;
                tracing::info!(ready, reason, text = message, version, "container runtime");
            }
            *old = health;
            true
        });
    }

    /// Follows the runtime's events until shutdown.
    pub(crate) async fn follow_events(self: Arc<Self>, shutdown: Shutdown) -> Result<(), Infallible> {
        /// A runtime that does not know the call may be replaced by one that does.
        const UNKNOWN_CALL: Duration = Duration::from_mins(5);
        let mut outage = backoff::reconnect();
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                ended = self.follow_once() => ended,
                () = shutdown.cancelled() => return Ok(()),
            };
            self.events_flow.send_if_modified(std::mem::take);
            let wait = match ended {
                Ok(()) => {
                    // A stream that lasted was a good one.
                    if begun.elapsed() > PATIENCE {
                        outage = backoff::reconnect();
                    }
                    outage.next()
                }
                Err(error) => {
                    tracing::debug!(%error, "no events from the container runtime");
                    match error.reason {
                        RuntimeErrorReason::Unimplemented => Some(UNKNOWN_CALL),
                        _ => outage.next(),
                    }
                }
            };
            let wait = wait.unwrap_or(WITHOUT_EVENTS);
            // Its end is awaited, or the shutdown's.
            if timeout(wait, shutdown.cancelled()).await.is_ok() {
                return Ok(());
            }
        }
    }

    /// One stream of events, from its beginning to its end.
    async fn follow_once(&self) -> Result<(), RuntimeError> {
        let mut events = self.runtime.events().await?;
        self.events_flow.send_replace(true);
        while let Some(event) = events.next().await {
            let passed_on = match pod_of(&event?) {
                Some(key) => self.wakes.try_send(key).is_ok(),
                None => false,
            };
            if !passed_on {
                // Not said whose it is, or too many at once: a list tells.
                self.hurry.notify_one();
            }
        }
        Ok(())
    }
}

fn pod_of(event: &ContainerEventResponse) -> Option<PodKey> {
    if let Some(metadata) = event
        .pod_sandbox_status
        .as_ref()
        .and_then(|status| status.metadata.as_ref())
    {
        return Some(PodKey::new(&metadata.namespace, &metadata.name));
    }
    let labels = &event.containers_statuses.first()?.labels;
    Some(PodKey::new(
        labels.get(identity::POD_NAMESPACE)?,
        labels.get(identity::POD_NAME)?,
    ))
}

/// CRI v1, RuntimeStatus: the conditions RuntimeReady and NetworkReady are required.
fn judge(status: &StatusResponse, version: String) -> RuntimeHealth {
    let conditions = status.status.as_ref().map(|status| status.conditions.as_slice());
    let trouble = conditions.unwrap_or_default().iter().find(|condition| {
        !condition.status && matches!(condition.r#type.as_str(), "RuntimeReady" | "NetworkReady")
    });
    match trouble {
        None => RuntimeHealth {
            ready: true,
            reason: "KubeletReady",
            message: "the kubelet and the container runtime are ready".to_owned(),
            version,
        },
        Some(condition) => RuntimeHealth {
            ready: false,
            reason: if condition.r#type == "NetworkReady" {
                "NetworkPluginNotReady"
            } else {
                "ContainerRuntimeNotReady"
            },
            message: [condition.reason.as_str(), condition.message.as_str()]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(": "),
            version,
        },
    }
}
