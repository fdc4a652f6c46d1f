//! ImageFsInfo: what images and containers take on the disk.

use clone8s::cri;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Images, Result, unpack::EXTRACTION};
use crate::{
    containerd::{Usage, already_gone},
    table::lock,
    time::now_nanos,
};

/// How many snapshots are measured at a time.
const AT_ONCE: usize = 8;

impl Images {
    /// The folder of the snapshotter, asked for once; empty until containerd has told it.
    pub(crate) async fn snapshot_root(&self) -> Result<String> {
        if let Some(known) = self.snapshot_root.get() {
            return Ok(known.clone());
        }
        let root = self.containerd.snapshotter_root(&self.snapshotter).await?;
        Ok(self.snapshot_root.get_or_init(|| root).clone())
    }

    pub(crate) async fn file_system(&self) -> Result<cri::ImageFsInfoResponse> {
        let mountpoint = self.snapshot_root().await?;
        let names = self.containerd.list_snapshots(&self.snapshotter).await?;
        // Layers have the digests of their content as names, and those that are being unpacked one of their own; the
        // other snapshots are containers'.
        let (layers, containers): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| name.starts_with("sha256:") || name.starts_with(EXTRACTION));
        let at = now_nanos();
        let images = self.measure(layers).await?;
        let writable = self.measure(containers).await?;
        let usage = |usage: Usage| cri::FilesystemUsage {
            timestamp: at,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: mountpoint.clone(),
            }),
            used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
            inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
        };
        Ok(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage(images)],
            container_filesystems: vec![usage(writable)],
        })
    }

    async fn measure(&self, names: Vec<String>) -> Result<Usage> {
        let mut measurements = Vec::with_capacity(names.len());
        for name in names {
            measurements.push(self.measure_one(name));
        }
        let all = stream::iter(measurements).buffer_unordered(AT_ONCE);
        all.try_fold(Usage::default(), async |sum, one| {
            Ok(Usage {
                bytes: sum.bytes + one.bytes,
                inodes: sum.inodes + one.inodes,
            })
        })
        .await
    }

    async fn measure_one(&self, name: String) -> Result<Usage> {
        if let Some(known) = lock(&self.layer_usage).get(&name) {
            return Ok(*known);
        }
        // One that goes meanwhile takes nothing.
        let usage = already_gone(self.containerd.snapshot_usage(&self.snapshotter, &name).await)?;
        // A layer never changes, so that it is measured once.
        if name.starts_with("sha256:") {
            lock(&self.layer_usage).insert(name, usage);
        }
        Ok(usage)
    }
}
