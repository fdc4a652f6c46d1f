//! The container objects of the containerd in memory.

use containerd_client::services::v1 as api;

use super::Fake;
use crate::containerd::{Containers, ErrorKind, Result};

#[async_trait::async_trait]
impl Containers for Fake {
    async fn create_container(&self, container: api::Container) -> Result<()> {
        let id = container.id.clone();
        self.call("create_container", &id.clone(), |state| {
            if state.containers.contains_key(&id) {
                return Err(ErrorKind::AlreadyExists);
            }
            state.containers.insert(id, container);
            Ok(())
        })
        .await
    }

    async fn update_container(&self, change: api::Container, paths: &[&str]) -> Result<()> {
        let id = change.id.clone();
        self.call("update_container", &id, |state| {
            let object = state.containers.get_mut(&change.id).ok_or(ErrorKind::NotFound)?;
            for path in paths {
                match path.split_once('.') {
                    Some(("labels", key)) => {
                        let value = change.labels.get(key).cloned().unwrap_or_default();
                        object.labels.insert(key.to_owned(), value);
                    }
                    Some(("extensions", key)) => {
                        let value = change.extensions.get(key).cloned().unwrap_or_default();
                        object.extensions.insert(key.to_owned(), value);
                    }
                    _ if *path == "spec" => object.spec.clone_from(&change.spec),
                    _ => return Err(ErrorKind::Other),
                }
            }
            Ok(())
        })
        .await
    }

    async fn get_container(&self, id: &str) -> Result<api::Container> {
        self.call("get_container", id, |state| {
            state.containers.get(id).cloned().ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn list_containers(&self) -> Result<Vec<api::Container>> {
        self.call("list_containers", "", |state| {
            Ok(state.containers.values().cloned().collect())
        })
        .await
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        self.call("delete_container", id, |state| {
            state.containers.remove(id).map(drop).ok_or(ErrorKind::NotFound)
        })
        .await
    }
}
