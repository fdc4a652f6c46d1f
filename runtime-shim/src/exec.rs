//! ExecSync: a command in a running container, and what it wrote.
//!
//! ```text
//! FIFOs ─► exec ─► start ─► (exit | time limit: SIGKILL) ─► output taken ─► process deleted, FIFOs removed
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use containerd_client::services::v1::ExecProcessRequest;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, time::timeout};

use crate::{
    container::{Container, state::State},
    containerd::already_gone,
    error::{Error, Result},
    ids::ContainerId,
    logs::Fifos,
    shim::Shim,
    steps::timed,
};

/// As containerd's Go client names it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The most that one stream of a command gives back; the rest is read and dropped, so that the command can end.
const MAX_OUTPUT: usize = 16 << 20;
/// How long output may stay open after the command's end: a child of it may hold it.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: Bytes,
    pub(crate) stderr: Bytes,
    pub(crate) code: i32,
}

impl Shim {
    /// CRI: a time limit of zero seconds or less is none.
    pub(crate) async fn exec_sync(
        self: Arc<Self>,
        id: String,
        command: Vec<String>,
        limit_seconds: i64,
    ) -> Result<Outcome> {
        let container = self.table.container(&id)?;
        if command.is_empty() {
            return Err(Error::invalid("cmd", "no command"));
        }
        let state = container.state();
        if !matches!(state, State::Running { .. }) {
            return Err(Error::WrongState {
                kind: "container",
                id: container.id.to_string(),
                state: state.name(),
                next_step: "commands run in running containers",
            });
        }
        let limit = u64::try_from(limit_seconds).ok().filter(|&seconds| seconds > 0);
        let exec = ContainerId::random();
        // Named like a container's, but nobody's: left behind by a crash, they are cleared away at the next start.
        let fifos = Fifos::new(&self.config.state_dir, &exec, false, false);
        let outcome = self.exec(&container, &exec, &fifos, command, limit).await;
        fifos.remove()?;
        outcome
    }

    async fn exec(
        &self,
        container: &Container,
        exec: &ContainerId,
        fifos: &Fifos,
        command: Vec<String>,
        limit: Option<u64>,
    ) -> Result<Outcome> {
        fifos.make()?;
        let (stdout, stderr) = fifos.readers()?;
        let keeper = fifos.keeper()?;
        let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
        let request = ExecProcessRequest {
            container_id: container.id.to_string(),
            exec_id: exec.to_string(),
            stdout: path(Some(fifos.stdout())),
            stderr: path(fifos.stderr()),
            spec: Some(prost_types::Any {
                type_url: PROCESS_TYPE.into(),
                value: self.exec_process(container, command).await?,
            }),
            ..Default::default()
        };
        timed("exec", self.containerd.exec(request)).await?;
        let ended = async {
            timed(
                "exec start",
                self.containerd.start(container.id.as_str(), Some(exec.as_str())),
            )
            .await?;
            // containerd's shim process has the FIFOs open now; with it they end.
            drop(keeper);
            self.await_exec(container, exec, limit).await
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = {
            let mut reading =
                std::pin::pin!(async { tokio::join!(take(stdout, &mut out), take_some(stderr, &mut err)) });
            let mut ended = std::pin::pin!(ended);
            let mut is_read = false;
            let outcome = loop {
                tokio::select! {
                    outcome = &mut ended => break outcome,
                    _ = &mut reading, if !is_read => is_read = true,
                }
            };
            if !is_read {
                let _ = timeout(LAST_OUTPUT, reading).await;
            }
            outcome
        };
        let deleted = self
            .containerd
            .delete_process(container.id.as_str(), exec.as_str())
            .await;
        already_gone(deleted.map(drop))?;
        Ok(Outcome {
            stdout: out.into(),
            stderr: err.into(),
            code: outcome?,
        })
    }

    /// Waits for the command's end and kills it at its time limit.
    async fn await_exec(&self, container: &Container, exec: &ContainerId, limit: Option<u64>) -> Result<i32> {
        let (id, exec_id) = (container.id.as_str(), exec.as_str());
        let wait = self.containerd.wait(id, Some(exec_id));
        let Some(seconds) = limit else {
            return Ok(exit_code(wait.await?.code));
        };
        let mut wait = std::pin::pin!(wait);
        if let Ok(exit) = timeout(Duration::from_secs(seconds), &mut wait).await {
            return Ok(exit_code(exit?.code));
        }
        let kill = rustix::process::Signal::KILL.as_raw().unsigned_abs();
        let sent = self.containerd.kill(id, Some(exec_id), kill).await;
        already_gone(sent).or_else(crate::container::ignore_wrong_state)?;
        // Its process must be gone before it can be deleted.
        let _ = timeout(KILL_LIMIT, wait).await;
        Err(Error::Deadline {
            what: format!("the command in container {id}"),
            seconds,
        })
    }

    /// The container's own process with another command.
    async fn exec_process(&self, container: &Container, command: Vec<String>) -> Result<Vec<u8>> {
        let object = self.containerd.get_container(container.id.as_str()).await?;
        let unreadable = |_| Error::invalid("container_id", "its spec in containerd is not JSON");
        let spec = object.spec.unwrap_or_default();
        let mut document: serde_json::Value = serde_json::from_slice(&spec.value).map_err(unreadable)?;
        let mut process = document["process"].take();
        process["args"] = command.into();
        process["terminal"] = false.into();
        serde_json::to_vec(&process).map_err(unreadable)
    }
}

fn exit_code(code: u32) -> i32 {
    i32::try_from(code).unwrap_or(i32::MAX)
}

async fn take_some(pipe: Option<pipe::Receiver>, output: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        take(pipe, output).await;
    }
}

/// Reads to the end, and keeps the first [`MAX_OUTPUT`] bytes.
async fn take(mut pipe: pipe::Receiver, output: &mut Vec<u8>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let room = MAX_OUTPUT - output.len();
        output.extend_from_slice(&buffer[..length.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn output_beyond_the_bound_is_dropped_and_does_not_block_its_writer() {
        let (mut sender, receiver) = pipe::pipe().unwrap();
        let mut output = Vec::new();
        let write = async move {
            let chunk = vec![b'x'; 1 << 20];
            for _ in 0..17 {
                sender.write_all(&chunk).await.unwrap();
            }
        };
        tokio::join!(write, take(receiver, &mut output));
        assert_eq!(output.len(), MAX_OUTPUT);
    }
}
