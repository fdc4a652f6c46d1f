//! Images of a folder of archives, loaded into the runtime: at the start, and when a file comes or changes.
//!
//! ```text
//! folder ─► names, sizes, times ─► what is new ─► ImportImageArchive ─► names of images ─► those that stay, and are waited for
//! ```
//! Only our own runtime takes archives; with another the kubelet says so once, and goes on without.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clone8s_daemon::{Shutdown, supervisor::chain};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    outage::Outage,
    runtime::{Runtime, RuntimeError, RuntimeErrorReason},
};

const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Before a file that could not be used is tried once more, as it is: the disk may have been full.
const RETRY: Duration = Duration::from_mins(1);

/// What the archives give. Until `settled`, an image that is missing may still come from one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ArchiveImages {
    pub(crate) names: BTreeSet<String>,
    pub(crate) settled: bool,
}

/// Loads archives for as long as the kubelet runs.
pub(crate) struct ArchiveFolder {
    dir: PathBuf,
    runtime: Arc<dyn Runtime>,
    loaded: BTreeMap<PathBuf, Loaded>,
    images: watch::Sender<ArchiveImages>,
    runtime_outage: Outage,
    folder_outage: Outage,
}

/// What was made of a file.
#[derive(Debug)]
struct Loaded {
    version: FileVersion,
    images: Vec<String>,
    /// For one that could not be used.
    retry_at: Option<Instant>,
}

/// Tells a file from another of its name, without a look at gigabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    inode: u64,
    size: u64,
    /// Nanoseconds since the epoch.
    changed: i128,
}

impl ArchiveFolder {
    /// A missing folder holds nothing until it is there.
    pub(crate) fn new(dir: PathBuf, runtime: Arc<dyn Runtime>) -> (Self, watch::Receiver<ArchiveImages>) {
        let (images, receiver) = watch::channel(ArchiveImages::default());
        let folder = Self {
            dir,
            runtime,
            loaded: BTreeMap::new(),
            images,
            runtime_outage: Outage::new("import of image archives"),
            folder_outage: Outage::new("look into the folder of image archives"),
        };
        (folder, receiver)
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = self.follow() => {}
        }
        shutdown.cancelled().await;
        Ok(())
    }

    /// Returns when the runtime takes no archives.
    async fn follow(&mut self) {
        loop {
            match self.look().await {
                Ok(()) => {
                    self.runtime_outage.over();
                    self.show(true);
                }
                Err(error) if error.reason == RuntimeErrorReason::Unimplemented => {
                    tracing::error!(
                        folder = %self.dir.display(),
                        "this container runtime takes no image archives; import them by its own tools"
                    );
                    self.show(true);
                    return;
                }
                Err(error) => self.runtime_outage.failed(chain(&error)),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Fails when the runtime cannot be asked now.
    async fn look(&mut self) -> Result<(), RuntimeError> {
        let dir = self.dir.clone();
        let found = match tokio::task::spawn_blocking(move || archives(&dir)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                self.folder_outage.failed(error);
                return Ok(());
            }
            Err(stopped) => {
                self.folder_outage.failed(stopped);
                return Ok(());
            }
        };
        self.folder_outage.over();
        self.loaded.retain(|path, _| found.contains_key(path));
        for (path, version) in found {
            if self
                .loaded
                .get(&path)
                .is_some_and(|loaded| loaded.is_done(version))
            {
                continue;
            }
            let (images, retry_at) = match self.runtime.import_image_archive(&path).await {
                Ok(images) => {
                    tracing::info!(archive = %path.display(), ?images, "imported an image archive");
                    (images, None)
                }
                Err(error) if is_of_the_file(&error) => {
                    // Half written, or no archive.
                    tracing::error!(archive = %path.display(), error = chain(&error), "an image archive cannot be used");
                    (Vec::new(), Some(Instant::now() + RETRY))
                }
                Err(error) => return Err(error),
            };
            let loaded = Loaded {
                version,
                images,
                retry_at,
            };
            self.loaded.insert(path, loaded);
            self.show(false);
        }
        Ok(())
    }

    fn show(&self, settled: bool) {
        let names = self.loaded.values().flat_map(|loaded| &loaded.images);
        let names = names.cloned().collect();
        self.images.send_if_modified(|shown| {
            let next = ArchiveImages {
                names,
                settled: shown.settled || settled,
            };
            let is_news = *shown != next;
            *shown = next;
            is_news
        });
    }
}

impl Loaded {
    fn is_done(&self, version: FileVersion) -> bool {
        self.version == version && self.retry_at.is_none_or(|at| at > Instant::now())
    }
}

/// Whether the file is to blame, and not the state that the runtime is in.
fn is_of_the_file(error: &RuntimeError) -> bool {
    matches!(
        error.reason,
        RuntimeErrorReason::Failed | RuntimeErrorReason::NotFound
    )
}

/// Where there is no folder of archives: nothing is to be waited for.
pub(crate) fn none() -> watch::Receiver<ArchiveImages> {
    let images = ArchiveImages {
        settled: true,
        ..ArchiveImages::default()
    };
    watch::channel(images).1
}

fn archives(dir: &Path) -> io::Result<BTreeMap<PathBuf, FileVersion>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        if !is_archive(&entry.file_name().to_string_lossy()) {
            continue;
        }
        // Through links; one that leads nowhere, or is gone again, is nothing yet.
        let Ok(file) = fs::metadata(entry.path()) else {
            continue;
        };
        if file.is_file() {
            let version = FileVersion {
                inode: file.ino(),
                size: file.size(),
                changed: i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec()),
            };
            found.insert(std::path::absolute(entry.path())?, version);
        }
    }
    Ok(found)
}

/// Hidden files are what copy tools have not finished.
fn is_archive(name: &str) -> bool {
    let ends = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
    !name.starts_with('.') && ends.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests;
