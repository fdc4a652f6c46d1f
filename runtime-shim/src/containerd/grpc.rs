//! containerd over its socket.

use std::{collections::HashMap, fmt, future::Future, path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use containerd_client::{
    events::TaskExit,
    services::v1::{
        self as api, WriteAction, containers_client::ContainersClient, content_client::ContentClient,
        diff_client::DiffClient, events_client::EventsClient, images_client::ImagesClient,
        introspection_client::IntrospectionClient, leases_client::LeasesClient,
        namespaces_client::NamespacesClient, snapshots as snap, snapshots::snapshots_client::SnapshotsClient,
        tasks_client::TasksClient, version_client::VersionClient,
    },
    types::{Descriptor, Envelope, Mount, v1::Process},
};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use prost::Name as _;
use prost_types::{Any, FieldMask};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::{
    BlobStream, Containerd, ContainerdError, ErrorKind, Event, NewBlob, NewSnapshot, Plugin, ProcessExit,
    Result, Usage,
};
use crate::{ids::LeaseId, time};

/// Lists of many containers with their specs outgrow gRPC's usual 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// Well under containerd's own limit for a message, 16 MiB.
const WRITE_CHUNK: usize = 512 << 10;
const MAX_SMALL_BLOB: usize = 8 << 20;
/// Published by the shim to learn that its subscription is in force; nobody else looks at it.
const SUBSCRIBED_TOPIC: &str = "/clone8s/subscribed";

/// One containerd, in one of its namespaces, connected on first use and again after every break.
#[derive(Clone)]
pub(crate) struct Grpc {
    service: Service,
    namespace: String,
}

type Service = InterceptedService<Channel, AddNamespace>;

#[derive(Clone)]
struct AddNamespace(MetadataValue<Ascii>);

impl Interceptor for AddNamespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("containerd-namespace", self.0.clone());
        Ok(request)
    }
}

impl fmt::Debug for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grpc")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

macro_rules! client {
    ($name:ident, $client:ident) => {
        fn $name(&self) -> $client<Service> {
            $client::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
        }
    };
}

impl Grpc {
    /// The namespace must be a containerd identifier: letters, digits, `-`, `_` and `.`.
    pub(crate) fn new(socket: impl Into<PathBuf>, namespace: &str) -> Result<Self> {
        let value = namespace.parse().map_err(|_| ContainerdError {
            call: "use namespace",
            what: format!("{namespace:?}"),
            kind: ErrorKind::Other,
            message: "not a containerd namespace; use letters, digits and dashes".into(),
        })?;
        Ok(Self {
            service: InterceptedService::new(clone8s_daemon::unix::channel(socket), AddNamespace(value)),
            namespace: namespace.to_owned(),
        })
    }

    client!(containers, ContainersClient);
    client!(tasks, TasksClient);
    client!(snapshots, SnapshotsClient);
    client!(content, ContentClient);
    client!(images, ImagesClient);

    fn leases(&self) -> LeasesClient<Service> {
        LeasesClient::new(self.service.clone())
    }

    fn namespaces(&self) -> NamespacesClient<Service> {
        NamespacesClient::new(self.service.clone())
    }

    async fn new_lease(&self, lease: LeaseId) -> Result<LeaseId> {
        // A lease that its maker never deletes, being killed, must not hold its garbage for ever.
        let expiry = jiff::Timestamp::try_from(clone8s_daemon::clock::now() + Duration::from_hours(24))
            .map(|at| at.to_string())
            .unwrap_or_default();
        let request = api::CreateRequest {
            id: lease.to_string(),
            labels: HashMap::from([("containerd.io/gc.expire".to_owned(), expiry)]),
        };
        call("create lease", lease.as_str(), self.leases().create(request)).await?;
        Ok(lease)
    }
}

/// Makes a call and says what it was about if it fails.
async fn call<T>(
    call: &'static str,
    what: &str,
    reply: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    reply
        .await
        .map(Response::into_inner)
        .map_err(|status| failure(call, what, &status))
}

fn failure(call: &'static str, what: &str, status: &Status) -> ContainerdError {
    let kind = match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::FailedPrecondition => ErrorKind::WrongState,
        _ => ErrorKind::Other,
    };
    ContainerdError {
        call,
        what: what.to_owned(),
        kind,
        message: clone8s_daemon::supervisor::chain(status),
    }
}

fn leased<T>(message: T, lease: Option<&LeaseId>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = lease.and_then(|lease| lease.as_str().parse().ok()) {
        request.metadata_mut().insert("containerd-lease", value);
    }
    request
}

fn exit(code: u32, at: Option<prost_types::Timestamp>) -> ProcessExit {
    ProcessExit {
        code,
        at: time::from_proto(at).unwrap_or_else(clone8s_daemon::clock::now),
    }
}

/// The name under which a blob is being written.
fn ingest_ref(ingest: &str) -> String {
    format!("clone8s-{ingest}")
}

#[async_trait::async_trait]
impl Containerd for Grpc {
    async fn version(&self) -> Result<String> {
        let reply = VersionClient::new(self.service.clone()).version(()).await;
        Ok(call("get", "version", async { reply }).await?.version)
    }

    async fn list_plugins(&self) -> Result<Vec<Plugin>> {
        let mut client = IntrospectionClient::new(self.service.clone());
        let reply = call("list", "plugins", client.plugins(api::PluginsRequest::default())).await?;
        let plugins = reply.plugins.into_iter().map(|plugin| Plugin {
            kind: plugin.r#type,
            id: plugin.id,
            problem: plugin.init_err.map(|error| error.message),
        });
        Ok(plugins.collect())
    }

    async fn ensure_namespace(&self) -> Result<()> {
        let namespace = api::Namespace {
            name: self.namespace.clone(),
            ..Default::default()
        };
        let request = api::CreateNamespaceRequest {
            namespace: Some(namespace),
        };
        let reply = call(
            "create namespace",
            &self.namespace,
            self.namespaces().create(request),
        )
        .await;
        super::already_there(reply.map(drop))
    }

    async fn delete_namespace(&self) -> Result<()> {
        let request = api::DeleteNamespaceRequest {
            name: self.namespace.clone(),
        };
        super::already_gone(
            call(
                "delete namespace",
                &self.namespace,
                self.namespaces().delete(request),
            )
            .await,
        )
    }

    async fn create_container(&self, container: api::Container) -> Result<()> {
        let id = container.id.clone();
        let request = api::CreateContainerRequest {
            container: Some(container),
        };
        call("create container", &id, self.containers().create(request))
            .await
            .map(drop)
    }

    async fn update_container(&self, container: api::Container, paths: &[&str]) -> Result<()> {
        let id = container.id.clone();
        let request = api::UpdateContainerRequest {
            container: Some(container),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }),
        };
        call("update container", &id, self.containers().update(request))
            .await
            .map(drop)
    }

    async fn get_container(&self, id: &str) -> Result<api::Container> {
        let request = api::GetContainerRequest { id: id.to_owned() };
        let reply = call("get container", id, self.containers().get(request)).await?;
        Ok(reply.container.unwrap_or_default())
    }

    async fn list_containers(&self) -> Result<Vec<api::Container>> {
        let request = api::ListContainersRequest::default();
        let reply = call(
            "list containers in",
            &self.namespace,
            self.containers().list(request),
        )
        .await?;
        Ok(reply.containers)
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        let request = api::DeleteContainerRequest { id: id.to_owned() };
        call("delete container", id, self.containers().delete(request)).await
    }

    async fn create_task(&self, request: api::CreateTaskRequest) -> Result<u32> {
        let id = request.container_id.clone();
        Ok(call("create task of", &id, self.tasks().create(request))
            .await?
            .pid)
    }

    async fn start(&self, container: &str, exec: Option<&str>) -> Result<u32> {
        let request = api::StartRequest {
            container_id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
        };
        Ok(call("start task of", container, self.tasks().start(request))
            .await?
            .pid)
    }

    async fn kill(&self, container: &str, exec: Option<&str>, signal: u32) -> Result<()> {
        let request = api::KillRequest {
            container_id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
            signal,
            all: false,
        };
        call("signal task of", container, self.tasks().kill(request)).await
    }

    async fn kill_all(&self, container: &str) -> Result<()> {
        let request = api::KillRequest {
            container_id: container.to_owned(),
            signal: rustix::process::Signal::KILL.as_raw().unsigned_abs(),
            all: true,
            ..Default::default()
        };
        call("kill task of", container, self.tasks().kill(request)).await
    }

    async fn checkpoint_task(&self, container: &str, options: Any) -> Result<()> {
        let request = api::CheckpointTaskRequest {
            container_id: container.to_owned(),
            options: Some(options),
            ..Default::default()
        };
        call("checkpoint task of", container, self.tasks().checkpoint(request))
            .await
            .map(drop)
    }

    async fn list_tasks(&self) -> Result<Vec<Process>> {
        let request = api::ListTasksRequest::default();
        Ok(call("list tasks in", &self.namespace, self.tasks().list(request))
            .await?
            .tasks)
    }

    async fn delete_task(&self, container: &str) -> Result<ProcessExit> {
        let request = api::DeleteTaskRequest {
            container_id: container.to_owned(),
        };
        let reply = call("delete task of", container, self.tasks().delete(request)).await?;
        Ok(exit(reply.exit_status, reply.exited_at))
    }

    async fn exec(&self, request: api::ExecProcessRequest) -> Result<()> {
        let id = request.container_id.clone();
        call("prepare a process in", &id, self.tasks().exec(request)).await
    }

    async fn wait(&self, container: &str, exec: Option<&str>) -> Result<ProcessExit> {
        let request = api::WaitRequest {
            container_id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
        };
        let reply = call("wait for a process of", container, self.tasks().wait(request)).await?;
        Ok(exit(reply.exit_status, reply.exited_at))
    }

    async fn delete_process(&self, container: &str, exec: &str) -> Result<ProcessExit> {
        let request = api::DeleteProcessRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
        };
        let reply = call(
            "delete a process of",
            container,
            self.tasks().delete_process(request),
        )
        .await?;
        Ok(exit(reply.exit_status, reply.exited_at))
    }

    async fn close_stdin(&self, container: &str, exec: Option<&str>) -> Result<()> {
        let request = api::CloseIoRequest {
            container_id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
            stdin: true,
        };
        call(
            "close the input of a process of",
            container,
            self.tasks().close_io(request),
        )
        .await
    }

    async fn resize(&self, container: &str, exec: Option<&str>, width: u32, height: u32) -> Result<()> {
        let request = api::ResizePtyRequest {
            container_id: container.to_owned(),
            exec_id: exec.unwrap_or_default().to_owned(),
            width,
            height,
        };
        call(
            "resize the terminal of a process of",
            container,
            self.tasks().resize_pty(request),
        )
        .await
    }

    async fn update_task(&self, container: &str, resources: Any) -> Result<()> {
        let request = api::UpdateTaskRequest {
            container_id: container.to_owned(),
            resources: Some(resources),
            ..Default::default()
        };
        call("update task of", container, self.tasks().update(request)).await
    }

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

    async fn commit_snapshot(&self, snapshotter: &str, key: &str, name: &str) -> Result<()> {
        let request = snap::CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            ..Default::default()
        };
        call("commit snapshot", name, self.snapshots().commit(request)).await
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
        super::already_gone(found.map(|_| true))
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

    async fn blob_exists(&self, digest: &str) -> Result<bool> {
        let request = api::InfoRequest {
            digest: digest.to_owned(),
        };
        let found = call("look for blob", digest, self.content().info(request)).await;
        super::already_gone(found.map(|_| true))
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
        super::already_gone(found.map(|reply| reply.status.map_or(0, |status| status.offset.unsigned_abs())))
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
        super::already_gone(call("abort writing blob", ingest, self.content().abort(request)).await)
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

    async fn list_images(&self) -> Result<Vec<api::Image>> {
        let request = api::ListImagesRequest::default();
        Ok(
            call("list images in", &self.namespace, self.images().list(request))
                .await?
                .images,
        )
    }

    async fn put_image(&self, image: api::Image) -> Result<()> {
        let name = image.name.clone();
        let create = api::CreateImageRequest {
            image: Some(image.clone()),
            ..Default::default()
        };
        match call("create image", &name, self.images().create(create)).await {
            Err(error) if error.kind == ErrorKind::AlreadyExists => {}
            other => return other.map(drop),
        }
        let labels = image.labels.keys().map(|key| format!("labels.{key}"));
        let paths = std::iter::once("target".to_owned()).chain(labels).collect();
        let update = api::UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask { paths }),
            ..Default::default()
        };
        call("update image", &name, self.images().update(update))
            .await
            .map(drop)
    }

    async fn delete_image(&self, name: &str) -> Result<()> {
        let request = api::DeleteImageRequest {
            name: name.to_owned(),
            sync: true,
            ..Default::default()
        };
        call("delete image", name, self.images().delete(request)).await
    }

    async fn create_lease(&self) -> Result<LeaseId> {
        self.new_lease(LeaseId::from(format!("{}{}", LeaseId::PREFIX, LeaseId::random())))
            .await
    }

    async fn create_lease_for(&self, purpose: &str) -> Result<LeaseId> {
        self.new_lease(LeaseId::from(format!(
            "{}{purpose}-{}",
            LeaseId::PREFIX,
            LeaseId::random()
        )))
        .await
    }

    async fn delete_lease(&self, lease: &LeaseId) -> Result<()> {
        let request = api::DeleteRequest {
            id: lease.to_string(),
            sync: false,
        };
        super::already_gone(call("delete lease", lease.as_str(), self.leases().delete(request)).await)
    }

    async fn list_leases(&self) -> Result<Vec<LeaseId>> {
        let request = api::ListRequest::default();
        let reply = call("list leases in", &self.namespace, self.leases().list(request)).await?;
        Ok(reply.leases.into_iter().map(|lease| lease.id.into()).collect())
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>> {
        let mut client = EventsClient::new(self.service.clone());
        let mut publisher = client.clone();
        let request = api::SubscribeRequest {
            filters: vec![
                format!("namespace=={},topic==\"/tasks/exit\"", self.namespace),
                format!("namespace=={},topic==\"{SUBSCRIBED_TOPIC}\"", self.namespace),
            ],
        };
        // The call returns with the first event only, so one is published until it comes through.
        let announce = async {
            loop {
                let event = Any {
                    type_url: TaskExit::full_name(),
                    value: Vec::new(),
                };
                let request = api::PublishRequest {
                    topic: SUBSCRIBED_TOPIC.into(),
                    event: Some(event),
                };
                if let Err(status) = publisher.publish(request).await {
                    return failure("publish to", SUBSCRIBED_TOPIC, &status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let subscribed = tokio::select! {
            reply = call("subscribe to", "events", client.subscribe(request)) => reply?,
            error = announce => return Err(error),
        };
        let decoded = subscribed.filter_map(|envelope| async {
            envelope
                .map_err(|status| failure("receive", "events", &status))
                .and_then(|envelope| decode(&envelope))
                .transpose()
        });
        Ok(decoded.boxed())
    }
}

/// An event that matters to the shim, or nothing.
fn decode(envelope: &Envelope) -> Result<Option<Event>> {
    let broken = |error: prost::DecodeError| {
        failure(
            "decode event",
            &envelope.topic,
            &Status::data_loss(error.to_string()),
        )
    };
    let Some(body) = &envelope.event else {
        return Ok(None);
    };
    Ok(match envelope.topic.as_str() {
        "/tasks/exit" => {
            let event: TaskExit = prost::Message::decode(&*body.value).map_err(broken)?;
            // Additional processes exit under ids of their own.
            (event.id == event.container_id).then(|| Event::Exit {
                exit: exit(event.exit_status, event.exited_at),
                container: event.container_id,
            })
        }
        _ => None,
    })
}

/// How long [`reachable`] waits for an answer.
const PROBE: Duration = Duration::from_secs(5);

/// Asks containerd for its version, and for nothing longer than a moment.
pub(crate) async fn reachable(containerd: &dyn Containerd) -> Result<String> {
    match timeout(PROBE, containerd.version()).await {
        Ok(answer) => answer,
        Err(_) => Err(failure(
            "get",
            "version",
            &Status::unavailable("no answer in 5 s"),
        )),
    }
}
