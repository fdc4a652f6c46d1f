//! Removes all that a shim has made: for `c8s down` and for tests.

use std::{collections::BTreeSet, fs, sync::Arc};

use clone8s_daemon::Shutdown;
use futures::future::join_all;

use crate::{
    Error, GRACE,
    config::Config,
    containerd::{Bounded, ContainerdError, ErrorKind, Grpc, Limits, already_gone},
    link, pins,
    recover::Occasion,
    shim::{Readiness, Shim},
};

/// What becomes of the images that the containerd namespace holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PulledImages {
    /// They stay, and with them the namespace: files of containerd alone, neither mounted nor running.
    Keep,
    Remove,
}

/// Removes every sandbox, container, mount and network namespace that the configuration's containerd namespace holds,
/// the built-in bridge and the shim's folders; where the images go, the namespace itself too. No shim may be serving.
/// Repeatable. What cannot be removed does not keep the rest, and is told in the error.
///
/// Without containerd only what is on this host can be removed: containers that run stay.
pub async fn teardown(config: Config, images: PulledImages) -> Result<(), Error> {
    config.validate().map_err(Error::Config)?;
    let grpc = Arc::new(Grpc::new(&config.containerd, &config.namespace)?);
    let containerd = Arc::new(Bounded::new(grpc, Limits::default()));
    let stopping = Shutdown::new();
    let shim = Arc::new(Shim::new(config, containerd, stopping.clone()).await);
    let outcome = match link::connect(&shim).await {
        Ok(version) => follow_and_clear(&shim, version, images).await,
        Err(error) => {
            tracing::warn!(%error, "containerd is not there: removing only what is on this host");
            for id in pins::found(&shim.config.state_dir) {
                shim.discard_sandbox(&id).await;
            }
            Ok(Vec::new())
        }
    };
    stopping.cancel();
    shim.finish_operations(GRACE).await;
    let mut problems = outcome?;
    if let Err(error) = shim.network.tear_down().await {
        problems.push(error.to_string());
    }
    let pinned = pins::found(&shim.config.state_dir);
    problems.extend(pinned.iter().map(|id| format!("namespaces of sandbox {id}")));
    if !problems.is_empty() {
        // Their folders stay, so that the next attempt knows what there is to remove.
        return Err(Error::Left(problems.join("; ")));
    }
    for path in [&shim.config.state_dir, &shim.config.root_dir] {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                problems.push(left("folder", &path.display().to_string(), &error));
            }
            _ => {}
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Left(problems.join("; ")))
    }
}

/// Containers are removed once they have ended, and that is told by containerd's events.
async fn follow_and_clear(
    shim: &Arc<Shim>,
    version: String,
    images: PulledImages,
) -> Result<Vec<String>, ContainerdError> {
    let exits = link::finish_exits(shim, shim.containerd.events().await?);
    tokio::select! {
        cleared = clear(shim, version, images) => cleared,
        lost = exits => {
            lost?;
            Err(ContainerdError {
                call: "subscribe to",
                what: "events".to_owned(),
                kind: ErrorKind::Unavailable,
                message: "containerd has closed the connection".to_owned(),
            })
        }
    }
}

/// What could not be removed, and why.
async fn clear(
    shim: &Arc<Shim>,
    version: String,
    images: PulledImages,
) -> Result<Vec<String>, ContainerdError> {
    shim.recover(Occasion::Start).await?;
    let _ = shim.recovered.set(());
    shim.readiness.send_replace(Readiness::Ready {
        containerd_version: version,
    });
    let sandboxes = shim.table.sandboxes();
    let removals = sandboxes.iter().map(|sandbox| {
        let removal = Arc::clone(shim).remove_sandbox(sandbox.id.to_string());
        async move {
            removal
                .await
                .map_err(|error| left("sandbox", sandbox.id.as_str(), &error))
        }
    });
    let mut problems: Vec<String> = join_all(removals)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    // What has no sandbox any more, or is not the shim's.
    for container in shim.table.containers() {
        if let Err(error) = shim.remove(&container).await {
            problems.push(left("container", container.id.as_str(), &error));
        }
    }
    shim.cgroups.remove_empty("/clone8s");
    // Of pulls that never ended; containerd collects what they held.
    for lease in shim.containerd.list_leases().await? {
        shim.containerd.delete_lease(&lease).await?;
    }
    if problems.is_empty() && images == PulledImages::Remove {
        remove_content(shim).await?;
    }
    Ok(problems)
}

fn left(kind: &str, name: &str, error: &(dyn std::error::Error + 'static)) -> String {
    format!("{kind} {name} ({})", clone8s_daemon::supervisor::chain(error))
}

/// Images, snapshots and blobs, so that the namespace is empty, and then the namespace.
async fn remove_content(shim: &Shim) -> Result<(), ContainerdError> {
    let containerd = &shim.containerd;
    for image in containerd.list_images().await? {
        already_gone(containerd.delete_image(&image.name).await)?;
    }
    let snapshotter = &shim.config.snapshotter;
    // A snapshot can be removed only after those on top of it, and their order is not told.
    let mut left: BTreeSet<_> = containerd
        .list_snapshots(snapshotter)
        .await?
        .into_iter()
        .collect();
    loop {
        let before = left.len();
        for name in left.clone() {
            if already_gone(containerd.remove_snapshot(snapshotter, &name).await).is_ok() {
                left.remove(&name);
            }
        }
        if left.is_empty() || left.len() == before {
            break;
        }
    }
    for blob in containerd.list_blobs().await? {
        already_gone(containerd.delete_blob(&blob.digest).await)?;
    }
    containerd.delete_namespace().await
}
