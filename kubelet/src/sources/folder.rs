//! Pods from a folder of manifests.
//!
//! The kernel's events say when to look; a scan of the whole folder says what is there. A slow rescan finds what no
//! event told of (a network filesystem, the target of a link).

mod manifests;
mod scan;
mod touches;

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clone8s_daemon::{Shutdown, clock, supervisor::chain};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use self::{
    manifests::{Manifests, Notice},
    touches::Touches,
};
use super::{
    checkpoint::Checkpoint,
    view::{View, ViewSender},
};
/// Between scans that no event asked for.
const RESCAN: Duration = Duration::from_secs(15);
/// The same, where the kernel sends no events.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// Watches one folder for as long as the kubelet runs.
#[derive(Debug)]
pub(super) struct FolderSource {
    dir: PathBuf,
    manifests: Manifests,
    checkpoint: Checkpoint,
    spoken: bool,
    view: ViewSender,
    /// Why the folder could not be read the last time.
    trouble: Option<String>,
}

/// Why the folder cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot make the manifest folder {path}; make it, or choose another", path = .path.display())]
    Make {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the manifest folder {path} is not a folder; choose another", path = .0.display())]
    NotAFolder(PathBuf),
}

impl FolderSource {
    /// Makes the folder where it is missing. The pods of the checkpoint stand in for a file that cannot be used.
    pub(super) fn new(
        dir: PathBuf,
        node: &str,
        checkpoint: Checkpoint,
        view: ViewSender,
    ) -> Result<Self, FolderError> {
        if !dir.exists() {
            std::fs::create_dir_all(&dir).map_err(|cause| FolderError::Make {
                path: dir.clone(),
                cause,
            })?;
            tracing::info!(path = %dir.display(), "made the manifest folder");
        }
        if !dir.is_dir() {
            return Err(FolderError::NotAFolder(dir));
        }
        Ok(Self {
            dir,
            manifests: Manifests::new(node, checkpoint.pods().clone()),
            // The first scan says all, and comes at once: until then the checkpoint alone is not shown, for it may
            // name a pod whose file was removed in the meantime.
            spoken: false,
            checkpoint,
            view,
            trouble: None,
        })
    }

    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let events = Arc::new(Events::default());
        let mut watching: Option<Watching> = None;
        loop {
            // Watch first, scan second: what changes in between is in the scan or sends an event, or both.
            if !watching
                .as_ref()
                .is_some_and(|watching| watching.is_of(&self.dir))
            {
                watching = Watching::start(&self.dir, &events);
            }
            self.scan(&events).await;
            let rescan = if watching.is_some() {
                RESCAN
            } else {
                RESCAN_WITHOUT_EVENTS
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = events.due() => {}
                () = sleep_until(Instant::now() + rescan) => {}
            }
        }
    }

    async fn scan(&mut self, events: &Events) {
        let unsettled = events.scan_begins();
        let dir = self.dir.clone();
        let scanned = tokio::task::spawn_blocking(move || scan::scan(&dir, &unsettled)).await;
        let contents = match scanned.unwrap_or_else(|stopped| Err(io::Error::other(stopped))) {
            Ok(contents) => contents,
            Err(error) => return self.report_trouble(error.to_string()),
        };
        if self.trouble.take().is_some() {
            tracing::info!(path = %self.dir.display(), "the manifest folder can be read again");
        }
        for notice in self.manifests.scanned(contents, clock::now()) {
            report(&self.dir, &notice);
        }
        self.spoken = true;
        // The files themselves are the truth, so that a full disk does not keep their pods from running.
        if let Err(error) = self.checkpoint.keep(self.manifests.pods()).await {
            tracing::error!(
                error = chain(&error),
                "the pods of the manifest folder are not checkpointed"
            );
        }
        self.show();
    }

    fn report_trouble(&mut self, reason: String) {
        if self.trouble.as_ref() != Some(&reason) {
            let pods = self.manifests.pods().len();
            tracing::warn!(path = %self.dir.display(), reason, pods, "the manifest folder cannot be read; its pods stay as they are");
            self.trouble = Some(reason);
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

/// What the watcher's thread tells the task.
#[derive(Debug, Default)]
struct Events {
    touches: Mutex<Touches>,
    wake: Notify,
}

impl Events {
    fn record(&self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) => self.lock().record(&event, Instant::now()),
            Err(error) => tracing::warn!(%error, "watching the manifest folder"),
        }
        self.wake.notify_one();
    }

    /// Returns when the folder is to be scanned.
    async fn due(&self) {
        loop {
            let due = self.lock().due();
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    fn scan_begins(&self) -> touches::Unsettled {
        self.lock().scan_begins(Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Touches> {
        self.touches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kernel watch of the folder that had this identity.
#[derive(Debug)]
struct Watching {
    _watcher: RecommendedWatcher,
    folder: scan::FolderId,
}

impl Watching {
    fn start(dir: &Path, events: &Arc<Events>) -> Option<Self> {
        let folder = scan::folder_id(dir)?;
        let sink = events.clone();
        let watcher = notify::recommended_watcher(move |event| sink.record(event)).and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => Some(Self {
                _watcher: watcher,
                folder,
            }),
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, every = ?RESCAN_WITHOUT_EVENTS, "cannot watch the manifest folder; scanning it instead");
                None
            }
        }
    }

    /// False once another folder, or none, is at the path.
    fn is_of(&self, dir: &Path) -> bool {
        scan::folder_id(dir) == Some(self.folder)
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
