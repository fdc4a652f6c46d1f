//! The seam to containerd: exactly the calls that the shim makes.
//!
//! [`Grpc`] speaks to a real containerd, and [`Bounded`] gives each of its calls a time limit; `fake::Fake` is a small
//! containerd in memory, for tests. Messages are containerd's own, so that neither side translates.

mod bounded;
#[cfg(test)]
pub(crate) mod fake;
mod grpc;

use std::{collections::HashMap, fmt, io, time::SystemTime};

use bytes::Bytes;
use containerd_client::{
    services::v1 as api,
    types::{Descriptor, Mount, v1::Process},
};
use futures::stream::BoxStream;
use prost_types::Any;

use crate::ids::LeaseId;

pub(crate) use self::bounded::{Bounded, Limits};
pub(crate) use self::grpc::Grpc;
pub(crate) use self::grpc::reachable;

/// The calls to one containerd, in one of its namespaces.
#[async_trait::async_trait]
pub(crate) trait Containerd:
    Containers + Tasks + Snapshots + Content + ImageRecords + fmt::Debug + Send + Sync + 'static
{
    /// containerd's version. The cheapest call that shows that it is there.
    async fn version(&self) -> Result<String>;
    /// What containerd consists of, with what does not work of it.
    async fn list_plugins(&self) -> Result<Vec<Plugin>>;
    /// Makes the namespace if it is not there.
    async fn ensure_namespace(&self) -> Result<()>;
    /// Removes the namespace, which must be empty.
    async fn delete_namespace(&self) -> Result<()>;
    /// Subscribes to the namespace's events. When this returns, the subscription is in force.
    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>>;
}

/// Container objects: what containerd is told of containers and sandboxes, whether or not they run.
#[async_trait::async_trait]
pub(crate) trait Containers {
    async fn create_container(&self, container: api::Container) -> Result<()>;
    /// Writes the fields that `paths` name, such as `labels.a` or `extensions.b`.
    async fn update_container(&self, container: api::Container, paths: &[&str]) -> Result<()>;
    async fn get_container(&self, id: &str) -> Result<api::Container>;
    async fn list_containers(&self) -> Result<Vec<api::Container>>;
    async fn delete_container(&self, id: &str) -> Result<()>;
}

/// Containers' processes, by the shims that containerd starts.
#[async_trait::async_trait]
pub(crate) trait Tasks {
    /// Prepares a process from a bundle; its pid.
    async fn create_task(&self, request: api::CreateTaskRequest) -> Result<u32>;
    /// Starts a container's task, or with `exec` an additional process in it; its pid.
    async fn start(&self, container: &str, exec: Option<&str>) -> Result<u32>;
    async fn kill(&self, container: &str, exec: Option<&str>, signal: u32) -> Result<()>;
    /// Kills every process of the container.
    async fn kill_all(&self, container: &str) -> Result<()>;
    /// Writes the state of the container's processes into the folder that the options name; they run on.
    async fn checkpoint_task(&self, container: &str, options: Any) -> Result<()>;
    async fn list_tasks(&self) -> Result<Vec<Process>>;
    async fn delete_task(&self, container: &str) -> Result<ProcessExit>;
    async fn exec(&self, request: api::ExecProcessRequest) -> Result<()>;
    async fn wait(&self, container: &str, exec: Option<&str>) -> Result<ProcessExit>;
    async fn delete_process(&self, container: &str, exec: &str) -> Result<ProcessExit>;
    /// Ends the standard input of a process once what was written to it is read. With none, of the container's own.
    async fn close_stdin(&self, container: &str, exec: Option<&str>) -> Result<()>;
    /// Sizes the terminal of a process, in characters.
    async fn resize(&self, container: &str, exec: Option<&str>, width: u32, height: u32) -> Result<()>;
    async fn update_task(&self, container: &str, resources: Any) -> Result<()>;
}

/// Root file systems: layers, and what is written above them.
#[async_trait::async_trait]
pub(crate) trait Snapshots {
    /// Prepares a writable snapshot on `parent` (empty: on nothing).
    async fn prepare_snapshot(&self, snapshot: NewSnapshot<'_>) -> Result<Vec<Mount>>;
    /// Prepares a read-only snapshot of `parent`.
    async fn view_snapshot(&self, snapshot: NewSnapshot<'_>) -> Result<Vec<Mount>>;
    /// The mounts of an active or read-only snapshot.
    async fn snapshot_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<Mount>>;
    /// The snapshot is the lease's, as what it was made from.
    async fn commit_snapshot(&self, snapshotter: &str, key: &str, name: &str, lease: &LeaseId) -> Result<()>;
    async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()>;
    async fn snapshot_exists(&self, snapshotter: &str, key: &str) -> Result<bool>;
    async fn snapshot_usage(&self, snapshotter: &str, key: &str) -> Result<Usage>;
    /// The folder that a snapshotter keeps its snapshots in; empty where it tells none.
    async fn snapshotter_root(&self, snapshotter: &str) -> Result<String>;
    async fn list_snapshots(&self, snapshotter: &str) -> Result<Vec<String>>;
    /// Unpacks the layer `diff` of the content store onto `mounts`; the descriptor of the plain tar.
    async fn apply(&self, diff: Descriptor, mounts: Vec<Mount>, lease: &LeaseId) -> Result<Descriptor>;
}

/// Blobs by digest: layers, manifests, configurations.
#[async_trait::async_trait]
pub(crate) trait Content {
    async fn blob_exists(&self, digest: &str) -> Result<bool>;
    /// Makes the lease keep a blob that is there already.
    async fn hold_blob(&self, lease: &LeaseId, digest: &str) -> Result<()>;
    async fn set_blob_labels(&self, digest: &str, labels: HashMap<String, String>) -> Result<()>;
    /// A whole blob, refused over 8 MiB: manifests and configurations are far smaller.
    async fn read_blob(&self, digest: &str) -> Result<Bytes>;
    /// How many bytes an earlier, broken-off [`Containerd::write_blob`] under this name has left.
    async fn partial_blob(&self, ingest: &str) -> Result<u64>;
    /// Writes a blob from `blob.offset` on and commits it; containerd verifies digest and size.
    async fn write_blob(&self, blob: NewBlob<'_>, data: BlobStream) -> Result<()>;
    /// Forgets what a broken-off write has left.
    async fn abort_blob(&self, ingest: &str) -> Result<()>;
    async fn delete_blob(&self, digest: &str) -> Result<()>;
    async fn list_blobs(&self) -> Result<Vec<api::Info>>;
}

/// Names of images, and the leases that keep what has no name yet.
#[async_trait::async_trait]
pub(crate) trait ImageRecords {
    async fn list_images(&self) -> Result<Vec<api::Image>>;
    /// Creates the image, or moves its name to another target and adds its labels.
    async fn put_image(&self, image: api::Image) -> Result<()>;
    /// Removes the name; with it, before this returns, whatever nothing else refers to.
    async fn delete_image(&self, name: &str) -> Result<()>;
    async fn create_lease(&self, lease: &LeaseId) -> Result<()>;
    async fn delete_lease(&self, lease: &LeaseId) -> Result<()>;
    async fn list_leases(&self) -> Result<Vec<LeaseId>>;
}

/// The bytes of a blob, in parts of any size.
pub(crate) type BlobStream = BoxStream<'static, io::Result<Bytes>>;

pub(crate) type Result<T, E = ContainerdError> = std::result::Result<T, E>;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessExit {
    /// 0 to 255; 128 + n after signal n.
    pub code: u32,
    pub at: SystemTime,
}

/// A snapshot to prepare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSnapshot<'a> {
    pub snapshotter: &'a str,
    pub key: &'a str,
    /// The committed snapshot below; empty for none.
    pub parent: &'a str,
    /// None where something that lives refers to the key already.
    pub lease: Option<&'a LeaseId>,
}

/// A blob to write.
#[derive(Debug, Clone)]
pub(crate) struct NewBlob<'a> {
    /// The name of the writing: a second writer under it must wait.
    pub ingest: &'a str,
    pub digest: &'a str,
    /// Bytes.
    pub size: u64,
    /// Where in the blob the data starts.
    pub offset: u64,
    pub labels: HashMap<String, String>,
    pub lease: &'a LeaseId,
}

/// What a snapshot itself takes, without its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// A part of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// Such as `io.containerd.snapshotter.v1`.
    pub kind: String,
    pub id: String,
    /// Why it does not work, if it does not.
    pub problem: Option<String>,
}

/// What the shim wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A container's main process has ended.
    Exit { container: String, exit: ProcessExit },
}

/// A call to containerd that failed.
#[derive(Debug, thiserror::Error)]
#[error("containerd: {call} {what}: {message}")]
pub struct ContainerdError {
    pub call: &'static str,
    /// What the call was about.
    pub what: String,
    pub kind: ErrorKind,
    pub message: String,
}

/// Why, as far as the shim tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    AlreadyExists,
    Unavailable,
    WrongState,
    /// A blob ends elsewhere than where a write would go on.
    OutOfRange,
    /// No answer came in time; whether the call took effect is not known.
    TimedOut,
    Other,
}

/// Repeating a removal is no error.
pub(crate) fn already_gone<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}

/// Repeating a creation is no error.
pub(crate) fn already_there<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(T::default()),
        other => other,
    }
}
