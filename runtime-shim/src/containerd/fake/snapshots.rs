//! The snapshots and what is unpacked into them of the containerd in memory.

use std::io::Read as _;

use containerd_client::types::{Descriptor, Mount};

use super::{
    Fake, State,
    state::{self, Snapshot, SnapshotKind},
};
use crate::{
    containerd::{ErrorKind, NewSnapshot, Result, Snapshots, Usage},
    ids::LeaseId,
    images::Digest,
};

#[async_trait::async_trait]
impl Snapshots for Fake {
    async fn prepare_snapshot(&self, new: NewSnapshot<'_>) -> Result<Vec<Mount>> {
        self.call("prepare_snapshot", new.key, |state| add_snapshot(state, new))
            .await
    }

    async fn view_snapshot(&self, new: NewSnapshot<'_>) -> Result<Vec<Mount>> {
        self.call("view_snapshot", new.key, |state| add_snapshot(state, new))
            .await
    }

    async fn snapshot_mounts(&self, _: &str, key: &str) -> Result<Vec<Mount>> {
        self.call("snapshot_mounts", key, |state| {
            state
                .snapshots
                .get(key)
                .map(|_| vec![state::mount()])
                .ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn commit_snapshot(&self, _: &str, key: &str, name: &str, _: &LeaseId) -> Result<()> {
        self.call("commit_snapshot", name, |state| {
            if state.snapshots.contains_key(name) {
                return Err(ErrorKind::AlreadyExists);
            }
            let mut snapshot = state.snapshots.remove(key).ok_or(ErrorKind::NotFound)?;
            snapshot.kind = SnapshotKind::Committed;
            state.snapshots.insert(name.to_owned(), snapshot);
            for lease in state.leases.values_mut() {
                if lease.snapshots.remove(key) {
                    lease.snapshots.insert(name.to_owned());
                }
            }
            Ok(())
        })
        .await
    }

    async fn remove_snapshot(&self, _: &str, key: &str) -> Result<()> {
        self.call("remove_snapshot", key, |state| {
            if state.snapshots.values().any(|other| other.parent == key) {
                return Err(ErrorKind::WrongState);
            }
            state.snapshots.remove(key).map(drop).ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn snapshot_exists(&self, _: &str, key: &str) -> Result<bool> {
        self.call("snapshot_exists", key, |state| {
            Ok(state.snapshots.contains_key(key))
        })
        .await
    }

    async fn snapshot_usage(&self, _: &str, key: &str) -> Result<Usage> {
        self.call("snapshot_usage", key, |state| {
            state
                .snapshots
                .get(key)
                .map(|_| Usage::default())
                .ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn snapshotter_root(&self, _: &str) -> Result<String> {
        Ok("/fake".into())
    }

    async fn list_snapshots(&self, _: &str) -> Result<Vec<String>> {
        self.call("list_snapshots", "", |state| {
            Ok(state.snapshots.keys().cloned().collect())
        })
        .await
    }

    async fn apply(&self, diff: Descriptor, _: Vec<Mount>, _: &LeaseId) -> Result<Descriptor> {
        let digest = diff.digest.clone();
        self.call("apply", &digest, |state| {
            let blob = state.blobs.get(&diff.digest).ok_or(ErrorKind::NotFound)?;
            let mut plain = Vec::new();
            if diff.media_type.ends_with("gzip") {
                flate2::read::MultiGzDecoder::new(&*blob.data)
                    .read_to_end(&mut plain)
                    .map_err(|_| ErrorKind::Other)?;
            } else {
                plain.extend_from_slice(&blob.data);
            }
            Ok(Descriptor {
                digest: Digest::of(&plain).into(),
                ..Default::default()
            })
        })
        .await
    }
}

/// Both kinds can only be mounted or removed.
fn add_snapshot(state: &mut State, new: NewSnapshot<'_>) -> Result<Vec<Mount>, ErrorKind> {
    if state.snapshots.contains_key(new.key) {
        return Err(ErrorKind::AlreadyExists);
    }
    let is_committed = |parent: &Snapshot| parent.kind == SnapshotKind::Committed;
    if !new.parent.is_empty() && !state.snapshots.get(new.parent).is_some_and(is_committed) {
        return Err(ErrorKind::NotFound);
    }
    state.hold_snapshot(new.lease, new.key)?;
    let snapshot = Snapshot {
        parent: new.parent.to_owned(),
        kind: SnapshotKind::Active,
    };
    state.snapshots.insert(new.key.to_owned(), snapshot);
    Ok(vec![state::mount()])
}
