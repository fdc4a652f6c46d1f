//! containerd's container objects, over its socket.

use containerd_client::services::v1 as api;
use prost_types::FieldMask;

use super::{Grpc, call};
use crate::containerd::{Containers, Result};

#[async_trait::async_trait]
impl Containers for Grpc {
    async fn create_container(&self, container: api::Container) -> Result<()> {
        let id = container.id.clone();
        let request = api::CreateContainerRequest {
            container: Some(container),
        };
        call("create container", &id, self.containers().create(request))
            .await
            .map(drop)
    }

    async fn update_container(&self, container: api::Container, paths: &[&str]) -> Result<()> {
        let id = container.id.clone();
        let request = api::UpdateContainerRequest {
            container: Some(container),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }),
        };
        call("update container", &id, self.containers().update(request))
            .await
            .map(drop)
    }

    async fn get_container(&self, id: &str) -> Result<api::Container> {
        let request = api::GetContainerRequest { id: id.to_owned() };
        let reply = call("get container", id, self.containers().get(request)).await?;
        Ok(reply.container.unwrap_or_default())
    }

    async fn list_containers(&self) -> Result<Vec<api::Container>> {
        let request = api::ListContainersRequest::default();
        let reply = call(
            "list containers in",
            &self.namespace,
            self.containers().list(request),
        )
        .await?;
        Ok(reply.containers)
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        let request = api::DeleteContainerRequest { id: id.to_owned() };
        call("delete container", id, self.containers().delete(request)).await
    }
}
