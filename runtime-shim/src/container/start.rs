//! StartContainer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use containerd_client::{services::v1::CreateTaskRequest, types::Mount};
use tokio::time::timeout;

use super::{Container, state::State};
use crate::{
    containerd::{ContainerdError, ErrorKind, already_gone},
    error::{Error, Result},
    logs::Pump,
    record::{self, ContainerExit},
    shim::Shim,
    staging::Stage,
    steps::timed,
    table::lock,
    time::now_nanos,
};

/// The exit code of a container whose process could not be started, as kubelets know it from containerd.
const CANNOT_START: i32 = 128;
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_mins(1);

impl Shim {
    pub(crate) async fn start_container(self: Arc<Self>, id: String) -> Result<()> {
        let container = self.table.container(&id)?;
        let _changing = container.changing.lock().await;
        let state = container.state();
        if state != State::Created {
            // Started by a call that was cut off before its caller learned of it.
            if state.was_started() && !container.start_answered.load(Ordering::Relaxed) {
                return Ok(());
            }
            return Err(Error::WrongState {
                kind: "container",
                id: container.id.to_string(),
                state: state.name(),
                next_step: "only a created container can be started",
            });
        }
        if container.may_have_task() {
            self.undo_start(&container).await?;
        }
        let sandbox = self.table.sandbox(container.sandbox.as_str())?;
        if !sandbox.is_ready() {
            return Err(Error::WrongState {
                kind: "sandbox",
                id: sandbox.id.to_string(),
                state: "not ready",
                next_step: "remove it and run a new one",
            });
        }
        let known = lock(&container.rootfs).clone();
        let rootfs = match known {
            Some(mounts) => mounts,
            None => {
                self.containerd
                    .snapshot_mounts(&self.config.snapshotter, container.id.as_str())
                    .await?
            }
        };
        let mut order = self.order(&container, &sandbox).await?;
        let stage = Stage::new(&self.config.state_dir, &container.id);
        let rootfs = if order.users.is_some() {
            order.rootfs = Some(rootfs);
            vec![Mount {
                r#type: "bind".into(),
                source: stage.rootfs().display().to_string(),
                options: vec!["rbind".into(), "rw".into()],
                ..Default::default()
            }]
        } else {
            rootfs
        };
        if let Err(error) = stage.set(order).await {
            self.record_failed_start(&container, &error).await;
            return Err(error);
        }
        let fifos = self.fifos(&container);
        let (pump, output, keeper) = Pump::open(&fifos, &container.detail.log_path)?;
        let request = CreateTaskRequest {
            container_id: container.id.to_string(),
            rootfs,
            stdin: fifos
                .stdin()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            stdout: fifos.stdout().display().to_string(),
            stderr: fifos
                .stderr()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            terminal: container.config.tty,
            options: self.task_options(sandbox.handler()),
            ..Default::default()
        };
        *lock(&container.log) = Some(Arc::new(pump));
        self.own(output);
        let started = self.start_task(&container, request, &stage).await;
        drop(keeper);
        if let Err(error) = started {
            self.record_failed_start(&container, &error).await;
            return Err(error);
        }
        Ok(())
    }

    async fn start_task(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: CreateTaskRequest,
        stage: &Stage,
    ) -> Result<()> {
        container.set_task(true);
        let created = timed("task create", self.containerd.create_task(request)).await;
        // Made or not: the container has its own copies.
        stage.clear()?;
        let pid = created.map_err(refused)?;
        let started_at = now_nanos();
        timed("task start", self.containerd.start(container.id.as_str(), None))
            .await
            .map_err(refused)?;
        // Nobody waits for it: after a crash, a start without a record is seen by its task.
        self.own(Arc::clone(self).record_start(Arc::clone(container), started_at));
        // Its end may have been heard of already.
        let running = State::Running { pid, started_at };
        let changed = container.state.send_if_modified(|state| match state {
            State::Created => {
                *state = running;
                true
            }
            State::Running { .. } | State::Exited(_) => false,
        });
        if changed {
            self.events.started(container);
        }
        Ok(())
    }

    pub(super) async fn record_start(self: Arc<Self>, container: Arc<Container>, started_at: i64) {
        let (object, path) = record::container_started(&container.id, started_at);
        let recorded = self.containerd.update_container(object, &[path.as_str()]).await;
        if let Err(error) = already_gone(recorded) {
            tracing::warn!(container = %container.id, %error, "start not recorded: its time is lost at a restart");
        }
    }

    async fn record_failed_start(self: &Arc<Self>, container: &Arc<Container>, error: &Error) {
        let undone = self.undo_start(container).await;
        container.close_log();
        if let Err(undo) = undone {
            tracing::warn!(container = %container.id, error = %undo, "failed start not undone");
            self.unsettled.notify_one();
            return;
        }
        let is_containerds = matches!(error, Error::Containerd(error) if is_containerds(error));
        if is_containerds || container.is_unsettled() {
            // For all that is known, nothing is wrong with the container: it stays as it is and can be started again.
            return;
        }
        let exit = ContainerExit {
            code: CANNOT_START,
            started_at: 0,
            finished_at: now_nanos(),
            reason: "StartError".into(),
            message: clone8s_daemon::supervisor::chain(error),
        };
        let (object, path) = record::container_exited(&container.id, &exit);
        match self.containerd.update_container(object, &[path.as_str()]).await {
            Ok(()) => {
                container.state.send_replace(State::Exited(exit));
                self.events.stopped(container);
            }
            Err(undo) => {
                tracing::warn!(container = %container.id, error = %undo, "failed start not recorded");
            }
        }
    }

    /// Removes the task of a container that is to be as it was created. Repeatable.
    pub(super) async fn undo_start(&self, container: &Container) -> Result<()> {
        let id = container.id.as_str();
        already_gone(self.containerd.kill_all(id).await).or_else(ignore_wrong_state)?;
        // Before the task goes: a start that is recorded without a task is a container that was lost.
        let (object, path) = record::container_not_started(&container.id);
        already_gone(self.containerd.update_container(object, &[path.as_str()]).await)?;
        self.delete_ended_task(id).await?;
        container.set_task(false);
        Ok(())
    }

    /// Deletes the task of a process that was killed a moment ago.
    async fn delete_ended_task(&self, id: &str) -> Result<()> {
        let mut deleted = self.containerd.delete_task(id).await;
        if let Err(error) = &deleted
            && error.kind == ErrorKind::WrongState
        {
            // The kernel has not ended it yet.
            timeout(KILL_LIMIT, self.containerd.wait(id, None))
                .await
                .map_err(|_| Error::Deadline {
                    what: format!("the end of killed container {id}"),
                    seconds: KILL_LIMIT.as_secs(),
                })?
                .map(drop)
                .or_else(|error| already_gone(Err(error)))?;
            deleted = self.containerd.delete_task(id).await;
        }
        Ok(already_gone(deleted.map(drop))?)
    }
}

/// What a start that failed for the container's sake says.
fn refused(error: ContainerdError) -> Error {
    if error.kind == ErrorKind::Other && !is_containerds(&error) {
        return Error::CannotStart(error.message);
    }
    error.into()
}

/// Whether a call failed for containerd's sake, and not for what it was asked to do.
fn is_containerds(error: &ContainerdError) -> bool {
    matches!(
        error.kind,
        ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::AlreadyExists
    )
        // The folder of a task that containerd still makes, or still clears away, for a call that was cut off.
        || error.message.contains("file exists")
}

/// A process that has ended cannot be signalled, which is what was wanted.
pub(crate) fn ignore_wrong_state(error: ContainerdError) -> Result<(), ContainerdError> {
    match error.kind {
        ErrorKind::WrongState => Ok(()),
        _ => Err(error),
    }
}
