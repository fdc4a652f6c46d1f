//! CRI v1 on containerd's native API.
//!
//! ```text
//! CRI client ──gRPC on a unix socket──► server ──► Shim ──► Containerd (containers, tasks, snapshots, content)
//!                                                   ├─────► pinned namespaces; a bridge by netlink, or CNI plugins
//!                                                   └─────► log files, fed from FIFOs
//! link: connect ─► recover ─► ready ─(events end)─► connect …
//! ```
//!
//! containerd keeps all state: a sandbox is a container object without a task, a container an object with one, and
//! what CRI says about them is in the objects' extensions. [`shim::Shim`] holds a copy in memory that [`link`]
//! reads back at the start and after every break.

mod cdi;
mod cgroups;
mod checkpoint;
mod config;
mod container;
mod containerd;
mod devices;
mod error;
mod events;
mod exec;
#[cfg(test)]
mod faults;
mod features;
mod filter;
mod handlers;
mod host;
mod ids;
mod images;
mod kernel;
mod link;
mod logs;
mod network;
mod oci;
mod pins;
mod programs;
mod record;
mod recover;
mod roles;
mod runtime_options;
mod sandbox;
mod server;
mod shim;
mod spdy;
mod staging;
mod stats;
mod status;
mod steps;
mod streams;
mod table;
mod teardown;
mod time;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clone8s_daemon::{Shutdown, Supervisor, supervisor::SupervisorError, unix};

pub use crate::config::{
    Config, ImagesConfig, NetworkConfig, PodRanges, RuntimeHandler, StreamConfig, StreamTls,
};
pub use crate::containerd::{ContainerdError, ErrorKind};
pub use crate::images::{ImageError, ImageName};
pub use crate::roles::run_if_asked;
pub use crate::teardown::{PulledImages, teardown};
use crate::{
    containerd::{Bounded, Containerd as _, Grpc, Limits},
    handlers::DefaultHandler,
    images::Images,
    shim::Shim,
    streams::server::{ServerError, Streaming},
};
pub use clone8s_task_shim as task_shim;

/// How long calls in progress may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Why a shim could not start, or stopped other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("runtime-shim: bad configuration: {0}")]
    Config(String),
    #[error("runtime-shim: cannot serve CRI")]
    Listen(#[from] unix::ListenError),
    #[error("runtime-shim: cannot make folder {path}; is the file system writable?", path = .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("runtime-shim: cannot serve streams")]
    Streams(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("runtime-shim: cannot use containerd")]
    Containerd(#[from] ContainerdError),
    #[error("runtime-shim teardown: left behind: {0}; mend what they tell and run it again")]
    Left(String),
    #[error("runtime-shim stopped")]
    Stopped(#[from] SupervisorError),
}

/// Imports the images of an archive, as `skopeo copy … oci-archive:` and `docker save` write it, into a containerd
/// namespace, unpacked for the default snapshotter; their names. Repeatable.
pub async fn import_archive(
    containerd: &Path,
    namespace: &str,
    archive: &Path,
) -> Result<Vec<ImageName>, ImageError> {
    let client = Arc::new(Grpc::new(containerd, namespace)?);
    client.ensure_namespace().await?;
    let config = Config::default();
    Images::new(client, &config.snapshotter, BTreeSet::new(), &config.images)
        .import(archive)
        .await
}

/// Serves CRI until `shutdown`. containerd need not be there: calls answer UNAVAILABLE until it is.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    config.validate().map_err(Error::Config)?;
    // First the socket: it tells whether another shim is at work on the same state.
    let incoming = unix::listen(&config.listen).await?;
    for path in [&config.state_dir, &config.root_dir] {
        std::fs::create_dir_all(path).map_err(|cause| Error::Folder {
            path: path.clone(),
            cause,
        })?;
    }
    let grpc = Arc::new(Grpc::new(&config.containerd, &config.namespace)?);
    let containerd = Arc::new(Bounded::new(grpc, Limits::default()));
    let listen = config.listen.clone();
    // A child: the caller's other services do not end with this one.
    let mut supervisor = Supervisor::new(shutdown.child_token());
    let ending = supervisor.shutdown().clone();
    let shim = Arc::new(Shim::new(config, containerd, ending.clone()).await);
    let DefaultHandler { name, reason } = &shim.default_handler;
    tracing::info!(name, reason, "default runtime handler");
    let (streaming, listener) = Streaming::bind(&shim.config.streams, Arc::clone(&shim))
        .await
        .map_err(|error: ServerError| Error::Streams(error.into()))?;

    let learning = Arc::clone(&shim);
    // Before a container's creation has to wait for it.
    shim.own(async move { drop(learning.handlers_with_features().await) });
    supervisor.spawn("containerd-link", link::run(Arc::clone(&shim), ending.clone()));
    supervisor.spawn("streams", Arc::clone(&streaming).serve(listener, ending.clone()));
    supervisor.spawn(
        "cri",
        server::serve(Arc::clone(&shim), streaming, incoming, ending),
    );
    tracing::info!(socket = %listen.display(), "serving CRI");
    let outcome = supervisor.run(GRACE).await;
    shim.finish_operations(GRACE).await;
    let _ = std::fs::remove_file(&listen);
    Ok(outcome?)
}
