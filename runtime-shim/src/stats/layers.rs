//! What writable layers take on the disk.
//!
//! containerd measures a layer by walking it, so that each is measured at most once in [`MAX_AGE`], however often
//! someone asks, and one answer in between is the last measurement under its own time.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use clone8s::cri;
use tokio::time::timeout;

use super::some;
use crate::{container::Container, containerd::Usage, shim::Shim, table::lock, time::now_nanos};

const MAX_AGE: Duration = Duration::from_secs(10);
/// How long a measurement may hold up an answer. A containerd that hangs must not take CPU and memory with it.
const LIMIT: Duration = Duration::from_secs(2);

/// The last measurements, by container.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    known: Mutex<HashMap<String, Measured>>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    at: i64,
    usage: Usage,
}

impl Layers {
    /// For a container that is gone.
    pub(crate) fn forget(&self, container: &str) {
        lock(&self.known).remove(container);
    }

    fn known(&self, container: &str) -> Option<Measured> {
        lock(&self.known).get(container).copied()
    }
}

impl Shim {
    /// The writable layer as last measured; none where containerd has never told.
    pub(super) async fn layer_usage(&self, container: &Container) -> Option<cri::FilesystemUsage> {
        let id = container.id.as_str();
        let known = self.layers.known(id);
        let fresh = |known: &Measured| {
            now_nanos().saturating_sub(known.at) < i64::try_from(MAX_AGE.as_nanos()).unwrap_or(0)
        };
        let measured = match known.filter(fresh) {
            Some(known) => known,
            None => self.measure(id).await.or(known)?,
        };
        let Ok(Ok(mountpoint)) = timeout(LIMIT, self.images.snapshot_root()).await else {
            return None;
        };
        Some(cri::FilesystemUsage {
            timestamp: measured.at,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
            used_bytes: some(measured.usage.bytes),
            inodes_used: some(measured.usage.inodes),
        })
    }

    async fn measure(&self, id: &str) -> Option<Measured> {
        let asked = self.containerd.snapshot_usage(&self.config.snapshotter, id);
        let usage = match timeout(LIMIT, asked).await {
            Ok(Ok(usage)) => usage,
            Ok(Err(error)) => {
                tracing::debug!(container = id, %error, "writable layer not measured");
                return None;
            }
            Err(_) => {
                tracing::debug!(
                    container = id,
                    "containerd takes too long to measure the writable layer"
                );
                return None;
            }
        };
        let measured = Measured {
            at: now_nanos(),
            usage,
        };
        // One that was removed meanwhile must not stay here.
        if self.table.container(id).is_ok() {
            lock(&self.layers.known).insert(id.to_owned(), measured);
        }
        Some(measured)
    }
}
