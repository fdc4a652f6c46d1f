//! The blobs of the containerd in memory.

use std::collections::HashMap;

use bytes::Bytes;
use containerd_client::services::v1 as api;
use futures::StreamExt as _;

use super::Fake;
use crate::{
    containerd::{BlobStream, ContainerdError, Content, ErrorKind, NewBlob, Result},
    ids::LeaseId,
    images::Digest,
    table::lock,
};

#[async_trait::async_trait]
impl Content for Fake {
    async fn blob_exists(&self, digest: &str) -> Result<bool> {
        self.call("blob_exists", digest, |state| {
            Ok(state.blobs.contains_key(digest))
        })
        .await
    }

    async fn hold_blob(&self, lease: &LeaseId, digest: &str) -> Result<()> {
        self.call("hold_blob", digest, |state| state.hold_blob(lease, digest))
            .await
    }

    async fn set_blob_labels(&self, digest: &str, labels: HashMap<String, String>) -> Result<()> {
        self.call("set_blob_labels", digest, |state| {
            let blob = state.blobs.get_mut(digest).ok_or(ErrorKind::NotFound)?;
            blob.labels.extend(labels);
            Ok(())
        })
        .await
    }

    async fn read_blob(&self, digest: &str) -> Result<Bytes> {
        self.call("read_blob", digest, |state| {
            let blob = state.blobs.get(digest).ok_or(ErrorKind::NotFound)?;
            Ok(blob.data.clone())
        })
        .await
    }

    async fn partial_blob(&self, ingest: &str) -> Result<u64> {
        self.call("partial_blob", ingest, |state| {
            Ok(state.ingests.get(ingest).map_or(0, |part| part.len() as u64))
        })
        .await
    }

    async fn write_blob(&self, blob: NewBlob<'_>, mut data: BlobStream) -> Result<()> {
        // What arrives is kept, whether or not the commit follows.
        while let Some(part) = data.next().await {
            let part = part.map_err(|error| ContainerdError {
                call: "write_blob",
                what: blob.digest.to_owned(),
                kind: ErrorKind::Other,
                message: error.to_string(),
            })?;
            let mut state = lock(&self.state);
            let ingest = state.ingests.entry(blob.ingest.to_owned()).or_default();
            ingest.extend_from_slice(&part);
        }
        self.call("write_blob", blob.digest, |state| {
            let whole = state.ingests.remove(blob.ingest).unwrap_or_default();
            if whole.len() as u64 != blob.size || Digest::of(&whole).as_str() != blob.digest {
                return Err(ErrorKind::Other);
            }
            state.put_blob(blob.digest, whole.into(), blob.labels.clone());
            state.hold_blob(blob.lease, blob.digest)
        })
        .await
    }

    async fn abort_blob(&self, ingest: &str) -> Result<()> {
        self.call("abort_blob", ingest, |state| {
            state.ingests.remove(ingest);
            Ok(())
        })
        .await
    }

    async fn delete_blob(&self, digest: &str) -> Result<()> {
        self.call("delete_blob", digest, |state| {
            state.blobs.remove(digest).map(drop).ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn list_blobs(&self) -> Result<Vec<api::Info>> {
        self.call("list_blobs", "", |state| {
            Ok(state
                .blobs
                .iter()
                .map(|(digest, blob)| blob.info(digest))
                .collect())
        })
        .await
    }
}
