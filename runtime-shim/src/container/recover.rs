//! Containers that were there before this process, or before containerd went away.

use std::sync::Arc;

use super::{
    Container,
    state::{self, Recovery, State, TaskSeen},
};
use crate::{
    error::Result,
    logs::Pump,
    record::{ContainerExit, ContainerRecord},
    shim::Shim,
    table::lock,
    time::now_nanos,
};

/// The exit code of a container whose end nobody has seen, as kubelets know it from containerd.
const UNSEEN: i32 = 255;

impl Shim {
    /// Takes up a container that containerd remembers.
    pub(crate) async fn adopt_container(
        self: &Arc<Self>,
        record: ContainerRecord,
        task: Option<TaskSeen>,
    ) -> Result<()> {
        let recovery = state::recover(record.started_at, record.exit.as_ref(), task);
        let created_at = record.detail.created_at;
        let adopt = |state: State| {
            let container = Arc::new(Container::from_record(record.clone(), state));
            container.set_task(task.is_some());
            container.set_adopted();
            self.table.insert_container(Arc::clone(&container));
            container
        };
        match recovery {
            Recovery::As(state) => drop(adopt(state)),
            Recovery::Running { pid, started_at: 0 } => {
                let started_at = created_at;
                let container = adopt(State::Running { pid, started_at });
                self.take_up_output(&container);
                self.complete_start(&container, started_at).await;
            }
            Recovery::Running { pid, started_at } => {
                let container = adopt(State::Running { pid, started_at });
                self.take_up_output(&container);
            }
            Recovery::Undo => {
                let container = adopt(State::Created);
                self.undo_start(&container).await?;
            }
            Recovery::Finish {
                code,
                started_at,
                exited_at,
            } => {
                let pid = task.map_or(0, |task| task.pid);
                let container = adopt(State::Running { pid, started_at });
                self.take_up_output(&container);
                Arc::clone(self).finish(container, code, exited_at).await;
            }
            Recovery::DeleteTask(exit) => {
                let container = adopt(State::Exited(exit));
                Arc::clone(self).finish(container, 0, 0).await;
            }
            Recovery::Lost { started_at } => {
                let container = adopt(State::Running { pid: 0, started_at });
                self.record_lost(&container, started_at).await;
            }
        }
        Ok(())
    }

    /// Compares a container that this process knows with what containerd has after a break.
    pub(crate) async fn compare_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        task: Option<TaskSeen>,
    ) {
        match (container.state(), task) {
            (State::Running { started_at, .. }, None) => self.record_lost(container, started_at).await,
            (State::Running { .. }, Some(task)) => {
                use containerd_client::types::v1::Status;
                if task.status == Status::Stopped {
                    Arc::clone(self)
                        .finish(Arc::clone(container), task.exit_code, task.exited_at)
                        .await;
                }
            }
            // Its exit could not be recorded before.
            (State::Exited(exit), Some(_)) => self.record_exit(container, exit).await,
            (State::Exited(_), None) | (State::Created, _) => {}
        }
    }

    /// Our own shim starts a process with its task, and tells of its end once its start has been asked for. A start
    /// that was cut off between the two is asked for again: else nobody would ever hear how the process ends.
    async fn complete_start(self: &Arc<Self>, container: &Arc<Container>, started_at: i64) {
        if let Err(error) = self.containerd.start(container.id.as_str(), None).await {
            // What was lost was the record of the start alone.
            tracing::debug!(container = %container.id, %error, "it was started before");
        }
        Arc::clone(self)
            .record_start(Arc::clone(container), started_at)
            .await;
    }

    async fn record_lost(self: &Arc<Self>, container: &Arc<Container>, started_at: i64) {
        let exit = ContainerExit {
            code: UNSEEN,
            started_at,
            finished_at: now_nanos(),
            reason: "Unknown".into(),
            message: "containerd has lost the container's process; the machine may have restarted".into(),
        };
        self.record_exit(container, exit).await;
    }

    /// Reads on where the process before this one stopped.
    fn take_up_output(self: &Arc<Self>, container: &Arc<Container>) {
        match Pump::reopen_fifos(&self.fifos(container), &container.detail.log_path) {
            Ok((pump, output)) => {
                *lock(&container.log) = Some(Arc::new(pump));
                self.own(output);
            }
            Err(error) => {
                let error = clone8s_daemon::supervisor::chain(&error);
                tracing::error!(container = %container.id, error, "cannot read the container's output any more");
            }
        }
    }
}
