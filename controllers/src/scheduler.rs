//! The scheduler: pods without a node go to a ready node that has room, or wait with the reason in their status.
//!
//! One task owns the [`state::State`]; two reflectors feed it, and the writes that it asks for run beside it.

mod decide;
mod demand;
mod snapshot;
mod state;

use std::{sync::Arc, time::Duration};

use clone8s::{
    client::Query,
    v1::{BindPodRequest, Node, Pod, UpdatePodStatusRequest, pod_service_client::PodServiceClient},
};
use clone8s_daemon::{Shutdown, channel::Channel};
use futures::future::OptionFuture;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Status};

use self::state::{Action, State};
pub use self::{
    decide::{Decision, decide},
    demand::{Amounts, Demand, HostPort},
    snapshot::{NodeFacts, Snapshot},
};
use crate::{
    conditions,
    events::{self, Kind},
    reflector::{Update, reflect},
    time,
};

/// Updates that the scheduler has not looked at yet; a full queue slows the apiserver's stream down.
const UPDATES: usize = 256;
/// Writes on their way at a time.
const WRITES: usize = 64;
/// An apiserver that takes longer than this over a write is not there.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Schedules until shutdown.
pub async fn run(channel: Channel, shutdown: Shutdown) {
    let (pod_updates, mut pods) = mpsc::channel::<Update<Pod>>(UPDATES);
    let (node_updates, mut nodes) = mpsc::channel::<Update<Node>>(UPDATES);
    let mut reflectors = JoinSet::new();
    reflectors.spawn(reflect(
        channel.clone(),
        Query::default(),
        pod_updates,
        shutdown.clone(),
    ));
    reflectors.spawn(reflect(
        channel.clone(),
        Query::default(),
        node_updates,
        shutdown.clone(),
    ));

    let mut state = State::default();
    let mut writes = JoinSet::new();
    loop {
        while writes.len() < WRITES
            && let Some(action) = state.next_action(Instant::now())
        {
            writes.spawn(perform(channel.clone(), action));
        }
        let retry: OptionFuture<_> = state.next_retry().map(sleep_until).into();
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(update) = pods.recv() => {
                state.apply_pods(update);
                // A burst is one picture, not a decision after each brush stroke.
                while let Ok(update) = pods.try_recv() {
                    state.apply_pods(update);
                }
            }
            Some(update) = nodes.recv() => state.apply_nodes(update),
            Some(written) = writes.join_next() => match written {
                Ok((uid, stored)) => state.finished(&uid, stored, Instant::now()),
                Err(error) => tracing::error!(%error, "a write of the scheduler ended badly"),
            },
            Some(()) = retry => {}
        }
    }
}

/// Makes one write; the answer is the pod's uid, and the pod as it is stored now.
async fn perform(channel: Channel, action: Action) -> (String, Option<Pod>) {
    let pod = Arc::clone(action.pod());
    let meta = pod.metadata.clone().unwrap_or_default();
    let written = timeout(WRITE_TIMEOUT, write(&channel, &action))
        .await
        .unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!(
                "no answer within {WRITE_TIMEOUT:?}"
            )))
        });
    let stored = match written {
        Ok(stored) => stored,
        Err(status) => {
            // Somebody else was first: the watch says who, and the pod is looked at again.
            let expected = matches!(
                status.code(),
                Code::Aborted | Code::NotFound | Code::FailedPrecondition
            );
            if expected {
                tracing::debug!(
                    namespace = meta.namespace,
                    pod = meta.name,
                    reason = status.message(),
                    "overtaken"
                );
            } else {
                tracing::warn!(
                    namespace = meta.namespace,
                    pod = meta.name,
                    code = ?status.code(),
                    reason = status.message(),
                    "cannot write the decision: trying again"
                );
            }
            return (meta.uid, None);
        }
    };
    let (kind, reason, message) = match &action {
        Action::Bind { node, .. } => {
            tracing::info!(namespace = meta.namespace, pod = meta.name, node, "bound");
            let message = format!("assigned {}/{} to {node}", meta.namespace, meta.name);
            (Kind::Normal, "Scheduled", message)
        }
        Action::Report { reason, .. } => {
            tracing::info!(namespace = meta.namespace, pod = meta.name, reason, "waits");
            (Kind::Warning, "FailedScheduling", reason.clone())
        }
    };
    events::record(&channel, "scheduler", &meta, kind, reason, message).await;
    (meta.uid, stored)
}

async fn write(channel: &Channel, action: &Action) -> Result<Option<Pod>, Status> {
    let mut client = PodServiceClient::new(channel.clone());
    match action {
        Action::Bind { pod, node } => {
            let meta = pod.metadata.clone().unwrap_or_default();
            let request = BindPodRequest {
                namespace: meta.namespace,
                name: meta.name,
                uid: meta.uid,
                resource_version: meta.resource_version,
                node_name: node.clone(),
                ..Default::default()
            };
            Ok(client.bind_pod(request).await?.into_inner().pod)
        }
        Action::Report { pod, reason } => {
            let waiting = Pod {
                metadata: pod.metadata.clone(),
                spec: None,
                status: Some(conditions::waiting_status(pod, reason, time::now())),
            };
            let request = UpdatePodStatusRequest {
                pod: Some(waiting),
                ..Default::default()
            };
            Ok(client.update_pod_status(request).await?.into_inner().pod)
        }
    }
}
