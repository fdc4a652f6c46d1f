//! StartContainer.

use std::sync::Arc;

use containerd_client::services::v1::CreateTaskRequest;

use super::{Container, state::State};
use crate::{
    containerd::already_gone,
    error::{Error, Result},
    logs::Pump,
    record::{self, ContainerExit},
    shim::Shim,
    steps::timed,
    table::lock,
    time::now_nanos,
};

/// The exit code of a container whose process could not be started, as kubelets know it from containerd.
const CANNOT_START: i32 = 128;

impl Shim {
    pub(crate) async fn start_container(self: Arc<Self>, id: String) -> Result<()> {
        let container = self.table.container(&id)?;
        let _changing = container.changing.lock().await;
        let state = container.state();
        if state != State::Created {
            return Err(Error::WrongState {
                kind: "container",
                id: container.id.to_string(),
                state: state.name(),
                next_step: "only a created container can be started",
            });
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
            options: self.task_options(&sandbox),
            ..Default::default()
        };
        *lock(&container.log) = Some(Arc::new(pump));
        self.own(output);
        let started = self.start_task(&container, request).await;
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
    ) -> Result<()> {
        let pid = timed("task create", self.containerd.create_task(request)).await?;
        let started_at = now_nanos();
        // Recorded beside the start, not after it: after a crash, a start without a record is seen by its task, and
        // a record without a start by the task's state.
        let (object, path) = record::container_started(&container.id, started_at);
        let paths = [path.as_str()];
        let (started, recorded) = tokio::join!(
            timed("task start", self.containerd.start(container.id.as_str(), None)),
            self.containerd.update_container(object, &paths),
        );
        started?;
        recorded?;
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

    async fn record_failed_start(self: &Arc<Self>, container: &Arc<Container>, error: &Error) {
        let now = now_nanos();
        let exit = ContainerExit {
            code: CANNOT_START,
            started_at: 0,
            finished_at: now,
            reason: "StartError".into(),
            message: clone8s_daemon::supervisor::chain(error),
        };
        // Without containerd nothing can be told for sure; the container stays as it is and can be started again.
        let (object, path) = record::container_exited(&container.id, &exit);
        let undone = async {
            already_gone(self.containerd.kill_all(container.id.as_str()).await)
                .or_else(ignore_wrong_state)?;
            already_gone(self.containerd.delete_task(container.id.as_str()).await.map(drop))?;
            self.containerd.update_container(object, &[path.as_str()]).await
        };
        match undone.await {
            Ok(()) => {
                container.state.send_replace(State::Exited(exit));
                self.events.stopped(container);
            }
            Err(undo) => {
                tracing::warn!(container = %container.id, error = %undo, "failed start not cleaned up");
            }
        }
        container.close_log();
    }
}

/// A process that has ended cannot be signalled, which is what was wanted.
pub(crate) fn ignore_wrong_state(
    error: crate::containerd::ContainerdError,
) -> Result<(), crate::containerd::ContainerdError> {
    match error.kind {
        crate::containerd::ErrorKind::WrongState => Ok(()),
        _ => Err(error),
    }
}
