//! containerd's blobs, over its socket.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::{self as api, WriteAction};
use futures::{StreamExt as _, TryStreamExt as _};
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Grpc, call, failure, leased};
use crate::{
    containerd::{BlobStream, Content, ErrorKind, NewBlob, Result, already_gone},
    ids::LeaseId,
};

/// Well under containerd's own limit for a message, 16 MiB.
const WRITE_CHUNK: usize = 512 << 10;
const MAX_SMALL_BLOB: usize = 8 << 20;

/// The name under which a blob is being written.
fn ingest_ref(ingest: &str) -> String {
    format!("clone8s-{ingest}")
}

#[async_trait::async_trait]
impl Content for Grpc {
    async fn blob_exists(&self, digest: &str) -> Result<bool> {
        let request = api::InfoRequest {
            digest: digest.to_owned(),
        };
        let found = call("look for blob", digest, self.content().info(request)).await;
        already_gone(found.map(|_| true))
    }

    async fn hold_blob(&self, lease: &LeaseId, digest: &str) -> Result<()> {
        let request = api::AddResourceRequest {
            id: lease.to_string(),
            resource: Some(api::Resource {
                id: digest.to_owned(),
                r#type: "content".to_owned(),
            }),
        };
        call("hold blob", digest, self.leases().add_resource(request)).await
    }

    async fn set_blob_labels(&self, digest: &str, labels: HashMap<String, String>) -> Result<()> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let request = api::UpdateRequest {
            info: Some(api::Info {
                digest: digest.to_owned(),
                labels,
                ..Default::default()
            }),
            update_mask: Some(FieldMask { paths }),
        };
        call("label blob", digest, self.content().update(request))
            .await
            .map(drop)
    }

    async fn read_blob(&self, digest: &str) -> Result<Bytes> {
        let request = api::ReadContentRequest {
            digest: digest.to_owned(),
            ..Default::default()
        };
        let mut parts = call("read blob", digest, self.content().read(request)).await?;
        let mut blob = BytesMut::new();
        while let Some(part) = parts.next().await {
            blob.extend_from_slice(&part.map_err(|status| failure("read blob", digest, &status))?.data);
            if blob.len() > MAX_SMALL_BLOB {
                let status = Status::out_of_range("over 8 MiB, which no manifest or configuration needs");
                return Err(failure("read blob", digest, &status));
            }
        }
        Ok(blob.freeze())
    }

    async fn partial_blob(&self, ingest: &str) -> Result<u64> {
        let request = api::StatusRequest {
            r#ref: ingest_ref(ingest),
        };
        let found = call("look for a part of blob", ingest, self.content().status(request)).await;
        already_gone(found.map(|reply| reply.status.map_or(0, |status| status.offset.unsigned_abs())))
    }

    async fn write_blob(&self, blob: NewBlob<'_>, data: BlobStream) -> Result<()> {
        let broken = |message: String| failure("write blob", blob.digest, &Status::aborted(message));
        let (sender, receiver) = mpsc::channel(2);
        let produce = async {
            let head = api::WriteContentRequest {
                action: WriteAction::Write.into(),
                r#ref: ingest_ref(blob.ingest),
                total: blob.size.cast_signed(),
                expected: blob.digest.to_owned(),
                ..Default::default()
            };
            let mut offset = blob.offset;
            let mut data = data;
            let mut chunk = Vec::with_capacity(WRITE_CHUNK);
            loop {
                let part = data.next().await;
                if let Some(Ok(part)) = &part {
                    chunk.extend_from_slice(part);
                }
                // Each message is answered, so that few and large ones are faster.
                let ends = !matches!(part, Some(Ok(_)));
                while chunk.len() >= WRITE_CHUNK || ends && !chunk.is_empty() {
                    let rest = chunk.split_off(chunk.len().min(WRITE_CHUNK));
                    let length = chunk.len() as u64;
                    let request = api::WriteContentRequest {
                        offset: offset.cast_signed(),
                        data: std::mem::replace(&mut chunk, rest),
                        ..head.clone()
                    };
                    // A closed channel means that containerd has answered already: its answer is the result.
                    if sender.send(request).await.is_err() {
                        return Ok(());
                    }
                    offset += length;
                }
                match part {
                    Some(Ok(_)) => {}
                    // What came before the break is kept for the next attempt.
                    Some(Err(error)) => return Err(broken(error.to_string())),
                    None => break,
                }
            }
            let commit = api::WriteContentRequest {
                action: WriteAction::Commit.into(),
                offset: offset.cast_signed(),
                labels: blob.labels.clone(),
                ..head
            };
            let _ = sender.send(commit).await;
            drop(sender);
            Ok(())
        };
        let consume = async {
            let mut client = self.content();
            let request = leased(ReceiverStream::new(receiver), Some(blob.lease));
            let mut replies = call("write blob", blob.digest, client.write(request)).await?;
            let mut committed = false;
            while let Some(reply) = replies.next().await {
                let reply = reply.map_err(|status| failure("write blob", blob.digest, &status))?;
                committed |= reply.action() == WriteAction::Commit;
            }
            Ok(committed)
        };
        let (produced, consumed): (Result<()>, Result<bool>) = tokio::join!(produce, consume);
        match consumed {
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(()),
            // The reason why the data broke off says more than containerd's view of it.
            Err(error) => produced.and(Err(error)),
            Ok(true) => produced,
            Ok(false) => produced.and(Err(broken(
                "containerd ended the stream before the commit".into(),
            ))),
        }
    }

    async fn abort_blob(&self, ingest: &str) -> Result<()> {
        let request = api::AbortRequest {
            r#ref: ingest_ref(ingest),
        };
        already_gone(call("abort writing blob", ingest, self.content().abort(request)).await)
    }

    async fn delete_blob(&self, digest: &str) -> Result<()> {
        let request = api::DeleteContentRequest {
            digest: digest.to_owned(),
        };
        call("delete blob", digest, self.content().delete(request)).await
    }

    async fn list_blobs(&self) -> Result<Vec<api::Info>> {
        let request = api::ListContentRequest::default();
        let parts = call("list blobs in", &self.namespace, self.content().list(request)).await?;
        parts
            .map_ok(|part| part.info)
            .try_concat()
            .await
            .map_err(|status| failure("list blobs in", &self.namespace, &status))
    }
}
