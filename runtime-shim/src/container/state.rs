//! Where a container is in its life, and how it got there.

use clone8s::cri::ContainerState;
use containerd_client::types::v1::Status as TaskStatus;

use crate::record::ContainerExit;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running {
        pid: u32,
        /// Nanoseconds since 1970.
        started_at: i64,
    },
    Exited(ContainerExit),
}

impl State {
    pub(crate) fn as_cri(&self) -> ContainerState {
        match self {
            Self::Created => ContainerState::ContainerCreated,
            Self::Running { .. } => ContainerState::ContainerRunning,
            Self::Exited(_) => ContainerState::ContainerExited,
        }
    }

    pub(crate) fn was_started(&self) -> bool {
        match self {
            Self::Created => false,
            Self::Running { .. } => true,
            Self::Exited(exit) => exit.started_at > 0,
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
        }
    }
}

/// What containerd knows of a container's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskSeen {
    pub(crate) status: TaskStatus,
    pub(crate) pid: u32,
    pub(crate) exit_code: u32,
    /// Nanoseconds since 1970.
    pub(crate) exited_at: i64,
}

/// What to make of a container whose record and task were read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Nothing is left to do.
    As(State),
    /// Read its output again.
    Running { pid: u32, started_at: i64 },
    /// Its task was made but never started: delete it, so that it can be started.
    Undo,
    /// It ended while nobody looked: record its exit and delete its task.
    Finish {
        code: u32,
        started_at: i64,
        exited_at: i64,
    },
    /// Its exit was recorded, its task is still there: delete it.
    DeleteTask(ContainerExit),
    /// It was started, and containerd has lost it: record that.
    Lost { started_at: i64 },
}

/// Decides from the recorded start and exit and from what containerd still has.
pub(crate) fn recover(
    started_at: Option<i64>,
    exit: Option<&ContainerExit>,
    task: Option<TaskSeen>,
) -> Recovery {
    match (exit, task) {
        (Some(exit), None) => Recovery::As(State::Exited(exit.clone())),
        (Some(exit), Some(_)) => Recovery::DeleteTask(exit.clone()),
        (None, Some(task)) => match task.status {
            TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing => Recovery::Running {
                pid: task.pid,
                // Killed between the start and its record: the start was just then.
                started_at: started_at.unwrap_or_default(),
            },
            TaskStatus::Stopped => Recovery::Finish {
                code: task.exit_code,
                started_at: started_at.unwrap_or(task.exited_at),
                exited_at: task.exited_at,
            },
            TaskStatus::Created | TaskStatus::Unknown => Recovery::Undo,
        },
        (None, None) => match started_at {
            Some(started_at) => Recovery::Lost { started_at },
            None => Recovery::As(State::Created),
        },
    }
}

/// CRI's reason for an exit, as kubelets show it.
pub(crate) fn reason(code: i32, out_of_memory: bool) -> &'static str {
    match (code, out_of_memory) {
        (0, _) => "Completed",
        (_, true) => "OOMKilled",
        (_, false) => "Error",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn ended() -> ContainerExit {
        ContainerExit {
            code: 3,
            started_at: 10,
            finished_at: 20,
            reason: "Error".into(),
            message: String::new(),
        }
    }

    fn task(status: TaskStatus) -> TaskSeen {
        TaskSeen {
            status,
            pid: 7,
            exit_code: 3,
            exited_at: 20,
        }
    }

    #[rstest]
    #[case::never_started(None, None, None, Recovery::As(State::Created))]
    #[case::running(Some(10), None, Some(TaskStatus::Running), Recovery::Running { pid: 7, started_at: 10 })]
    #[case::paused(Some(10), None, Some(TaskStatus::Paused), Recovery::Running { pid: 7, started_at: 10 })]
    #[case::half_started(None, None, Some(TaskStatus::Created), Recovery::Undo)]
    #[case::ended_unseen(
        Some(10), None, Some(TaskStatus::Stopped), Recovery::Finish { code: 3, started_at: 10, exited_at: 20 }
    )]
    #[case::ended_recorded(Some(10), Some(ended()), None, Recovery::As(State::Exited(ended())))]
    #[case::ended_task_left(
        Some(10),
        Some(ended()),
        Some(TaskStatus::Stopped),
        Recovery::DeleteTask(ended())
    )]
    #[case::lost(Some(10), None, None, Recovery::Lost { started_at: 10 })]
    fn a_container_read_back_is(
        #[case] started_at: Option<i64>,
        #[case] exit: Option<ContainerExit>,
        #[case] status: Option<TaskStatus>,
        #[case] expected: Recovery,
    ) {
        assert_eq!(recover(started_at, exit.as_ref(), status.map(task)), expected);
    }
}
