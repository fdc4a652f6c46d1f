//! Keeps the logs of containers from filling the disk.
//!
//! A file that has grown large moves away under a name with the time, the runtime opens a new one, and the oldest of
//! those that moved away are removed: `0.log.20260102T030405Z`, …, `0.log`. Logs of pods that are gone go after a while, or when
//! they are too much.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use clone8s::cri::{Container, ContainerState};
use clone8s_daemon::{Shutdown, clock, supervisor::chain};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{KeptLogs, container_file, keep, pod_dir};
use crate::{
    desired::{PodKey, PodUid},
    identity,
    outage::Outage,
    runtime::{ContainerId, Runtime},
};

/// A run's log has at most this size …
const LARGEST: u64 = 10 << 20;
/// … times this number of files, and what is written between two looks.
const FILES: usize = 5;
const LOOK: Duration = Duration::from_secs(10);

/// Rotates logs for as long as the kubelet runs.
pub struct Rotation {
    root: PathBuf,
    runtime: Arc<dyn Runtime>,
    largest: u64,
    /// Of pods that are gone.
    kept: KeptLogs,
    outage: Outage,
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotation")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Rotation {
    pub fn new(root: PathBuf, kept: KeptLogs, runtime: Arc<dyn Runtime>) -> Self {
        Self {
            root,
            runtime,
            largest: LARGEST,
            kept,
            outage: Outage::new("rotation of container logs"),
        }
    }

    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => self.look(clock::now()).await,
            }
        }
    }

    async fn look(&mut self, now: SystemTime) {
        let containers = match self.runtime.list_containers(None).await {
            Ok(containers) => containers,
            Err(error) => return self.outage.failed(error),
        };
        let mut trouble = None;
        for container in containers
            .iter()
            .filter(|container| container.state() == ContainerState::ContainerRunning)
        {
            let Some(file) = log_file(&self.root, container) else {
                continue;
            };
            if file
                .metadata()
                .is_ok_and(|metadata| metadata.len() >= self.largest)
                && let Err(reason) = self.rotate(&file, &ContainerId::new(&container.id), now).await
            {
                trouble = Some(format!("{}: {reason}", file.display()));
            }
        }
        let (root, kept) = (self.root.clone(), self.kept);
        let removed = spawn_blocking(move || keep::remove_old(&root, kept, now)).await;
        match removed.map_err(io::Error::other).flatten() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                trouble = Some(format!("{}: {error}", self.root.display()));
            }
            _ => {}
        }
        match trouble {
            Some(reason) => self.outage.failed(reason),
            None => self.outage.over(),
        }
    }

    async fn rotate(&self, file: &Path, container: &ContainerId, now: SystemTime) -> Result<(), String> {
        let moved = file.with_extension(format!("log.{}", compact(now)));
        fs::rename(file, &moved).map_err(|error| chain(&error))?;
        if let Err(error) = self.runtime.reopen_log(container).await {
            // The runtime goes on writing to the file that moved: without its old name nobody would find it.
            if !file.exists() {
                fs::rename(&moved, file).map_err(|error| chain(&error))?;
            }
            return Err(error.to_string());
        }
        remove_oldest(file).map_err(|error| chain(&error))
    }
}

/// The files of one run that were moved away, the oldest first.
pub(crate) fn moved_away(file: &Path) -> Vec<PathBuf> {
    let Some((dir, name)) = file.parent().zip(file.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut moved: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(&prefix))
        })
        .collect();
    // The time in the name sorts as a text.
    moved.sort();
    moved
}

fn remove_oldest(file: &Path) -> io::Result<()> {
    let moved = moved_away(file);
    let too_many = (moved.len() + 1).saturating_sub(FILES);
    moved[..too_many].iter().try_for_each(fs::remove_file)
}

/// None for a container of another program.
fn log_file(root: &Path, container: &Container) -> Option<PathBuf> {
    let labels = &container.labels;
    labels.get(identity::MANAGED)?;
    let key = PodKey::new(
        labels.get(identity::POD_NAMESPACE)?,
        labels.get(identity::POD_NAME)?,
    );
    let uid = PodUid::new(labels.get(identity::POD_UID)?);
    let name = labels.get(identity::CONTAINER_NAME)?;
    let restart = container.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    Some(pod_dir(root, &key, &uid).join(container_file(name, restart)))
}

fn compact(time: SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
    // Nanoseconds: two rotations of one file never share a name.
    timestamp.strftime("%Y%m%dT%H%M%S.%9fZ").to_string()
}

#[cfg(test)]
mod tests;
