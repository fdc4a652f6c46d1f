//! The the names of images, and leases of the containerd in memory.

use containerd_client::services::v1 as api;

use super::{Fake, state};
use crate::{
    containerd::{ErrorKind, ImageRecords, Result},
    ids::LeaseId,
};

#[async_trait::async_trait]
impl ImageRecords for Fake {
    async fn list_images(&self) -> Result<Vec<api::Image>> {
        self.call("list_images", "", |state| {
            Ok(state.images.values().cloned().collect())
        })
        .await
    }

    async fn put_image(&self, image: api::Image) -> Result<()> {
        let name = image.name.clone();
        self.call("put_image", &name, |state| {
            state.images.insert(image.name.clone(), image);
            Ok(())
        })
        .await
    }

    async fn delete_image(&self, name: &str) -> Result<()> {
        self.call("delete_image", name, |state| {
            let removed = state.images.remove(name).map(drop).ok_or(ErrorKind::NotFound);
            state.collect_garbage();
            removed
        })
        .await
    }

    async fn create_lease(&self, lease: &LeaseId) -> Result<()> {
        self.call("create_lease", lease.as_str(), |state| {
            state.leases.insert(lease.to_string(), state::Lease::default());
            Ok(())
        })
        .await
    }

    async fn delete_lease(&self, lease: &LeaseId) -> Result<()> {
        self.call("delete_lease", lease.as_str(), |state| {
            state.leases.remove(lease.as_str());
            state.collect_garbage();
            Ok(())
        })
        .await
    }

    async fn list_leases(&self) -> Result<Vec<LeaseId>> {
        self.call("list_leases", "", |state| {
            Ok(state.leases.keys().map(|id| id.as_str().into()).collect())
        })
        .await
    }
}
