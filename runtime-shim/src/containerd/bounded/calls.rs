//! Each call with its limit.

use std::collections::HashMap;

use bytes::Bytes;
use containerd_client::{
    services::v1 as api,
    types::{Descriptor, Mount, v1::Process},
};
use prost_types::Any;

use super::Bounded;
use crate::{
    containerd::{
        BlobStream, Containerd, Containers, Content, ImageRecords, NewBlob, NewSnapshot, ProcessExit, Result,
        Snapshots, Tasks, Usage,
    },
    ids::LeaseId,
};

#[async_trait::async_trait]
impl<C: Containerd> Containers for Bounded<C> {
    async fn create_container(&self, container: api::Container) -> Result<()> {
        let id = container.id.clone();
        self.record("create container", &id, self.inner.create_container(container))
            .await
    }

    async fn update_container(&self, container: api::Container, paths: &[&str]) -> Result<()> {
        let id = container.id.clone();
        self.record(
            "update container",
            &id,
            self.inner.update_container(container, paths),
        )
        .await
    }

    async fn get_container(&self, id: &str) -> Result<api::Container> {
        self.record("get container", id, self.inner.get_container(id))
            .await
    }

    async fn list_containers(&self) -> Result<Vec<api::Container>> {
        self.record("list", "containers", self.inner.list_containers())
            .await
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        self.record("delete container", id, self.inner.delete_container(id))
            .await
    }
}

#[async_trait::async_trait]
impl<C: Containerd> Tasks for Bounded<C> {
    async fn create_task(&self, request: api::CreateTaskRequest) -> Result<u32> {
        let id = request.container_id.clone();
        self.task("create task of", &id, self.inner.create_task(request))
            .await
    }

    async fn start(&self, container: &str, exec: Option<&str>) -> Result<u32> {
        self.task("start task of", container, self.inner.start(container, exec))
            .await
    }

    async fn kill(&self, container: &str, exec: Option<&str>, signal: u32) -> Result<()> {
        self.task(
            "signal task of",
            container,
            self.inner.kill(container, exec, signal),
        )
        .await
    }

    async fn kill_all(&self, container: &str) -> Result<()> {
        self.task("kill task of", container, self.inner.kill_all(container))
            .await
    }

    async fn checkpoint_task(&self, container: &str, options: Any) -> Result<()> {
        self.content(
            "checkpoint task of",
            container,
            self.inner.checkpoint_task(container, options),
        )
        .await
    }

    async fn list_tasks(&self) -> Result<Vec<Process>> {
        self.task("list", "tasks", self.inner.list_tasks()).await
    }

    async fn delete_task(&self, container: &str) -> Result<ProcessExit> {
        self.task("delete task of", container, self.inner.delete_task(container))
            .await
    }

    async fn exec(&self, request: api::ExecProcessRequest) -> Result<()> {
        let id = request.container_id.clone();
        self.task("prepare a process in", &id, self.inner.exec(request))
            .await
    }

    async fn wait(&self, container: &str, exec: Option<&str>) -> Result<ProcessExit> {
        // A process runs as long as it likes; its caller knows how long that may be.
        self.inner.wait(container, exec).await
    }

    async fn delete_process(&self, container: &str, exec: &str) -> Result<ProcessExit> {
        self.task(
            "delete a process of",
            container,
            self.inner.delete_process(container, exec),
        )
        .await
    }

    async fn close_stdin(&self, container: &str, exec: Option<&str>) -> Result<()> {
        self.task(
            "close the input of a process of",
            container,
            self.inner.close_stdin(container, exec),
        )
        .await
    }

    async fn resize(&self, container: &str, exec: Option<&str>, width: u32, height: u32) -> Result<()> {
        self.task(
            "resize the terminal of a process of",
            container,
            self.inner.resize(container, exec, width, height),
        )
        .await
    }

    async fn update_task(&self, container: &str, resources: Any) -> Result<()> {
        self.task(
            "update task of",
            container,
            self.inner.update_task(container, resources),
        )
        .await
    }
}

#[async_trait::async_trait]
impl<C: Containerd> Snapshots for Bounded<C> {
    async fn prepare_snapshot(&self, snapshot: NewSnapshot<'_>) -> Result<Vec<Mount>> {
        self.record(
            "prepare snapshot",
            snapshot.key,
            self.inner.prepare_snapshot(snapshot),
        )
        .await
    }

    async fn view_snapshot(&self, snapshot: NewSnapshot<'_>) -> Result<Vec<Mount>> {
        self.record("view snapshot", snapshot.key, self.inner.view_snapshot(snapshot))
            .await
    }

    async fn snapshot_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<Mount>> {
        self.record(
            "get mounts of snapshot",
            key,
            self.inner.snapshot_mounts(snapshotter, key),
        )
        .await
    }

    async fn commit_snapshot(&self, snapshotter: &str, key: &str, name: &str, lease: &LeaseId) -> Result<()> {
        // Commits measure the layer, file by file.
        self.content(
            "commit snapshot",
            name,
            self.inner.commit_snapshot(snapshotter, key, name, lease),
        )
        .await
    }

    async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()> {
        self.task(
            "remove snapshot",
            key,
            self.inner.remove_snapshot(snapshotter, key),
        )
        .await
    }

    async fn snapshot_exists(&self, snapshotter: &str, key: &str) -> Result<bool> {
        self.record(
            "look for snapshot",
            key,
            self.inner.snapshot_exists(snapshotter, key),
        )
        .await
    }

    async fn snapshot_usage(&self, snapshotter: &str, key: &str) -> Result<Usage> {
        self.task(
            "measure snapshot",
            key,
            self.inner.snapshot_usage(snapshotter, key),
        )
        .await
    }

    async fn snapshotter_root(&self, snapshotter: &str) -> Result<String> {
        self.record(
            "find snapshotter",
            snapshotter,
            self.inner.snapshotter_root(snapshotter),
        )
        .await
    }

    async fn list_snapshots(&self, snapshotter: &str) -> Result<Vec<String>> {
        self.record(
            "list snapshots of",
            snapshotter,
            self.inner.list_snapshots(snapshotter),
        )
        .await
    }

    async fn apply(&self, diff: Descriptor, mounts: Vec<Mount>, lease: &LeaseId) -> Result<Descriptor> {
        let digest = diff.digest.clone();
        self.content("unpack layer", &digest, self.inner.apply(diff, mounts, lease))
            .await
    }
}

#[async_trait::async_trait]
impl<C: Containerd> Content for Bounded<C> {
    async fn blob_exists(&self, digest: &str) -> Result<bool> {
        self.record("look for blob", digest, self.inner.blob_exists(digest))
            .await
    }

    async fn hold_blob(&self, lease: &LeaseId, digest: &str) -> Result<()> {
        self.record("hold blob", digest, self.inner.hold_blob(lease, digest))
            .await
    }

    async fn set_blob_labels(&self, digest: &str, labels: HashMap<String, String>) -> Result<()> {
        self.record("label blob", digest, self.inner.set_blob_labels(digest, labels))
            .await
    }

    async fn read_blob(&self, digest: &str) -> Result<Bytes> {
        self.record("read blob", digest, self.inner.read_blob(digest))
            .await
    }

    async fn partial_blob(&self, ingest: &str) -> Result<u64> {
        self.record("look for a part of blob", ingest, self.inner.partial_blob(ingest))
            .await
    }

    async fn write_blob(&self, blob: NewBlob<'_>, data: BlobStream) -> Result<()> {
        let digest = blob.digest;
        self.content("write blob", digest, self.inner.write_blob(blob, data))
            .await
    }

    async fn abort_blob(&self, ingest: &str) -> Result<()> {
        self.record("abort writing blob", ingest, self.inner.abort_blob(ingest))
            .await
    }

    async fn delete_blob(&self, digest: &str) -> Result<()> {
        self.record("delete blob", digest, self.inner.delete_blob(digest))
            .await
    }

    async fn list_blobs(&self) -> Result<Vec<api::Info>> {
        self.record("list", "blobs", self.inner.list_blobs()).await
    }
}

#[async_trait::async_trait]
impl<C: Containerd> ImageRecords for Bounded<C> {
    async fn list_images(&self) -> Result<Vec<api::Image>> {
        self.record("list", "images", self.inner.list_images()).await
    }

    async fn put_image(&self, image: api::Image) -> Result<()> {
        let name = image.name.clone();
        self.record("put image", &name, self.inner.put_image(image)).await
    }

    async fn delete_image(&self, name: &str) -> Result<()> {
        self.content("delete image", name, self.inner.delete_image(name))
            .await
    }

    async fn create_lease(&self, lease: &LeaseId) -> Result<()> {
        self.record("create lease", lease.as_str(), self.inner.create_lease(lease))
            .await
    }

    async fn delete_lease(&self, lease: &LeaseId) -> Result<()> {
        self.record("delete lease", lease.as_str(), self.inner.delete_lease(lease))
            .await
    }

    async fn list_leases(&self) -> Result<Vec<LeaseId>> {
        self.record("list", "leases", self.inner.list_leases()).await
    }
}
