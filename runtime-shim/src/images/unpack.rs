//! Layers into snapshots.

use futures::FutureExt as _;

use super::{Image, ImageError, Images, Result, config};
use crate::{
    containerd::{NewSnapshot, already_gone, already_there},
    ids::LeaseId,
    steps::timed,
};

impl Images {
    /// Unpacks every layer that no snapshot has yet, the lowest first.
    pub(super) async fn unpack(&self, image: &Image, lease: &LeaseId) -> Result<()> {
        let chain = config::chain_ids(&image.diff_ids);
        if chain.len() != image.layers.len() {
            return Err(ImageError::Malformed {
                what: image.id.clone(),
                problem: format!("{} layers, but {} diff ids", image.layers.len(), chain.len()),
            });
        }
        let top = chain.last().map(String::as_str).unwrap_or_default();
        if top.is_empty() || self.containerd.snapshot_exists(&self.snapshotter, top).await? {
            return Ok(());
        }
        for index in 0..chain.len() {
            let parent = if index == 0 { "" } else { chain[index - 1].as_str() };
            self.unpack_layer(image, index, parent, &chain[index], lease)
                .boxed()
                .await?;
        }
        Ok(())
    }

    async fn unpack_layer(
        &self,
        image: &Image,
        index: usize,
        parent: &str,
        name: &str,
        lease: &LeaseId,
    ) -> Result<()> {
        let flight = self.flight(name);
        let _alone = flight.lock().await;
        if self.containerd.snapshot_exists(&self.snapshotter, name).await? {
            return Ok(());
        }
        let key = format!("extract-{} {name}", LeaseId::random());
        let snapshot = NewSnapshot {
            snapshotter: &self.snapshotter,
            key: &key,
            parent,
            lease: Some(lease),
        };
        let mounts = self.containerd.prepare_snapshot(snapshot).await?;
        let layer = &image.layers[index];
        let unpacked = timed("unpack layer", self.containerd.apply(layer.into(), mounts, lease)).await;
        let verified = unpacked.map_err(ImageError::from).and_then(|applied| {
            let expected = &image.diff_ids[index];
            if applied.digest == *expected {
                return Ok(());
            }
            Err(ImageError::WrongLayer {
                layer: layer.digest.clone(),
                expected: expected.clone(),
                actual: applied.digest,
            })
        });
        if let Err(error) = verified {
            // Nothing must be built on half a layer.
            already_gone(self.containerd.remove_snapshot(&self.snapshotter, &key).await)?;
            return Err(error);
        }
        already_there(
            self.containerd
                .commit_snapshot(&self.snapshotter, &key, name)
                .await,
        )?;
        Ok(())
    }
}
