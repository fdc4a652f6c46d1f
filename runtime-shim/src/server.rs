//! CRI over gRPC: unpacks requests, calls the shim, packs replies. Decides nothing.

mod archives;
mod images;
mod lists;
mod pulls;
mod runtime;

use std::{future::Future, sync::Arc};

use clone8s::{
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
    runtime::{
        image_archive_service_server::ImageArchiveServiceServer,
        image_pull_service_server::ImagePullServiceServer, streaming_service_server::StreamingServiceServer,
    },
};
use clone8s_daemon::{Shutdown, traces::server::TraceLayer};
use futures::stream::BoxStream;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Response, Status, transport::Server};
use tracing::Instrument as _;

use crate::{
    error::Error,
    shim::Shim,
    streams::{server::Streaming, service::Streams},
};

/// Specs and annotations of many containers in one list, and logs of an exec, outgrow gRPC's usual 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;

/// Both CRI services, and beside them the streams, the archives and the pulls, on one socket, until `shutdown`.
pub(crate) async fn serve(
    shim: Arc<Shim>,
    streaming: Arc<Streaming>,
    incoming: UnixListenerStream,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let streams = Streams {
        shim: Arc::clone(&shim),
    };
    let service = Cri {
        shim,
        streaming,
        shutdown: shutdown.clone(),
    };
    Server::builder()
        .layer(TraceLayer)
        .add_service(
            RuntimeServiceServer::new(service.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(StreamingServiceServer::new(streams))
        .add_service(ImageArchiveServiceServer::new(service.clone()))
        .add_service(ImagePullServiceServer::new(service.clone()))
        .add_service(ImageServiceServer::new(service).max_encoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
}

#[derive(Debug, Clone)]
pub(crate) struct Cri {
    pub(crate) shim: Arc<Shim>,
    pub(crate) streaming: Arc<Streaming>,
    pub(crate) shutdown: Shutdown,
}

type Parts<T> = BoxStream<'static, Result<T, Status>>;
type Reply<T> = Result<Response<T>, Status>;

/// Runs a call in a span of its own and records how long it took.
async fn answer<T>(
    call: &'static str,
    id: &str,
    operation: impl Future<Output = Result<T, Error>>,
) -> Reply<T> {
    let began = Instant::now();
    // On the heap: some calls' states are large, and a stack copy of each would be as well.
    let outcome = Box::pin(operation)
        .instrument(tracing::info_span!("cri", call, id))
        .await;
    let micros = began.elapsed().as_micros();
    match outcome {
        Ok(reply) => {
            tracing::debug!(call, id, micros, "answered");
            Ok(Response::new(reply))
        }
        // Expected of every caller while containerd starts; the link tells it once, with the reason.
        Err(error @ Error::NotReady(_)) => {
            tracing::debug!(call, id, micros, %error, "refused");
            Err(error.into())
        }
        Err(error) => {
            let status = Status::from(error);
            tracing::info!(call, id, micros, code = ?status.code(), error = status.message(), "refused");
            Err(status)
        }
    }
}
