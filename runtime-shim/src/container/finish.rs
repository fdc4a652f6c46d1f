//! The end of a container: output taken, exit recorded, task deleted; in this order, so that a crash anywhere leaves
//! enough to go on from.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    Container,
    state::{self, State},
};
use crate::{
    containerd::{ContainerdError, already_gone},
    record::{self, ContainerExit},
    shim::Shim,
    steps::timed,
};

/// How long the end of a container waits for its last output.
const LAST_OUTPUT: Duration = Duration::from_millis(250);
/// How long a start may take to be noted after its process has ended.
const START_NOTED: Duration = Duration::from_secs(10);

impl Shim {
    /// Records that the container's process has ended. Repeatable.
    pub(crate) async fn finish(self: Arc<Self>, container: Arc<Container>, code: u32, finished_at: i64) {
        let _alone = container.finishing.lock().await;
        // A short-lived process may end before the call that starts it has noted that it runs.
        let mut states = container.state.subscribe();
        let _ = timeout(START_NOTED, states.wait_for(|state| *state != State::Created)).await;
        let started_at = match container.state() {
            State::Created => finished_at,
            // A process starts with its task's creation, and may have ended before that is noted.
            State::Running { started_at, .. } => started_at.min(finished_at),
            // The earlier one may have been cut off between the record and the task.
            State::Exited(_) => {
                if let Err(error) = self.delete_task(&container).await {
                    tracing::warn!(container = %container.id, %error, "task of an exited container not deleted");
                    self.unsettled.notify_one();
                }
                return;
            }
        };
        if let Some(pump) = container.pump() {
            timed("last output", pump.drain(LAST_OUTPUT)).await;
        }
        let code = i32::try_from(code).unwrap_or(i32::MAX);
        // Read before the task is deleted, and its cgroup with it.
        let out_of_memory = self.cgroups.oom_kills(&container.detail.cgroup) > 0;
        let exit = ContainerExit {
            code,
            started_at,
            finished_at,
            reason: state::reason(code, out_of_memory).into(),
            message: String::new(),
        };
        self.record_exit(&container, exit).await;
    }

    /// Makes an exit known once its task is gone: those who wait for it may remove the container at once.
    pub(crate) async fn record_exit(&self, container: &Arc<Container>, exit: ContainerExit) {
        let (object, path) = record::container_exited(&container.id, &exit);
        let paths = [path.as_str()];
        let recorded = timed("record exit", self.containerd.update_container(object, &paths)).await;
        // With the record missing the task must stay: it is then the only witness, and is read again at the next
        // connection to containerd.
        let outcome = match already_gone(recorded) {
            Ok(()) => self.delete_task(container).await,
            Err(error) => Err(error),
        };
        container.close_log();
        let before = container.state.send_replace(State::Exited(exit));
        if !matches!(before, State::Exited(_)) {
            self.events.stopped(container);
        }
        if let Err(error) = outcome {
            tracing::warn!(container = %container.id, %error, "exit not recorded; it will be soon");
            self.unsettled.notify_one();
        }
    }

    pub(super) async fn delete_task(&self, container: &Container) -> Result<(), ContainerdError> {
        let deleted = timed("task delete", self.containerd.delete_task(container.id.as_str())).await;
        already_gone(deleted.map(drop))?;
        container.set_task(false);
        Ok(())
    }
}
