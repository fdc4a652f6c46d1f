//! A folder of manifests, as it is now.
//!
//! The kernel's events say when to look; a scan of the whole folder says what is there. A slow rescan finds what no
//! event told of (a network filesystem, the target of a link).

mod scan;
mod touches;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

#[cfg(test)]
pub(crate) use self::touches::QUIET;
use self::touches::Touches;

/// Between scans that no event asked for.
const RESCAN: Duration = Duration::from_secs(15);
/// The same, where the kernel sends no events.
pub(crate) const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// A file's name within the folder.
pub(crate) type FileName = String;

/// What a scan found in one file.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// The file is there, but not its content, for this reason.
    Unreadable(String),
    /// A program is still writing it.
    Unsettled,
}

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot make the {what} {path}; make it, or choose another", path = .path.display())]
    Make {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the {what} {path} is not a folder; choose another", path = .path.display())]
    NotAFolder { what: &'static str, path: PathBuf },
}

/// A folder that is watched and scanned.
#[derive(Debug)]
pub(crate) struct WatchedFolder {
    dir: PathBuf,
    /// In messages: "manifest folder".
    what: &'static str,
    events: Arc<Events>,
    watching: Option<Watching>,
    /// Why the folder could not be read the last time.
    trouble: Option<String>,
}

impl WatchedFolder {
    /// Makes the folder, with this mode, where it is missing.
    pub(crate) fn open(dir: PathBuf, what: &'static str, mode: u32) -> Result<Self, FolderError> {
        if !dir.exists() {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(&dir);
            made.map_err(|cause| FolderError::Make {
                what,
                path: dir.clone(),
                cause,
            })?;
            tracing::info!(path = %dir.display(), "made the {what}");
        }
        if !dir.is_dir() {
            return Err(FolderError::NotAFolder { what, path: dir });
        }
        Ok(Self {
            dir,
            what,
            events: Arc::default(),
            watching: None,
            trouble: None,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every manifest of the folder; None while the folder itself cannot be read, which is told in the log.
    pub(crate) async fn scan(&mut self) -> Option<BTreeMap<FileName, Content>> {
        // Watch first, scan second: what changes in between is in the scan or sends an event, or both.
        let watched = self.watching.as_ref();
        if !watched.is_some_and(|watching| watching.is_of(&self.dir)) {
            self.watching = Watching::start(&self.dir, &self.events);
        }
        let unsettled = self.events.lock().scan_begins(Instant::now());
        let dir = self.dir.clone();
        let scanned = tokio::task::spawn_blocking(move || scan::scan(&dir, &unsettled)).await;
        let what = self.what;
        match scanned.unwrap_or_else(|stopped| Err(io::Error::other(stopped))) {
            Ok(contents) => {
                if self.trouble.take().is_some() {
                    tracing::info!(path = %self.dir.display(), "the {what} can be read again");
                }
                Some(contents)
            }
            Err(error) => {
                let reason = error.to_string();
                if self.trouble.as_ref() != Some(&reason) {
                    tracing::warn!(path = %self.dir.display(), reason, "the {what} cannot be read; what it held stays as it is");
                    self.trouble = Some(reason);
                }
                None
            }
        }
    }

    /// Returns when the folder is to be scanned again. Safe to give up.
    pub(crate) async fn due(&self) {
        let rescan = if self.watching.is_some() {
            RESCAN
        } else {
            RESCAN_WITHOUT_EVENTS
        };
        tokio::select! {
            () = self.events.due() => {}
            () = sleep_until(Instant::now() + rescan) => {}
        }
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
            Err(error) => tracing::warn!(%error, "watching a folder of manifests"),
        }
        self.wake.notify_one();
    }

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
                tracing::warn!(path = %dir.display(), %error, every = ?RESCAN_WITHOUT_EVENTS, "cannot watch a folder of manifests; scanning it instead");
                None
            }
        }
    }

    /// False once another folder, or none, is at the path.
    fn is_of(&self, dir: &Path) -> bool {
        scan::folder_id(dir) == Some(self.folder)
    }
}
