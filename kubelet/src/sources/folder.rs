//! Pods from a folder of manifests.

mod manifests;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
};

use clone8s_daemon::{Shutdown, clock, supervisor::chain};

use self::manifests::{Manifests, Notice};
use super::{
    checkpoint::Checkpoint,
    view::{View, ViewSender},
};
use crate::watched_folder::{FolderError, WatchedFolder};

/// Watches one folder for as long as the kubelet runs.
#[derive(Debug)]
pub(super) struct FolderSource {
    folder: WatchedFolder,
    manifests: Manifests,
    checkpoint: Checkpoint,
    spoken: bool,
    view: ViewSender,
}

impl FolderSource {
    /// Makes the folder where it is missing. The pods of the checkpoint stand in for a file that cannot be used.
    pub(super) fn new(
        dir: PathBuf,
        node: &str,
        checkpoint: Checkpoint,
        view: ViewSender,
    ) -> Result<Self, FolderError> {
        Ok(Self {
            folder: WatchedFolder::open(dir, "manifest folder", 0o755)?,
            manifests: Manifests::new(node, checkpoint.pods().clone()),
            // The first scan says all, and comes at once: until then the checkpoint alone is not shown, for it may
            // name a pod whose file was removed in the meantime.
            spoken: false,
            checkpoint,
            view,
        })
    }

    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            self.scan().await;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.folder.due() => {}
            }
        }
    }

    async fn scan(&mut self) {
        if let Some(contents) = self.folder.scan().await {
            for notice in self.manifests.scanned(contents, clock::now()) {
                report(self.folder.dir(), &notice);
            }
            self.spoken = true;
            // The files themselves are the truth, so that a full disk does not keep their pods from running.
            if let Err(error) = self.checkpoint.keep(self.manifests.pods()).await {
                tracing::error!(
                    error = chain(&error),
                    "the pods of the manifest folder are not checkpointed"
                );
            }
        }
        self.show();
    }

    fn show(&self) {
        let pods = self.manifests.pods();
        self.view.replace(View {
            pods: pods
                .iter()
                .map(|(key, saved)| (key.clone(), saved.pod.clone()))
                .collect(),
            spoken: self.spoken,
        });
    }
}

fn report(dir: &Path, notice: &Notice) {
    match notice {
        Notice::Broken { file, reason, kept } => {
            let path = dir.join(file);
            tracing::error!(path = %path.display(), reason, pods_kept = kept, "a manifest cannot be used");
        }
        Notice::Mended { file } => {
            tracing::info!(path = %dir.join(file).display(), "a manifest can be used again");
        }
        Notice::Duplicate { key, runs, ignored } => {
            tracing::error!(pod = %key, runs = %dir.join(runs).display(), ignored = %dir.join(ignored).display(), "two manifests hold a pod of the same name; rename one");
        }
    }
}

#[cfg(test)]
mod tests;
