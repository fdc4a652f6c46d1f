//! containerd's the names of images, and leases, over its socket.

use std::{collections::HashMap, time::Duration};

use containerd_client::services::v1 as api;
use prost_types::FieldMask;

use super::{Grpc, call};
use crate::{
    containerd::{ErrorKind, ImageRecords, Result, already_gone},
    ids::LeaseId,
};

#[async_trait::async_trait]
impl ImageRecords for Grpc {
    async fn list_images(&self) -> Result<Vec<api::Image>> {
        let request = api::ListImagesRequest::default();
        Ok(
            call("list images in", &self.namespace, self.images().list(request))
                .await?
                .images,
        )
    }

    async fn put_image(&self, image: api::Image) -> Result<()> {
        let name = image.name.clone();
        let create = api::CreateImageRequest {
            image: Some(image.clone()),
            ..Default::default()
        };
        match call("create image", &name, self.images().create(create)).await {
            Err(error) if error.kind == ErrorKind::AlreadyExists => {}
            other => return other.map(drop),
        }
        let labels = image.labels.keys().map(|key| format!("labels.{key}"));
        let paths = std::iter::once("target".to_owned()).chain(labels).collect();
        let update = api::UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask { paths }),
            ..Default::default()
        };
        call("update image", &name, self.images().update(update))
            .await
            .map(drop)
    }

    async fn delete_image(&self, name: &str) -> Result<()> {
        let request = api::DeleteImageRequest {
            name: name.to_owned(),
            sync: true,
            ..Default::default()
        };
        call("delete image", name, self.images().delete(request)).await
    }

    async fn create_lease(&self, lease: &LeaseId) -> Result<()> {
        // A lease that its maker never deletes, being killed, must not hold its garbage for ever.
        let expiry = jiff::Timestamp::try_from(clone8s_daemon::clock::now() + Duration::from_hours(24))
            .map(|at| at.to_string())
            .unwrap_or_default();
        let request = api::CreateRequest {
            id: lease.to_string(),
            labels: HashMap::from([("containerd.io/gc.expire".to_owned(), expiry)]),
        };
        call("create lease", lease.as_str(), self.leases().create(request))
            .await
            .map(drop)
    }

    async fn delete_lease(&self, lease: &LeaseId) -> Result<()> {
        let request = api::DeleteRequest {
            id: lease.to_string(),
            sync: false,
        };
        already_gone(call("delete lease", lease.as_str(), self.leases().delete(request)).await)
    }

    async fn list_leases(&self) -> Result<Vec<LeaseId>> {
        let request = api::ListRequest::default();
        let reply = call("list leases in", &self.namespace, self.leases().list(request)).await?;
        Ok(reply.leases.into_iter().map(|lease| lease.id.into()).collect())
    }
}
