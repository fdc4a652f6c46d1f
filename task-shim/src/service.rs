//! The methods of the task API, by name.

use std::rc::Rc;

use prost::Message;
use prost_types::Any;

use crate::{
    failure::{Failure, Result},
    messages::{
        CheckpointTaskRequest, CloseIoRequest, ConnectResponse, ContainerRequest, CreateTaskRequest, Empty,
        ExecProcessRequest, KillRequest, PidResponse, PidsResponse, ProcessDetails, ProcessInfo,
        ProcessRequest, ResizePtyRequest, ShutdownRequest, StateResponse, StatsResponse, UpdateTaskRequest,
        WaitResponse,
    },
    metrics,
    pod::Pod,
    stdio,
    ttrpc::Request,
};

const TASK: &str = "containerd.task.v2.Task";
/// What this program asks of itself.
pub(crate) const POD: &str = "clone8s.task.v1.Pod";

pub(crate) async fn handle(pod: Rc<Pod>, request: Request) -> Result<Vec<u8>> {
    let name = format!("{}/{}", request.service, request.method);
    let body = request.payload.as_slice();
    match (request.service.as_str(), request.method.as_str()) {
        (POD, "Expect") => {
            pod.expect(decode::<ContainerRequest>(body)?.id);
            empty()
        }
        (POD, "Discard") => answer(&pod.discard(&decode::<ContainerRequest>(body)?.id).await?),
        (TASK, "Create") => answer(&PidResponse {
            pid: pod.create(decode::<CreateTaskRequest>(body)?).await?,
        }),
        (TASK, "Start") => {
            let asked: ProcessRequest = decode(body)?;
            answer(&PidResponse {
                pid: pod.start(&asked.id, &asked.exec_id).await?,
            })
        }
        (TASK, "Exec") => {
            pod.exec(decode::<ExecProcessRequest>(body)?).await?;
            empty()
        }
        (TASK, "Kill") => {
            pod.kill(&decode::<KillRequest>(body)?).await?;
            empty()
        }
        (TASK, "Wait") => {
            let asked: ProcessRequest = decode(body)?;
            let (_, process) = pod.process(&asked.id, &asked.exec_id).await?;
            let exit = process.ended().await;
            answer(&WaitResponse {
                exit_status: exit.code,
                exited_at: Some(exit.at),
            })
        }
        (TASK, "Delete") => {
            let asked: ProcessRequest = decode(body)?;
            answer(&pod.delete(&asked.id, &asked.exec_id).await?)
        }
        (TASK, "State") => answer(&state(&pod, &decode(body)?).await?),
        (TASK, "Pids") => answer(&pids(&pod, &decode::<ContainerRequest>(body)?.id).await?),
        (TASK, "Stats") => {
            let container = pod.container(&decode::<ContainerRequest>(body)?.id).await?;
            let cgroup = container.cgroup.as_ref();
            let cgroup =
                cgroup.ok_or_else(|| Failure::NotFound(format!("cgroup of container {}", container.id)))?;
            answer(&StatsResponse {
                stats: Some(metrics::of(cgroup)),
            })
        }
        (TASK, "Update") => {
            let asked: UpdateTaskRequest = decode(body)?;
            let container = pod.container(&asked.id).await?;
            let _changing = container.changing.lock().await;
            container
                .update(&asked.resources.unwrap_or_default().value, &pod.reaper)
                .await?;
            empty()
        }
        (TASK, "Pause") => {
            pod.pause(&decode::<ContainerRequest>(body)?.id).await?;
            empty()
        }
        (TASK, "Resume") => {
            pod.resume(&decode::<ContainerRequest>(body)?.id).await?;
            empty()
        }
        (TASK, "Checkpoint") => {
            pod.checkpoint(decode::<CheckpointTaskRequest>(body)?).await?;
            empty()
        }
        (TASK, "ResizePty") => {
            let asked: ResizePtyRequest = decode(body)?;
            let (_, process) = pod.process(&asked.id, &asked.exec_id).await?;
            match process.held.borrow().console() {
                Some(console) => stdio::resize(console, asked.width, asked.height)?,
                None => {
                    return Err(Failure::WrongState {
                        what: asked.id,
                        state: "without a terminal",
                        wanted: "resized",
                    });
                }
            }
            empty()
        }
        (TASK, "CloseIO") => {
            let asked: CloseIoRequest = decode(body)?;
            let (_, process) = pod.process(&asked.id, &asked.exec_id).await?;
            if asked.stdin {
                process.held.borrow_mut().close_input();
            }
            empty()
        }
        (TASK, "Connect") => {
            let asked: ContainerRequest = decode(body)?;
            answer(&ConnectResponse {
                shim_pid: std::process::id(),
                task_pid: pod
                    .container(&asked.id)
                    .await
                    .map_or(0, |container| container.init.pid.get()),
                version: String::new(),
            })
        }
        (TASK, "Shutdown") => {
            drop(decode::<ShutdownRequest>(body)?);
            pod.shut_down();
            empty()
        }
        _ => Err(Failure::NoMethod(name)),
    }
}

async fn state(pod: &Pod, asked: &ProcessRequest) -> Result<StateResponse> {
    let (container, process) = pod.process(&asked.id, &asked.exec_id).await?;
    let exit = process.exit();
    Ok(StateResponse {
        id: container.id.clone(),
        bundle: container.bundle.display().to_string(),
        pid: process.pid.get(),
        status: process.status.get().into(),
        stdin: process.paths.stdin.clone(),
        stdout: process.paths.stdout.clone(),
        stderr: process.paths.stderr.clone(),
        terminal: process.paths.terminal,
        exit_status: exit.map_or(0, |exit| exit.code),
        exited_at: exit.map(|exit| exit.at),
        exec_id: process.exec_id.clone(),
    })
}

async fn pids(pod: &Pod, id: &str) -> Result<PidsResponse> {
    let container = pod.container(id).await?;
    let execs = container.execs.borrow();
    let info = |pid: u32| {
        let process = execs.values().find(|process| process.pid.get() == pid)?;
        Some(Any {
            type_url: "containerd.runc.v1.ProcessDetails".into(),
            value: ProcessDetails {
                exec_id: process.exec_id.clone(),
            }
            .encode_to_vec(),
        })
    };
    let pids = container
        .cgroup
        .as_ref()
        .map(crate::cgroup::Cgroup::pids)
        .unwrap_or_default();
    Ok(PidsResponse {
        processes: pids
            .into_iter()
            .map(|pid| ProcessInfo { pid, info: info(pid) })
            .collect(),
    })
}

fn decode<T: Message + Default>(body: &[u8]) -> Result<T> {
    T::decode(body).map_err(|error| Failure::Invalid {
        field: "request",
        problem: error.to_string(),
    })
}

#[expect(clippy::unnecessary_wraps, reason = "as every arm of the table above")]
fn answer(message: &impl Message) -> Result<Vec<u8>> {
    Ok(message.encode_to_vec())
}

fn empty() -> Result<Vec<u8>> {
    answer(&Empty {})
}
