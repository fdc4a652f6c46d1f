//! A backup as a call answers with it, while the cluster goes on.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clone8s::v1::{BackUpStoreResponse, BackupHeader};
use clone8s_daemon::{Shutdown, clock};
use futures::{Stream, StreamExt as _, stream};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tonic::Status;

use super::records::Encoder;
use crate::{
    error::ApiError,
    pki::Pki,
    store::{Dump, EVERYTHING, Store},
    time::timestamp,
};

/// The most bytes of one message.
const MESSAGE: usize = 256 << 10;

/// A caller that takes nothing for so long is given up: the state that it reads is kept for it alone.
const PATIENCE: Duration = Duration::from_mins(1);

/// The file, in order.
pub(crate) async fn stream(
    store: &Arc<dyn Store>,
    pki: &Pki,
    shutdown: Shutdown,
) -> Result<impl Stream<Item = Result<BackUpStoreResponse, Status>> + use<>, ApiError> {
    let dump = store.dump(EVERYTHING).await?;
    let ca = pki.authority.pair();
    let header = BackupHeader {
        revision: dump.revision.0,
        creation_timestamp: Some(timestamp(clock::now())),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ca_certificate: ca.certificate,
        ca_key: ca.key,
    };
    // One waits for the caller, so that reading the store and sending go on side by side.
    let (sender, receiver) = mpsc::channel(1);
    let mut pump = JoinSet::new();
    pump.spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => Err(ApiError::Stopping),
            pumped = send(dump, header, sender) => pumped,
        }
    });
    Ok(stream::unfold(
        (receiver, pump),
        |(mut receiver, mut pump)| async {
            if let Some(data) = receiver.recv().await {
                return Some((Ok(BackUpStoreResponse { data }), (receiver, pump)));
            }
            let failed = match pump.join_next().await? {
                Ok(Ok(())) => return None,
                Ok(Err(error)) => error,
                Err(error) => ApiError::internal("backup", error),
            };
            Some((Err(failed.into()), (receiver, pump)))
        },
    ))
}

async fn send(mut dump: Dump, header: BackupHeader, sender: mpsc::Sender<Bytes>) -> Result<(), ApiError> {
    let (mut encoder, first) = Encoder::begin(header);
    send_bytes(first, &sender).await?;
    while let Some(part) = dump.parts.next().await {
        send_bytes(encoder.entries(part?), &sender).await?;
    }
    send_bytes(encoder.end(), &sender).await
}

async fn send_bytes(mut bytes: Bytes, sender: &mpsc::Sender<Bytes>) -> Result<(), ApiError> {
    while !bytes.is_empty() {
        let message = bytes.split_to(MESSAGE.min(bytes.len()));
        // A caller that has gone drops this task too.
        timeout(PATIENCE, sender.send(message))
            .await
            .map_err(|_| ApiError::BackupStalled)?
            .map_err(|_| ApiError::Stopping)?;
    }
    Ok(())
}
