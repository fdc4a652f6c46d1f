//! containerd's snapshots and what is unpacked into them, over its socket.

use containerd_client::{
    services::v1::{
        self as api, diff_client::DiffClient, introspection_client::IntrospectionClient, snapshots as snap,
    },
    types::{Descriptor, Mount},
};
use futures::TryStreamExt as _;

use super::{Grpc, call, failure, leased};
use crate::{
    containerd::{NewSnapshot, Result, Snapshots, Usage, already_gone},
    ids::LeaseId,
};

#[async_trait::async_trait]
impl Snapshots for Grpc {
    async fn prepare_snapshot(&self, snapshot: NewSnapshot<'_>) -> Result<Vec<Mount>> {
        let request = snap::PrepareSnapshotRequest {
            snapshotter: snapshot.snapshotter.to_owned(),
            key: snapshot.key.to_owned(),
            parent: snapshot.parent.to_owned(),
            ..Default::default()
        };
        let reply = self.snapshots().prepare(leased(request, snapshot.lease)).await;
        Ok(call("prepare snapshot", snapshot.key, async { reply })
            .await?
            .mounts)
    }

    async fn view_snapshot(&self, snapshot: NewSnapshot<'_>) -> Result<Vec<Mount>> {
        let request = snap::ViewSnapshotRequest {
            snapshotter: snapshot.snapshotter.to_owned(),
            key: snapshot.key.to_owned(),
            parent: snapshot.parent.to_owned(),
            ..Default::default()
        };
        let reply = self.snapshots().view(leased(request, snapshot.lease)).await;
        Ok(call("view snapshot", snapshot.key, async { reply }).await?.mounts)
    }

    async fn snapshot_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<Mount>> {
        let request = snap::MountsRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        Ok(
            call("get mounts of snapshot", key, self.snapshots().mounts(request))
                .await?
                .mounts,
        )
    }

    async fn commit_snapshot(&self, snapshotter: &str, key: &str, name: &str, lease: &LeaseId) -> Result<()> {
        let request = snap::CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        let commit = async { self.snapshots().commit(leased(request, Some(lease))).await };
        call("commit snapshot", name, commit).await
    }

    async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()> {
        let request = snap::RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        call("remove snapshot", key, self.snapshots().remove(request)).await
    }

    async fn snapshot_exists(&self, snapshotter: &str, key: &str) -> Result<bool> {
        let request = snap::StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let found = call("look for snapshot", key, self.snapshots().stat(request)).await;
        already_gone(found.map(|_| true))
    }

    async fn snapshot_usage(&self, snapshotter: &str, key: &str) -> Result<Usage> {
        let request = snap::UsageRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let reply = call("measure snapshot", key, self.snapshots().usage(request)).await?;
        Ok(Usage {
            bytes: reply.size.unsigned_abs(),
            inodes: reply.inodes.unsigned_abs(),
        })
    }

    async fn snapshotter_root(&self, snapshotter: &str) -> Result<String> {
        let mut client = IntrospectionClient::new(self.service.clone());
        let request = api::PluginsRequest {
            filters: vec![format!("type==io.containerd.snapshotter.v1,id=={snapshotter}")],
        };
        let reply = call("find snapshotter", snapshotter, client.plugins(request)).await?;
        let root = reply
            .plugins
            .into_iter()
            .find_map(|mut plugin| plugin.exports.remove("root"));
        Ok(root.unwrap_or_default())
    }

    async fn list_snapshots(&self, snapshotter: &str) -> Result<Vec<String>> {
        let request = snap::ListSnapshotsRequest {
            snapshotter: snapshotter.to_owned(),
            ..Default::default()
        };
        let parts = call("list snapshots of", snapshotter, self.snapshots().list(request)).await?;
        parts
            .map_ok(|part| part.info.into_iter().map(|info| info.name).collect::<Vec<_>>())
            .try_concat()
            .await
            .map_err(|status| failure("list snapshots of", snapshotter, &status))
    }

    async fn apply(&self, diff: Descriptor, mounts: Vec<Mount>, lease: &LeaseId) -> Result<Descriptor> {
        let digest = diff.digest.clone();
        let request = api::ApplyRequest {
            diff: Some(diff),
            mounts,
            ..Default::default()
        };
        let mut client = DiffClient::new(self.service.clone());
        let reply = call(
            "unpack layer",
            &digest,
            client.apply(leased(request, Some(lease))),
        )
        .await?;
        Ok(reply.applied.unwrap_or_default())
    }
}
