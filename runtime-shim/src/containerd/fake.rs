//! A containerd in memory: its records, its garbage collection and processes that run until they are signalled.
//!
//! Its calls can be made to go wrong, one at a time and before or after they have taken effect: see [`Fault`].
//! What it holds outlives the shim that it serves, as a real one's does.

mod garbage;
mod state;

use std::{
    collections::HashMap,
    io::Read as _,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use containerd_client::{
    services::v1 as api,
    types::{
        Descriptor, Mount,
        v1::{Process, Status as TaskStatus},
    },
};
use futures::{StreamExt as _, stream::BoxStream};
use prost_types::Any;
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;

pub(crate) use self::state::State;
use self::state::{Snapshot, SnapshotKind, Task};
use super::{
    BlobStream, Containerd, ContainerdError, ErrorKind, Event, NewBlob, NewSnapshot, Plugin, ProcessExit,
    Result, Usage,
};
use crate::{ids::LeaseId, images::Digest, table::lock};

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and has done nothing.
    Refused,
    /// It is done, and its answer is lost with the connection.
    AnswerLost,
    /// It never answers and has done nothing: containerd hangs, or its caller dies.
    Silent,
    /// It is done and never answers.
    DoneAndSilent,
}

#[derive(Debug)]
pub(crate) struct Fake {
    state: Mutex<State>,
    plan: Mutex<Plan>,
    events: broadcast::Sender<Event>,
    /// Changes with every end of a process.
    ended: watch::Sender<u64>,
    /// True once a fault has struck.
    struck: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Which call from now on, the first being 1, and what becomes of it.
    fault: Option<(usize, Fault)>,
    struck_at: Option<&'static str>,
}

impl Fake {
    pub(crate) fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            plan: Mutex::default(),
            events: broadcast::Sender::new(1024),
            ended: watch::Sender::default(),
            struck: watch::Sender::default(),
        })
    }

    /// Lets the `nth` call from now on go wrong.
    pub(crate) fn arm(&self, nth: usize, fault: Fault) {
        *lock(&self.plan) = Plan {
            fault: Some((nth, fault)),
            struck_at: None,
        };
        self.struck.send_replace(false);
    }

    /// Calls are well again; the call that went wrong, if one did.
    pub(crate) fn heal(&self) -> Option<&'static str> {
        let mut plan = lock(&self.plan);
        plan.fault = None;
        plan.struck_at.take()
    }

    /// Waits until a fault has struck.
    pub(crate) async fn struck(&self) {
        // The sender is this value's own.
        let _ = self.struck.subscribe().wait_for(|struck| *struck).await;
    }

    /// What it holds now.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    fn fault(&self, call: &'static str) -> Option<Fault> {
        let mut plan = lock(&self.plan);
        let (nth, fault) = plan.fault.as_mut()?;
        *nth -= 1;
        if *nth > 0 {
            return None;
        }
        let fault = *fault;
        plan.fault = None;
        plan.struck_at = Some(call);
        self.struck.send_replace(true);
        Some(fault)
    }

    /// One call: what it does, under the plan.
    async fn call<T>(
        &self,
        call: &'static str,
        what: &str,
        act: impl FnOnce(&mut State) -> Result<T, ErrorKind>,
    ) -> Result<T> {
        let fault = self.fault(call);
        let failed = |kind| ContainerdError {
            call,
            what: what.to_owned(),
            kind,
            message: format!("{kind:?}"),
        };
        let outcome = match fault {
            Some(Fault::Refused) => Err(ErrorKind::Unavailable),
            Some(Fault::Silent) => return std::future::pending().await,
            None | Some(Fault::AnswerLost | Fault::DoneAndSilent) => act(&mut lock(&self.state)),
        };
        match fault {
            Some(Fault::AnswerLost) => Err(failed(ErrorKind::Unavailable)),
            Some(Fault::DoneAndSilent) => std::future::pending().await,
            _ => outcome.map_err(failed),
        }
    }

    /// Ends a process as a signal does.
    fn end(&self, state: &mut State, container: &str, signal: u32) -> Result<(), ErrorKind> {
        let task = state.tasks.get_mut(container).ok_or(ErrorKind::NotFound)?;
        if task.exit.is_some() {
            return Err(ErrorKind::NotFound);
        }
        let exit = ProcessExit {
            code: 128 + signal,
            at: clone8s_daemon::clock::now(),
        };
        task.end(exit);
        self.ended.send_modify(|count| *count += 1);
        // Without a listener there is nobody to tell.
        let _ = self.events.send(Event::Exit {
            container: container.to_owned(),
            exit,
        });
        Ok(())
    }
}

#[async_trait::async_trait]
impl Containerd for Fake {
    async fn version(&self) -> Result<String> {
        // Asked beside the calls that are tested, and so not one of them.
        Ok("1.6.0-fake".into())
    }

    async fn list_plugins(&self) -> Result<Vec<Plugin>> {
        Ok(Vec::new())
    }

    async fn ensure_namespace(&self) -> Result<()> {
        Ok(())
    }

    async fn delete_namespace(&self) -> Result<()> {
        Ok(())
    }

    async fn create_container(&self, container: api::Container) -> Result<()> {
        let id = container.id.clone();
        self.call("create_container", &id.clone(), |state| {
            if state.containers.contains_key(&id) {
                return Err(ErrorKind::AlreadyExists);
            }
            state.containers.insert(id, container);
            Ok(())
        })
        .await
    }

    async fn update_container(&self, change: api::Container, paths: &[&str]) -> Result<()> {
        let id = change.id.clone();
        self.call("update_container", &id, |state| {
            let object = state.containers.get_mut(&change.id).ok_or(ErrorKind::NotFound)?;
            for path in paths {
                match path.split_once('.') {
                    Some(("labels", key)) => {
                        let value = change.labels.get(key).cloned().unwrap_or_default();
                        object.labels.insert(key.to_owned(), value);
                    }
                    Some(("extensions", key)) => {
                        let value = change.extensions.get(key).cloned().unwrap_or_default();
                        object.extensions.insert(key.to_owned(), value);
                    }
                    _ if *path == "spec" => object.spec.clone_from(&change.spec),
                    _ => return Err(ErrorKind::Other),
                }
            }
            Ok(())
        })
        .await
    }

    async fn get_container(&self, id: &str) -> Result<api::Container> {
        self.call("get_container", id, |state| {
            state.containers.get(id).cloned().ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn list_containers(&self) -> Result<Vec<api::Container>> {
        self.call("list_containers", "", |state| {
            Ok(state.containers.values().cloned().collect())
        })
        .await
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        self.call("delete_container", id, |state| {
            state.containers.remove(id).map(drop).ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn create_task(&self, request: api::CreateTaskRequest) -> Result<u32> {
        let id = request.container_id.clone();
        self.call("create_task", &id, |state| {
            if !state.containers.contains_key(&request.container_id) {
                return Err(ErrorKind::NotFound);
            }
            if state.tasks.contains_key(&request.container_id) {
                return Err(ErrorKind::AlreadyExists);
            }
            state.last_pid += 1;
            let pid = state.last_pid;
            let streams = [&request.stdout, &request.stderr];
            let task = Task::new(pid, &streams).map_err(|_| ErrorKind::Other)?;
            state.tasks.insert(request.container_id, task);
            Ok(pid)
        })
        .await
    }

    async fn start(&self, container: &str, exec: Option<&str>) -> Result<u32> {
        self.call("start", container, |state| {
            if exec.is_some() {
                return Err(ErrorKind::Other);
            }
            let task = state.tasks.get_mut(container).ok_or(ErrorKind::NotFound)?;
            if task.status != TaskStatus::Created {
                return Err(ErrorKind::WrongState);
            }
            task.status = TaskStatus::Running;
            Ok(task.pid)
        })
        .await
    }

    async fn kill(&self, container: &str, _: Option<&str>, signal: u32) -> Result<()> {
        self.call("kill", container, |state| self.end(state, container, signal))
            .await
    }

    async fn kill_all(&self, container: &str) -> Result<()> {
        self.call("kill_all", container, |state| self.end(state, container, 9))
            .await
    }

    async fn checkpoint_task(&self, container: &str, _: Any) -> Result<()> {
        self.call("checkpoint_task", container, |_| Err(ErrorKind::Other))
            .await
    }

    async fn list_tasks(&self) -> Result<Vec<Process>> {
        self.call("list_tasks", "", |state| {
            Ok(state.tasks.iter().map(|(id, task)| task.process(id)).collect())
        })
        .await
    }

    async fn delete_task(&self, container: &str) -> Result<ProcessExit> {
        self.call("delete_task", container, |state| {
            let task = state.tasks.get(container).ok_or(ErrorKind::NotFound)?;
            let exit = match (task.exit, task.status) {
                (Some(exit), _) => exit,
                (None, TaskStatus::Created) => ProcessExit {
                    code: 137,
                    at: clone8s_daemon::clock::now(),
                },
                (None, _) => return Err(ErrorKind::WrongState),
            };
            state.tasks.remove(container);
            Ok(exit)
        })
        .await
    }

    async fn exec(&self, request: api::ExecProcessRequest) -> Result<()> {
        let id = request.container_id.clone();
        self.call("exec", &id, |_| Err(ErrorKind::Other)).await
    }

    async fn wait(&self, container: &str, _: Option<&str>) -> Result<ProcessExit> {
        let mut ended = self.ended.subscribe();
        loop {
            let exit = {
                let state = lock(&self.state);
                state.tasks.get(container).map(|task| task.exit)
            };
            match exit {
                Some(Some(exit)) => return Ok(exit),
                Some(None) => drop(ended.changed().await),
                None => return self.call("wait", container, |_| Err(ErrorKind::NotFound)).await,
            }
        }
    }

    async fn delete_process(&self, container: &str, _: &str) -> Result<ProcessExit> {
        self.call("delete_process", container, |_| Err(ErrorKind::NotFound))
            .await
    }

    async fn close_stdin(&self, container: &str, _: Option<&str>) -> Result<()> {
        self.call("close_stdin", container, |state| {
            state.tasks.get(container).map(drop).ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn resize(&self, container: &str, _: Option<&str>, _: u32, _: u32) -> Result<()> {
        self.call("resize", container, |state| {
            state.tasks.get(container).map(drop).ok_or(ErrorKind::NotFound)
        })
        .await
    }

    async fn update_task(&self, container: &str, _: Any) -> Result<()> {
        self.call("update_task", container, |state| {
            state.tasks.get(container).map(|_| ()).ok_or(ErrorKind::NotFound)
        })
        .await
    }

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

    async fn commit_snapshot(&self, _: &str, key: &str, name: &str) -> Result<()> {
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

    async fn list_images(&self) -> Result<Vec<api::Image>> {
        self.call("list_images", "", |state| {
            Ok(state.images.values().cloned().collect())
        })
        .await
    }

    async fn put_image(&self, image: api::Image) -> Result<()> {
        let name = image.name.clone();
        self.call("put_image", &name, |state| {
            state.images.insert(image.name.clone(), image);
            Ok(())
        })
        .await
    }

    async fn delete_image(&self, name: &str) -> Result<()> {
        self.call("delete_image", name, |state| {
            let removed = state.images.remove(name).map(drop).ok_or(ErrorKind::NotFound);
            state.collect_garbage();
            removed
        })
        .await
    }

    async fn create_lease(&self) -> Result<LeaseId> {
        self.call("create_lease", "", |state| {
            let lease = LeaseId::from(format!("{}{}", LeaseId::PREFIX, LeaseId::random()));
            state.leases.insert(lease.to_string(), state::Lease::default());
            Ok(lease)
        })
        .await
    }

    async fn create_lease_for(&self, purpose: &str) -> Result<LeaseId> {
        self.call("create_lease", purpose, |state| {
            let lease = LeaseId::from(format!("{}{purpose}-{}", LeaseId::PREFIX, LeaseId::random()));
            state.leases.insert(lease.to_string(), state::Lease::default());
            Ok(lease)
        })
        .await
    }

    async fn delete_lease(&self, lease: &LeaseId) -> Result<()> {
        self.call("delete_lease", lease.as_str(), |state| {
            state.leases.remove(lease.as_str());
            state.collect_garbage();
            Ok(())
        })
        .await
    }

    async fn list_leases(&self) -> Result<Vec<LeaseId>> {
        self.call("list_leases", "", |state| {
            Ok(state.leases.keys().map(|id| id.as_str().into()).collect())
        })
        .await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>> {
        let events = BroadcastStream::new(self.events.subscribe());
        Ok(events.filter_map(|event| async { event.ok().map(Ok) }).boxed())
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
