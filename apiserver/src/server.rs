//! The gRPC server on the unix socket and on TLS.

use std::{sync::Arc, time::Duration};

use clone8s_daemon::{Shutdown, traces::server::TraceLayer};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_web::GrpcWebLayer;

use crate::{
    door::DoorLayer,
    gathering,
    metrics::{self, Metrics},
    on_first_call::OnFirstCall,
    services::{self, Backend},
};

/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A connection may carry this many calls at once, open watches among them.
const STREAMS_PER_CONNECTION: u32 = 1_000;

/// Bytes that a call may have sent and that nobody has read. What stands still, as an exec whose caller reads nothing,
/// keeps so much of its connection's room and no more: there is enough for 256 such calls beside those that go on.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Everything that one server answers to.
pub(crate) fn routes(backend: &Arc<Backend>, health: HealthServer<impl Health>) -> Routes {
    services::routes(backend)
        .add_service(health)
        .add_service(OnFirstCall::new(|| {
            reflection().build_v1().expect("the contracts are whole")
        }))
        .add_service(OnFirstCall::new(|| {
            reflection().build_v1alpha().expect("the contracts are whole")
        }))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(described())
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Errors carry these: without them grpcurl shows bytes.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// What is served here: CRI and the streams beside it are another program's.
fn described() -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(clone8s::FILE_DESCRIPTOR_SET).unwrap_or_default();
    set.file
        .retain(|file| !matches!(file.package(), "runtime.v1" | "clone8s.runtime.v1"));
    set
}

/// Serves until shutdown; then takes no new connection, and ends once the open calls have ended.
pub(crate) async fn serve<I, E>(
    routes: Routes,
    incoming: impl futures::Stream<Item = Result<I, E>>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error>
where
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Server::builder()
        // gRPC-Web comes over HTTP/1.1 too.
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .layer(GrpcWebLayer::new())
        .layer(TraceLayer)
        .layer(DoorLayer::new(metrics))
        .add_routes(routes)
        .serve_with_incoming_shutdown(gathering::all(incoming), shutdown.cancelled_owned())
        .await
}

/// Serves the metrics until shutdown, to whoever can connect: they name calls and counts, nothing else.
pub(crate) async fn serve_metrics(
    metrics: Arc<Metrics>,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .accept_http1(true)
        .add_routes(metrics::routes(metrics))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.cancelled_owned())
        .await
}
