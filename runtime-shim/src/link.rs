//! Keeps the shim in step with containerd.
//!
//! ```text
//! waiting ──(answers: subscribe, recover)──► ready ──(events end)──► waiting …
//! ```

use std::{convert::Infallible, path::Path, sync::Arc};

use clone8s_daemon::{Shutdown, backoff};
use futures::StreamExt as _;

use crate::{
    containerd::{self, ContainerdError, Event},
    shim::{Readiness, Shim},
};

/// Connects, recovers and follows events until `shutdown`.
pub(crate) async fn run(shim: Arc<Shim>, shutdown: Shutdown) -> Result<(), Infallible> {
    let mut delays = backoff::reconnect();
    loop {
        let ended = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ended = follow(&shim) => ended,
        };
        let was_ready = matches!(&*shim.readiness.borrow(), Readiness::Ready { .. });
        if was_ready {
            delays = backoff::reconnect();
        }
        let reason = explain(&shim.config.containerd, ended.err());
        let changed = shim.readiness.send_if_modified(|readiness| {
            let waiting = Readiness::Waiting(reason.clone());
            let changed = *readiness != waiting;
            *readiness = waiting;
            changed
        });
        if changed {
            tracing::warn!(reason, "waiting for containerd");
        }
        let Some(delay) = delays.next() else { continue };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// One connection, from the first answer to the end of its events.
async fn follow(shim: &Arc<Shim>) -> Result<(), ContainerdError> {
    let containerd_version = containerd::reachable(&*shim.containerd).await?;
    shim.containerd.ensure_namespace().await?;
    // Subscribed before the state is read, so that no change falls between the two.
    let mut events = shim.containerd.events().await?;
    tracing::info!(version = containerd_version, "connected to containerd");
    shim.readiness
        .send_replace(Readiness::Ready { containerd_version });
    while let Some(event) = events.next().await {
        match event? {
            Event::Exit { container, exit } => tracing::debug!(container, code = exit.code, "exited"),
            Event::OutOfMemory { container } => tracing::debug!(container, "out of memory"),
        }
    }
    Ok(())
}

fn explain(socket: &Path, error: Option<ContainerdError>) -> String {
    let place = socket.display();
    if !socket.exists() {
        return format!(
            "no containerd socket at {place}: start containerd, or give the path of its socket (--containerd)"
        );
    }
    match error {
        Some(error) => format!("containerd at {place} does not answer: {}", error.message),
        None => format!("containerd at {place} has closed the connection"),
    }
}
