//! Carries the status of the node's pods to the apiserver, and asks it to drop pods of which nothing is left. What the
//! node has by itself is told of its mirror, which `mirrors` makes and removes.
//!
//! ```text
//! differs from what was sent ──UpdatePodStatus──► sent ──(gone)──DeletePod, grace 0──► dropped
//!          ▲                                       │
//!          └──(the node monitor has overruled it)──┘
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use clone8s::{
    object::Object as _,
    rules::NODE_CONDITIONS,
    v1::{
        DeletePodRequest, ObjectMeta, Pod, PodStatus, UpdatePodStatusRequest,
        pod_service_client::PodServiceClient,
    },
};
use clone8s_daemon::{Shutdown, channel::Channel};
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Status};

use super::{PodEntry, PodStatuses};
use crate::{
    ApiChannel,
    desired::{Desired, DesiredPods, PodKey, PodUid, Source, is_overruled},
    has_changed,
    mirrors::Mirrors,
    pod::status::TERMINATION_BY_KUBELET,
};

/// Writes on their way at one time. A pod has one at most.
const CONCURRENCY: usize = 16;
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What the apiserver is known to have of one pod.
#[derive(Debug, Default)]
struct Sent {
    uid: Option<PodUid>,
    status: Option<Arc<PodStatus>>,
    /// The revision at which the node monitor was last seen to speak in the node's place.
    overruled_at: i64,
    dropped: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Write {
    Update { uid: PodUid, status: Arc<PodStatus> },
    Drop { uid: PodUid },
}

/// Compares, sends, and waits, until shutdown.
pub(crate) struct StatusSync {
    node: String,
    statuses: watch::Receiver<PodStatuses>,
    desired: watch::Receiver<Desired>,
    mirrors: watch::Receiver<Option<Mirrors>>,
    api: ApiChannel,
    sent: BTreeMap<PodKey, Sent>,
    writes: JoinSet<Result<(), Status>>,
    in_flight: HashMap<Id, (PodKey, Write)>,
}

impl StatusSync {
    pub(crate) fn new(
        node: &str,
        statuses: watch::Receiver<PodStatuses>,
        desired: watch::Receiver<Desired>,
        mirrors: watch::Receiver<Option<Mirrors>>,
        api: ApiChannel,
    ) -> Self {
        Self {
            node: node.to_owned(),
            statuses,
            desired,
            mirrors,
            api,
            sent: BTreeMap::new(),
            writes: JoinSet::new(),
            in_flight: HashMap::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            let retry_at = self.begin_writes();
            let idle = Instant::now() + LAST_RETRY;
            tokio::select! {
                changed = self.statuses.changed() => if changed.is_err() { break },
                () = has_changed(&mut self.api) => {}
                () = has_changed(&mut self.mirrors) => {}
                () = has_changed(&mut self.desired) => {}
                Some(ended) = self.writes.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok((id, outcome)) => (id, outcome),
                        Err(error) => (error.id(), Err(Status::internal(error.to_string()))),
                    };
                    self.note(id, outcome);
                }
                () = sleep_until(retry_at.unwrap_or(idle)), if retry_at.is_some() => {}
                () = shutdown.cancelled() => break,
            }
        }
        // What is on its way may end: it is what people see of this node until the next kubelet speaks.
        let _ = timeout(Duration::from_secs(2), async {
            while self.writes.join_next().await.is_some() {}
        })
        .await;
        Ok(())
    }

    /// Starts every write that is due; says when the next one is.
    fn begin_writes(&mut self) -> Option<Instant> {
        let channel = self.api.borrow_and_update().clone()?;
        let entries = Arc::clone(&self.statuses.borrow_and_update());
        let mirrors = self.mirrors.borrow_and_update().clone().unwrap_or_default();
        let desired = Arc::clone(&self.desired.borrow_and_update().pods);
        let told: BTreeMap<_, _> = entries
            .iter()
            .filter_map(|(key, entry)| Some((self.place_in_api(key, entry, &mirrors)?, entry)))
            .collect();
        self.sent.retain(|key, _| told.contains_key(key));
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (key, entry) in &told {
            if self.writes.len() >= CONCURRENCY {
                // The end of a write comes by here again.
                break;
            }
            if self.in_flight.values().any(|(busy, _)| busy == key) {
                continue;
            }
            let (uid, stored) = match mirrors.get(key).filter(|_| entry.source.is_nodes_own()) {
                Some(mirror) => (PodUid::new(mirror.uid()), Some(mirror)),
                None => (entry.uid.clone(), stored(&desired, key, entry)),
            };
            let sent = self.sent.entry(key.clone()).or_default();
            if sent.uid.as_ref() != Some(&uid) {
                *sent = Sent {
                    uid: Some(uid.clone()),
                    status: stored.and_then(|pod| pod.status.as_ref()).map(own_words),
                    ..Sent::default()
                };
            }
            if let Some(pod) = stored
                && is_overruled(pod)
                && sent.overruled_at < pod.resource_version()
            {
                sent.overruled_at = pod.resource_version();
                sent.status = None;
            }
            let Some(write) = due(sent, uid, entry) else {
                continue;
            };
            if let Some(at) = sent.retry_at.filter(|at| *at > now) {
                next = Some(next.map_or(at, |earlier| earlier.min(at)));
                continue;
            }
            let task = self
                .writes
                .spawn(send(channel.clone(), key.clone(), write.clone()));
            self.in_flight.insert(task.id(), (key.clone(), write));
        }
        next
    }

    /// Where the apiserver has the pod of an entry, if it has it.
    fn place_in_api(&self, key: &PodKey, entry: &PodEntry, mirrors: &Mirrors) -> Option<PodKey> {
        if entry.source == Source::Api {
            return Some(key.clone());
        }
        let key = key.of_mirror(&self.node);
        mirrors.contains_key(&key).then_some(key)
    }

    fn note(&mut self, id: Id, outcome: Result<(), Status>) {
        let Some((key, write)) = self.in_flight.remove(&id) else {
            return;
        };
        let Some(sent) = self.sent.get_mut(&key) else {
            return;
        };
        let settled = match outcome {
            Ok(()) => true,
            // The pod is gone, or another has its name: there is nothing to say about this one any more.
            Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => {
                tracing::debug!(pod = %key, %status, "the apiserver no longer has the pod");
                sent.dropped = true;
                true
            }
            Err(status) => {
                tracing::debug!(pod = %key, %status, "the pod's status was not taken; trying again");
                false
            }
        };
        if !settled {
            let wait = crate::pod::memory::doubled(FIRST_RETRY, LAST_RETRY, sent.failures);
            sent.failures = sent.failures.saturating_add(1);
            sent.retry_at = Some(Instant::now() + wait);
            return;
        }
        sent.failures = 0;
        sent.retry_at = None;
        match write {
            Write::Update { status, .. } => sent.status = Some(status),
            Write::Drop { .. } => sent.dropped = true,
        }
    }
}

/// The pod as the apiserver last told it.
fn stored<'a>(desired: &'a DesiredPods, key: &PodKey, entry: &PodEntry) -> Option<&'a Arc<Pod>> {
    let pod = desired.get(key).filter(|pod| pod.uid() == entry.uid)?;
    Some(&pod.pod)
}

/// What others say of a pod's readiness gates, or of its end, is not ours to write.
fn own_words(status: &PodStatus) -> Arc<PodStatus> {
    let mut status = status.clone();
    status
        .conditions
        .retain(|one| NODE_CONDITIONS.contains(&one.r#type.as_str()) || one.reason == TERMINATION_BY_KUBELET);
    Arc::new(status)
}

fn due(sent: &Sent, uid: PodUid, entry: &PodEntry) -> Option<Write> {
    if sent.dropped {
        return None;
    }
    if sent.status.as_ref() != Some(&entry.status) {
        let status = Arc::clone(&entry.status);
        return Some(Write::Update { uid, status });
    }
    let is_to_go = entry.gone && entry.source == Source::Api;
    is_to_go.then_some(Write::Drop { uid })
}

async fn send(channel: Channel, key: PodKey, write: Write) -> Result<(), Status> {
    let mut client = PodServiceClient::new(channel);
    let sent = async {
        match write {
            Write::Update { uid, status } => {
                let mut pod = Pod {
                    status: Some((*status).clone()),
                    ..Default::default()
                };
                *pod.metadata_mut() = ObjectMeta {
                    namespace: key.namespace,
                    name: key.name,
                    uid: uid.as_str().to_owned(),
                    ..Default::default()
                };
                let request = UpdatePodStatusRequest {
                    pod: Some(pod),
                    ..Default::default()
                };
                client.update_pod_status(request).await.map(drop)
            }
            Write::Drop { uid } => {
                let request = DeletePodRequest {
                    namespace: key.namespace,
                    name: key.name,
                    uid: uid.as_str().to_owned(),
                    grace_period_seconds: Some(0),
                    ..Default::default()
                };
                client.delete_pod(request).await.map(drop)
            }
        }
    };
    timeout(DEADLINE, sent)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("the apiserver did not answer")))
}

#[cfg(test)]
mod tests;
