//! The tasks and their processes of the containerd in memory.

use containerd_client::{
    services::v1 as api,
    types::v1::{Process, Status as TaskStatus},
};
use prost_types::Any;

use super::{Fake, state::Task};
use crate::{
    containerd::{ErrorKind, ProcessExit, Result, Tasks},
    table::lock,
};

#[async_trait::async_trait]
impl Tasks for Fake {
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
}
