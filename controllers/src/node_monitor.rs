//! The node monitor: nodes that fall silent, and what becomes of their pods.
//!
//! ```text
//! heard ──(no new heartbeat for the grace period)──► silent: Ready=Unknown, its pods Ready=False ──heartbeat──► heard
//! a heartbeat: a renewal of the node's lease, or a report of its status
//! node object gone for as long: its pods that had started are Failed (NodeLost); those being deleted go
//! ```
//! Time is counted here, from the moment a heartbeat was seen to change: the clocks of other machines do not matter.
//! A pod that was placed by hand on a node that has not joined yet is left to wait for it.

mod silence;
mod writes;

use std::{future::Future, time::Duration};

use clone8s::{
    client::Query,
    object::Object as _,
    rules::NODE_LEASE_NAMESPACE,
    v1::{Lease, Node},
};
use clone8s_daemon::{Shutdown, channel::Channel};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tonic::Status;

use self::silence::Silence;
use crate::reflector::{Update, reflect};

/// Looks for silent nodes in each grace period, and looks for the pods of lost ones.
const ROUNDS: u32 = 8;
const SWEEPS: u32 = 2;
const UPDATES: usize = 64;

/// Watches over the nodes until shutdown.
///
/// # Panics
/// With a grace period of nothing.
pub(crate) async fn run(channel: Channel, grace: Duration, shutdown: Shutdown) {
    let mut reflectors = JoinSet::new();
    let (updates, mut nodes) = mpsc::channel(UPDATES);
    reflectors.spawn(reflect::<Node>(
        channel.clone(),
        Query::default(),
        updates,
        shutdown.clone(),
    ));
    let (updates, mut leases) = mpsc::channel(UPDATES);
    let of_nodes = Query {
        namespace: NODE_LEASE_NAMESPACE.to_owned(),
        ..Query::default()
    };
    reflectors.spawn(reflect::<Lease>(
        channel.clone(),
        of_nodes,
        updates,
        shutdown.clone(),
    ));

    let mut silence = Silence::new(grace);
    let mut rounds = ticks(grace / ROUNDS);
    let mut sweeps = ticks(grace / SWEEPS);
    loop {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(update) = nodes.recv() => {
                let gone = match &update {
                    Update::Deleted(node) => Some(node.name().to_owned()),
                    _ => None,
                };
                silence.apply(update, Instant::now());
                match gone {
                    // A kubelet that is still there finds no lease, and makes both anew.
                    Some(node) => unless(&shutdown, Box::pin(writes::delete_lease(&channel, &node))).await,
                    None => Ok(()),
                }
            }
            Some(update) = leases.recv() => {
                silence.apply_lease(update, Instant::now());
                Ok(())
            }
            _ = rounds.tick() => unless(&shutdown, Box::pin(round(&channel, &mut silence, grace))).await,
            _ = sweeps.tick() => unless(&shutdown, Box::pin(sweep(&channel, &mut silence))).await,
        };
        // The next round starts from what is true then.
        if let Err(status) = outcome {
            tracing::warn!(code = ?status.code(), reason = status.message(), "cannot look after the nodes now");
        }
    }
}

async fn round(channel: &Channel, silence: &mut Silence, grace: Duration) -> Result<(), Status> {
    for node in silence.fallen_silent(Instant::now()) {
        // A watch that is late must not make a node silent.
        let lease = writes::lease(channel, node.name()).await?;
        if lease.is_some_and(|lease| silence.renewed(&lease, Instant::now())) {
            continue;
        }
        writes::mark_unknown(channel, &node, grace).await?;
    }
    for node in silence.unreachable() {
        for pod in writes::pods(channel, format!("spec.nodeName={node}")).await? {
            writes::mark_unready(channel, pod, node).await?;
        }
    }
    Ok(())
}

async fn sweep(channel: &Channel, silence: &mut Silence) -> Result<(), Status> {
    if !silence.synced() {
        return Ok(());
    }
    let pods = writes::pods(channel, "spec.nodeName!=".to_owned()).await?;
    for pod in silence.lost(pods, Instant::now()) {
        writes::end_lost(channel, pod).await?;
    }
    for node in silence.ownerless(Instant::now()) {
        writes::delete_lease(channel, &node).await?;
    }
    Ok(())
}

async fn unless(shutdown: &Shutdown, work: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        outcome = work => outcome,
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
