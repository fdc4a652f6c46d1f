//! containerd's tasks and their processes, over its socket.

use containerd_client::{services::v1 as api, types::v1::Process};
use prost_types::Any;

use super::{Grpc, call, exit};
use crate::containerd::{ProcessExit, Result, Tasks};

#[async_trait::async_trait]
impl Tasks for Grpc {
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
}
