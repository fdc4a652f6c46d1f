//! Keeps the shim in step with containerd.
//!
//! ```text
//! waiting ──(answers: subscribe, recover)──► ready ──(events end, or no answer)──► waiting …
//! ```

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clone8s_daemon::{Shutdown, backoff};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::time::timeout;

use crate::{
    containerd::{self, ContainerdError, Event},
    recover::Occasion,
    shim::{Readiness, Shim},
    steps::timed,
    time,
};

/// Between looks for a containerd that has never answered.
const FIRST_LOOKS: Duration = Duration::from_millis(100);

/// Between looks whether containerd still answers.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Between a call that left something behind and the look at what it left.
const SETTLE: Duration = Duration::from_millis(200);

/// Connects, recovers and follows events until `shutdown`.
pub(crate) async fn run(shim: Arc<Shim>, shutdown: Shutdown) -> Result<(), Infallible> {
    let mut delays = backoff::reconnect();
    let mut occasion = Occasion::Start;
    loop {
        let ended = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ended = follow(&shim, &mut occasion) => ended,
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
        let Some(mut delay) = delays.next() else { continue };
        if occasion == Occasion::Start {
            // It may come up beside us, and pods wait for both.
            delay = delay.min(FIRST_LOOKS);
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// Makes sure that containerd answers and has the shim's namespace; its version.
pub(crate) async fn connect(shim: &Shim) -> Result<String, ContainerdError> {
    let version = containerd::reachable(&*shim.containerd).await?;
    shim.containerd.ensure_namespace().await?;
    Ok(version)
}

/// One connection, from the first answer to the end of its events.
async fn follow(shim: &Arc<Shim>, occasion: &mut Occasion) -> Result<(), ContainerdError> {
    let containerd_version = connect(shim).await?;
    // Subscribed before the state is read, so that no change falls between the two.
    let events = shim.containerd.events().await?;
    timed("recover", shim.recover(*occasion)).await?;
    if *occasion == Occasion::Start {
        import_archives(shim).await;
    }
    *occasion = Occasion::Reconnect;
    tracing::info!(version = containerd_version, "ready");
    let _ = shim.recovered.set(());
    shim.readiness
        .send_replace(Readiness::Ready { containerd_version });
    tokio::select! {
        ended = finish_exits(shim, events) => ended,
        silent = watch_over(shim) => silent,
    }
}

/// Reads containerd's state again whenever a call has left something behind, looks now and then for leases of calls that
/// were given up, and ends with an error once containerd does not answer any more: a hung one keeps its connections.
async fn watch_over(shim: &Arc<Shim>) -> Result<(), ContainerdError> {
    loop {
        if timeout(PROBE_EVERY, shim.unsettled.notified()).await.is_ok() {
            // Whatever went wrong has had a moment to pass.
            tokio::time::sleep(SETTLE).await;
            shim.recover(Occasion::Reconnect).await?;
        } else {
            containerd::reachable(&*shim.containerd).await?;
            shim.images.discard_leases().await?;
        }
    }
}

/// Tells the shim the end of each container, until the events end.
pub(crate) async fn finish_exits(
    shim: &Arc<Shim>,
    mut events: BoxStream<'static, Result<Event, ContainerdError>>,
) -> Result<(), ContainerdError> {
    while let Some(event) = events.next().await {
        let Event::Exit { container, exit } = event?;
        if let Ok(container) = shim.table.container(&container) {
            shim.own(Arc::clone(shim).finish(container, exit.code, time::nanos(exit.at)));
        }
    }
    Ok(())
}

/// The archives of the configuration. One that is broken is told and passed over: the others' pods can run.
async fn import_archives(shim: &Shim) {
    for path in archives(&shim.config.archives) {
        match timed("import archive", shim.images.import(&path)).await {
            Ok(names) => {
                let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                tracing::info!(archive = %path.display(), ?names, "imported");
            }
            Err(error) => {
                let error = clone8s_daemon::supervisor::chain(&error);
                tracing::error!(archive = %path.display(), error, "not imported");
            }
        }
    }
}

/// Files as they are, folders as the archives in them by name.
fn archives(configured: &[PathBuf]) -> Vec<PathBuf> {
    let is_archive = |path: &PathBuf| {
        let name = path.to_string_lossy();
        [".tar", ".tar.gz", ".tgz", ".tar.zst"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let mut all = Vec::new();
    for path in configured {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let mut inside: Vec<_> = entries.map(|entry| entry.path()).filter(is_archive).collect();
            inside.sort();
            all.extend(inside);
        } else {
            all.push(path.clone());
        }
    }
    all
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
