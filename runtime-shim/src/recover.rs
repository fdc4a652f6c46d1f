//! Reads everything back from containerd: at the start of the process, and after each break of the connection.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use clone8s::cri::PodSandboxState;
use containerd_client::types::v1::Process;
use futures::{StreamExt as _, stream};

use crate::{
    container::state::TaskSeen,
    containerd::{ContainerdError, already_gone},
    ids::ContainerId,
    logs,
    pins::Wanted,
    pins::{self, SandboxDir},
    record::{self, ContainerRecord, Record, SandboxRecord},
    sandbox::{Sandbox, namespace_options},
    shim::Shim,
    staging::{self, Stage},
    time,
};

/// How many containers are taken up at a time.
const AT_ONCE: usize = 8;

/// Whether this process has been at work before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Nothing is under way: leases are nobody's.
    Start,
    Reconnect,
}

impl Shim {
    pub(crate) async fn recover(self: &Arc<Self>, occasion: Occasion) -> Result<(), ContainerdError> {
        // Before the lists: what is added while they are made is not missing from them.
        let known_containers = self.table.containers();
        let known_sandboxes = self.table.sandboxes();
        let snapshots = self.containerd.list_snapshots(&self.config.snapshotter).await?;
        let objects = self.containerd.list_containers().await?;
        let tasks: HashMap<_, _> = self
            .containerd
            .list_tasks()
            .await?
            .into_iter()
            .map(|task| (task.id.clone(), seen(&task)))
            .collect();

        let mut sandboxes = HashMap::new();
        let mut containers = HashMap::new();
        for object in &objects {
            match record::read(object) {
                Ok(Record::Sandbox(record)) => drop(sandboxes.insert(record.id.clone(), record)),
                Ok(Record::Container(record)) => drop(containers.insert(record.id.clone(), record)),
                Err(problem) => {
                    tracing::warn!(
                        object = object.id,
                        problem,
                        "passed over an object that is not the shim's"
                    );
                }
            }
        }
        for sandbox in known_sandboxes {
            if sandboxes.remove(&sandbox.id).is_none() {
                tracing::warn!(sandbox = %sandbox.id, "gone from containerd");
                self.table.remove_sandbox(&sandbox.id);
            }
        }
        for record in sandboxes.into_values() {
            // Its maker may be at work, or done by now.
            if !self.table.is_taken(record.id.as_str()) {
                self.adopt_sandbox(*record).await;
            }
        }
        for container in &known_containers {
            if containers.remove(&container.id).is_none() {
                tracing::warn!(container = %container.id, "gone from containerd");
                let _ = self.table.remove_container(&container.id);
                container.close_log();
            } else {
                let task = tasks.get(container.id.as_str()).copied();
                self.compare_container(container, task).await;
            }
        }
        containers.retain(|id, _| !self.table.is_taken(id.as_str()));
        self.discard_unfinished_containers(&mut containers, &tasks, &snapshots)
            .await;
        // Side by side: those that ended meanwhile each wait for their last output.
        stream::iter(containers.into_values())
            .for_each_concurrent(AT_ONCE, |record| async {
                let id = record.id.clone();
                let task = tasks.get(id.as_str()).copied();
                if let Err(error) = self.adopt_container(*record, task).await {
                    tracing::error!(container = %id, %error, "cannot take up a container");
                }
            })
            .await;
        if occasion == Occasion::Start {
            self.restore_network().await;
        }
        self.discard_unfinished(occasion).await;
        self.discard_snapshots(&snapshots).await;
        self.images.discard_leases().await
    }

    async fn adopt_sandbox(self: &Arc<Self>, record: SandboxRecord) {
        let id = record.id.clone();
        let wanted = Wanted::from_options(&namespace_options(&record.config));
        let dir = SandboxDir::new(&self.config.state_dir, &id);
        let whole = !record.stopped && wanted.is_ok_and(|wanted| dir.is_whole(wanted));
        let state = if whole {
            PodSandboxState::SandboxReady
        } else {
            PodSandboxState::SandboxNotready
        };
        match Sandbox::from_record(record, state) {
            Ok(sandbox) => {
                let sandbox = Arc::new(sandbox);
                sandbox.set_adopted();
                self.table.insert_sandbox(Arc::clone(&sandbox));
                self.adopt_init(&sandbox).await;
            }
            Err(error) => tracing::error!(sandbox = %id, %error, "cannot take up a sandbox"),
        }
    }

    /// Sandboxes whose network has not been given back hold their addresses and ports.
    async fn restore_network(&self) {
        let mut sandboxes = self.table.sandboxes();
        sandboxes.sort_by_key(|sandbox| sandbox.detail.created_at);
        let attached: Vec<_> = sandboxes
            .iter()
            .filter(|sandbox| SandboxDir::new(&self.config.state_dir, &sandbox.id).is_pinned())
            .filter_map(|sandbox| Some((sandbox.id.clone(), sandbox.detail.attachment.clone()?)))
            .collect();
        if let Err(error) = self.network.restore(&attached).await {
            // The node's status tells it too, and tries again.
            tracing::error!(%error, "pod network not set up");
        }
        // Before any call: a pod that is attached meanwhile would be garbage to it.
        let ids: Vec<_> = attached.into_iter().map(|(id, _)| id).collect();
        self.network.collect_garbage(&ids).await;
    }

    /// Clears away what never became visible: its maker was killed.
    async fn discard_unfinished(self: &Arc<Self>, occasion: Occasion) {
        for id in pins::found(&self.config.state_dir) {
            if !self.table.is_taken(id.as_str()) {
                tracing::info!(sandbox = %id, "clearing away an unfinished sandbox");
                self.discard_sandbox(&id).await;
            }
        }
        for id in staging::found(&self.config.state_dir) {
            // A start may be under way.
            if occasion == Occasion::Reconnect && self.table.is_taken(id.as_str()) {
                continue;
            }
            if let Err(error) = Stage::new(&self.config.state_dir, &id).clear() {
                tracing::warn!(container = %id, %error, "mounts of a start that was cut off not removed");
            }
        }
        for id in logs::found(&self.config.state_dir) {
            if let Some((container, exec)) = logs::command_of(&id) {
                // Its session sees to it, or who removes the container.
                if occasion == Occasion::Reconnect && self.table.is_taken(container.as_str()) {
                    continue;
                }
                if let Ok(container) = self.running_container(container.as_str(), "") {
                    tracing::info!(container = %container.id, "taking up a command of the last run");
                    self.own(Arc::clone(self).tend_left_process(container, exec));
                    continue;
                }
            }
            if !self.table.is_taken(id.as_str()) {
                let fifos = logs::Fifos::new(&self.config.state_dir, &id, false, false);
                if let Err(error) = fifos.remove() {
                    tracing::warn!(container = %id, %error, "FIFOs not removed");
                }
            }
        }
    }

    /// An object without a snapshot was being made or being removed; nobody can start it.
    async fn discard_unfinished_containers(
        &self,
        containers: &mut HashMap<ContainerId, Box<ContainerRecord>>,
        tasks: &HashMap<String, TaskSeen>,
        snapshots: &[String],
    ) {
        let snapshots: HashSet<_> = snapshots.iter().map(String::as_str).collect();
        let unfinished: Vec<_> = containers
            .keys()
            .filter(|id| !snapshots.contains(id.as_str()) && !tasks.contains_key(id.as_str()))
            .cloned()
            .collect();
        for id in unfinished {
            tracing::info!(container = %id, "clearing away an unfinished container");
            containers.remove(&id);
            self.discard_container(&id).await;
        }
    }

    /// Snapshots of containers whose objects are gone. Others are images', under names of other forms.
    async fn discard_snapshots(&self, snapshots: &[String]) {
        let leftover = snapshots.iter().filter(|name| {
            let container = staging::container_of(name);
            ContainerId::is_one(container) && !self.table.is_taken(container)
        });
        for name in leftover {
            let removed = self
                .containerd
                .remove_snapshot(&self.config.snapshotter, name)
                .await;
            if let Err(error) = already_gone(removed) {
                tracing::warn!(snapshot = name, %error, "snapshot without a container not removed");
            }
        }
    }
}

fn seen(task: &Process) -> TaskSeen {
    TaskSeen {
        status: task.status(),
        pid: task.pid,
        exit_code: task.exit_status,
        exited_at: time::from_proto(task.exited_at).map_or_else(time::now_nanos, time::nanos),
    }
}
