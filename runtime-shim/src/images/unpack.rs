//! Layers into snapshots.
//!
//! containerd unpacks: as root of the snapshot's mounts, so that no name or link in a layer leads out of it.

use std::{collections::BTreeSet, time::Duration};

use futures::FutureExt as _;
use tokio::{sync::watch, time::Instant};

use super::{Image, ImageError, Images, Result, config, digest::Digest, progress::Pull};
use crate::{
    containerd::{NewSnapshot, already_gone, already_there},
    ids::LeaseId,
    steps::timed,
};

/// Between two looks at how much a layer has unpacked to, at the least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looking takes no more than so much of the time.
const LOOK_SHARE: u32 = 20;
/// No image has more files.
const INODES_LIMIT: u64 = 20_000_000;

/// Which blobs are here, told as they come.
#[derive(Debug, Default)]
pub(super) struct Arrivals(watch::Sender<BTreeSet<Digest>>);

impl Arrivals {
    pub(super) fn tell(&self, digest: &Digest) {
        self.0.send_modify(|here| {
            here.insert(digest.clone());
        });
    }

    pub(super) async fn wait(&self, digest: &Digest) {
        // Its sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|here| here.contains(digest)).await;
    }
}

/// One image being unpacked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unpacking<'a> {
    /// For errors.
    pub(super) name: &'a str,
    pub(super) image: &'a Image,
    pub(super) lease: &'a LeaseId,
    /// None when all blobs are here.
    pub(super) arrivals: Option<&'a Arrivals>,
    pub(super) progress: Option<&'a Pull>,
}

impl Images {
    /// Unpacks every layer that no snapshot has yet, the lowest first, each once its blob is here.
    pub(super) async fn unpack(&self, work: Unpacking<'_>) -> Result<()> {
        let chain = config::chain_ids(&work.image.diff_ids);
        let Some(top) = chain.last() else { return Ok(()) };
        if self.containerd.snapshot_exists(&self.snapshotter, top).await? {
            return Ok(());
        }
        let mut unpacked = 0;
        for (index, name) in chain.iter().enumerate() {
            let parent = index.checked_sub(1).map_or("", |below| chain[below].as_str());
            if let Some(arrivals) = work.arrivals {
                arrivals.wait(&work.image.layers[index].digest).await;
            }
            unpacked += self
                .unpack_layer(work, index, parent, name, unpacked)
                .boxed()
                .await?;
            if let Some(progress) = work.progress {
                progress.unpacked_one();
            }
        }
        Ok(())
    }

    /// The bytes that the layer unpacks to, 0 where it was unpacked already. `below` is that of the layers before.
    async fn unpack_layer(
        &self,
        work: Unpacking<'_>,
        index: usize,
        parent: &str,
        name: &Digest,
        below: u64,
    ) -> Result<u64> {
        let flight = self.flight(name);
        let _alone = flight.lock().await;
        if self.containerd.snapshot_exists(&self.snapshotter, name).await? {
            return Ok(0);
        }
        let key = format!("{} {name}", extraction(work.lease));
        // Of a pull that was broken off with this lease.
        already_gone(self.containerd.remove_snapshot(&self.snapshotter, &key).await)?;
        let snapshot = NewSnapshot {
            snapshotter: &self.snapshotter,
            key: &key,
            parent,
            lease: Some(work.lease),
        };
        let mounts = self.containerd.prepare_snapshot(snapshot).await?;
        let layer = &work.image.layers[index];
        let media_type = config::as_unpacked(layer).ok_or_else(|| ImageError::UnknownLayer {
            image: work.name.to_owned(),
            media_type: layer.media_type.clone(),
        })?;
        let descriptor = containerd_client::types::Descriptor {
            media_type: media_type.to_owned(),
            ..layer.into()
        };
        let applying = self.containerd.apply(descriptor, mounts, work.lease);
        let unpacked = tokio::select! {
            applied = timed("unpack layer", applying) => applied.map_err(ImageError::from),
            () = self.overflows(&key, below) => Err(self.too_large(work.name)),
        };
        let verified = unpacked.and_then(|applied| {
            let expected = &work.image.diff_ids[index];
            let size = applied.size.unsigned_abs();
            if applied.digest != expected.as_str() {
                return Err(ImageError::WrongLayer {
                    layer: layer.digest.to_string(),
                    expected: expected.to_string(),
                    actual: applied.digest,
                });
            }
            if below.saturating_add(size) > self.size_limit {
                return Err(self.too_large(work.name));
            }
            Ok(size)
        });
        let size = match verified {
            Ok(size) => size,
            Err(error) => {
                // Nothing must be built on half a layer.
                already_gone(self.containerd.remove_snapshot(&self.snapshotter, &key).await)?;
                return Err(error);
            }
        };
        already_there(
            self.containerd
                .commit_snapshot(&self.snapshotter, &key, name, work.lease)
                .await,
        )?;
        Ok(size)
    }

    /// Returns once an extraction takes more than is left of the limit: a small layer may unpack to a whole disk.
    async fn overflows(&self, key: &str, below: u64) {
        let mut pause = LOOK_EVERY;
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            if let Ok(usage) = self.containerd.snapshot_usage(&self.snapshotter, key).await
                && (below.saturating_add(usage.bytes) > self.size_limit || usage.inodes > INODES_LIMIT)
            {
                return;
            }
            pause = LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
        }
    }

    fn too_large(&self, name: &str) -> ImageError {
        ImageError::TooLarge {
            image: name.to_owned(),
            what: "unpacks to files".to_owned(),
            limit: self.size_limit,
        }
    }

    /// Removes half-unpacked layers of a pull that was broken off.
    pub(super) async fn discard_unpacking(&self, lease: &LeaseId) -> Result<()> {
        let prefix = extraction(lease);
        for name in self.containerd.list_snapshots(&self.snapshotter).await? {
            if name.starts_with(&prefix) {
                already_gone(self.containerd.remove_snapshot(&self.snapshotter, &name).await)?;
            }
        }
        Ok(())
    }
}

/// How the keys of a pull's extractions begin.
fn extraction(lease: &LeaseId) -> String {
    format!("{EXTRACTION}{lease}")
}

pub(super) const EXTRACTION: &str = "extract-";
