//! Where desired pods come from: a manifest folder, the apiserver, and the node's queue, merged into one set.
//!
//! ```text
//! manifest folder ──────► FolderSource ─┐
//! apiserver ─ list,watch ─► ApiSource ──┼─ views ─► merge ─► Desired
//!                 ▲ hints               │
//! node queue ─────┴─────► QueueSource ──┘
//! ```
//! Each source checkpoints its pods before it shows them, so that what runs is always on disk.

mod api;
mod checkpoint;
mod door;
#[cfg(test)]
pub(crate) mod fixtures;
mod folder;
mod merge;
mod queue;
mod view;

use std::sync::Arc;

use clone8s_bus::EventBus;
use clone8s_daemon::Supervisor;
use tokio::sync::{mpsc, watch};

use self::{
    api::ApiSource,
    checkpoint::Checkpoint,
    folder::FolderSource,
    merge::Merge,
    queue::QueueSource,
    view::{ViewSender, Views},
};
pub use self::{checkpoint::CheckpointError, queue::QueueHealth};
pub use crate::watched_folder::FolderError;
use crate::{
    ApiChannel, Config,
    desired::{Desired, Source},
    mirrors::Mirrors,
};

/// The sources that a configuration asks for, opened but not yet running.
#[derive(Debug)]
pub struct Sources {
    folder: Option<FolderSource>,
    api: Option<ApiSource>,
    queue: Option<QueueSource>,
    merge: Merge,
}

/// Why the sources cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Sources {
    /// Reads the checkpoints; what they hold is in `desired` from the start. `mirrors` gets those that the apiserver
    /// has, once it has told.
    pub fn open(
        config: &Config,
        api: ApiChannel,
        bus: Option<Arc<dyn EventBus>>,
        desired: watch::Sender<Desired>,
        mirrors: watch::Sender<Option<Mirrors>>,
    ) -> Result<Self, SourcesError> {
        let node = &config.node_name;
        let mut configured = Vec::new();
        configured.extend(config.manifest_folder.as_ref().map(|_| Source::Folder));
        configured.extend(config.apiserver.as_ref().map(|_| Source::Api));
        configured.extend(bus.as_ref().map(|_| Source::Queue));
        let views = Arc::new(watch::Sender::new(Views::of(&configured)));
        let view = |source| ViewSender::new(source, views.clone());
        let checkpoint = |source: Source| {
            let dir = config.data_dir.join("checkpoints").join(source.name());
            Checkpoint::open(dir)
        };

        let folder = match &config.manifest_folder {
            Some(dir) => {
                let checkpoint = checkpoint(Source::Folder)?;
                Some(FolderSource::new(
                    dir.clone(),
                    node,
                    checkpoint,
                    view(Source::Folder),
                )?)
            }
            None => None,
        };
        // The queue waits when the API source is busy; the broker then holds the rest.
        let (hints, hinted) = mpsc::channel(1);
        let api = match &config.apiserver {
            Some(_) => {
                let checkpoint = checkpoint(Source::Api)?;
                let hinted = bus.is_some().then_some(hinted);
                Some(ApiSource::new(
                    node,
                    api,
                    hinted,
                    checkpoint,
                    view(Source::Api),
                    mirrors,
                ))
            }
            None => None,
        };
        let queue = match bus {
            Some(bus) => {
                let checkpoint = checkpoint(Source::Queue)?;
                let hints = api.is_some().then_some(hints);
                Some(QueueSource::new(
                    node,
                    bus,
                    hints,
                    checkpoint,
                    view(Source::Queue),
                ))
            }
            None => None,
        };
        let merge = Merge::new(views.subscribe(), desired);
        Ok(Self {
            folder,
            api,
            queue,
            merge,
        })
    }

    /// Whether the node's queue is consumed; None where there is no broker.
    pub fn queue_health(&self) -> Option<watch::Receiver<QueueHealth>> {
        self.queue.as_ref().map(QueueSource::health)
    }

    /// Runs every source until the supervisor's shutdown.
    pub fn spawn(self, supervisor: &mut Supervisor) {
        let shutdown = supervisor.shutdown().clone();
        if let Some(folder) = self.folder {
            supervisor.spawn("manifest-folder", folder.run(shutdown.clone()));
        }
        if let Some(api) = self.api {
            supervisor.spawn("api-pods", api.run(shutdown.clone()));
        }
        if let Some(queue) = self.queue {
            supervisor.spawn("node-queue", queue.run(shutdown.clone()));
        }
        supervisor.spawn("merge", self.merge.run(shutdown));
    }
}
