//! Commands in running containers.
//!
//! ```text
//! FIFOs ─► exec ─► start ─► running ─(exit)─► output taken ─► process deleted, FIFOs removed
//!                              │                                     ▲
//!                              ├─(ExecSync's time limit: SIGKILL)────┤
//!                              └─(end of this process)─► left ─(next start: taken up, output dropped)
//! ```

mod input;
mod session;
mod sync;

use std::{sync::Arc, time::Duration};

use containerd_client::services::v1::ExecProcessRequest;
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    sync::watch,
    time::{sleep, timeout},
};

pub(crate) use self::input::{feed, follow_size};
use crate::{
    container::{Container, state::State},
    containerd::{ErrorKind, already_gone},
    error::{Error, Result},
    ids::ContainerId,
    logs::Fifos,
    shim::Shim,
    steps::timed,
    streams::Size,
};

/// As containerd's Go client names it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// How long output may stay open and silent after the command's end: a child of it may hold it.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Between looks for a containerd that has gone while a command ran.
const COMES_BACK: Duration = Duration::from_millis(100);

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    /// Of its terminal, as it starts.
    pub(crate) size: Option<Size>,
}

/// A process beside a container's own.
#[derive(Debug)]
struct Process {
    container: Arc<Container>,
    id: ContainerId,
    fifos: Fifos,
}

/// The reading ends of a process's output.
struct Outputs {
    stdout: pipe::Receiver,
    stderr: Option<pipe::Receiver>,
}

impl Shim {
    /// The container, if it runs.
    pub(crate) fn running_container(&self, id: &str, next_step: &'static str) -> Result<Arc<Container>> {
        let container = self.table.container(id)?;
        let state = container.state();
        if matches!(state, State::Running { .. }) {
            return Ok(container);
        }
        Err(Error::WrongState {
            kind: "container",
            id: container.id.to_string(),
            state: state.name(),
            next_step,
        })
    }

    /// The container that a command can run in.
    pub(crate) fn executable(&self, id: &str, command: &Command) -> Result<Arc<Container>> {
        self.ready()?;
        let container = self.running_container(id, "commands run in running containers")?;
        if command.argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("cmd", "no command"));
        }
        Ok(container)
    }

    /// Starts the command. Nothing of it stays if that fails.
    async fn start_process(
        &self,
        container: &Arc<Container>,
        command: &Command,
    ) -> Result<(Process, Outputs)> {
        let id = ContainerId::random();
        let fifos = Fifos::of_exec(
            &self.config.state_dir,
            &container.id,
            &id,
            command.tty,
            command.stdin,
        );
        let process = Process {
            container: Arc::clone(container),
            id,
            fifos,
        };
        match self.try_start(&process, command).await {
            Ok(outputs) => Ok((process, outputs)),
            Err(error) => {
                if let Err(undo) = self.end_process(&process).await {
                    tracing::warn!(container = %container.id, error = %undo, "failed command not cleaned up");
                }
                Err(error)
            }
        }
    }

    async fn try_start(&self, process: &Process, command: &Command) -> Result<Outputs> {
        let (container, id) = (process.container.id.as_str(), process.id.as_str());
        process.fifos.make()?;
        let (stdout, stderr) = process.fifos.readers()?;
        let keeper = process.fifos.keeper()?;
        let text = |path: Option<std::path::PathBuf>| {
            path.map(|path| path.display().to_string()).unwrap_or_default()
        };
        let request = ExecProcessRequest {
            container_id: container.to_owned(),
            exec_id: id.to_owned(),
            terminal: command.tty,
            stdin: text(process.fifos.stdin()),
            stdout: text(Some(process.fifos.stdout())),
            stderr: text(process.fifos.stderr()),
            spec: Some(prost_types::Any {
                type_url: PROCESS_TYPE.into(),
                value: self.exec_process(&process.container, command).await?,
            }),
        };
        timed("exec", self.containerd.exec(request)).await?;
        timed("exec start", self.containerd.start(container, Some(id))).await?;
        // containerd's shim process has the FIFOs open now; with it they end.
        drop(keeper);
        Ok(Outputs { stdout, stderr })
    }

    /// Deletes a process that has ended, or that has never started. Repeatable.
    async fn end_process(&self, process: &Process) -> Result<()> {
        let (container, id) = (process.container.id.as_str(), process.id.as_str());
        let deleted = timed("exec delete", self.containerd.delete_process(container, id)).await;
        // With the container its processes have gone.
        already_gone(deleted.map(drop))?;
        process.fifos.remove()
    }

    /// Waits for the process's end; its exit code. A containerd that goes away meanwhile is waited for: the process
    /// does not notice.
    async fn process_end(&self, process: &Process) -> Result<i32> {
        let (container, id) = (process.container.id.as_str(), process.id.as_str());
        loop {
            match self.containerd.wait(container, Some(id)).await {
                Ok(exit) => return Ok(exit_code(exit.code)),
                Err(error) if error.kind == ErrorKind::Unavailable => sleep(COMES_BACK).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn kill_process(&self, process: &Process) -> Result<()> {
        let kill = rustix::process::Signal::KILL.as_raw().unsigned_abs();
        let (container, id) = (process.container.id.as_str(), process.id.as_str());
        let sent = self.containerd.kill(container, Some(id), kill).await;
        Ok(already_gone(sent).or_else(crate::container::ignore_wrong_state)?)
    }

    /// Looks after a command that an earlier run of this program has left: takes what it writes, so that it can end,
    /// and removes what it leaves.
    pub(crate) async fn tend_left_process(self: Arc<Self>, container: Arc<Container>, id: ContainerId) {
        let fifos = Fifos::of_exec(&self.config.state_dir, &container.id, &id, false, false);
        let process = Process { container, id, fifos };
        // One with a terminal has a single stream.
        let outputs = process.fifos.readers_of_those_there();
        let (ended, exited) = watch::channel(false);
        let end = async {
            let code = self.process_end(&process).await;
            ended.send_replace(true);
            code
        };
        let tended = async {
            let (code, _) = tokio::join!(
                end,
                futures::future::join_all(outputs.into_iter().map(|output| take_all(output, exited.clone())))
            );
            match code {
                Ok(_) | Err(Error::Containerd(_)) => self.end_process(&process).await,
                Err(error) => Err(error),
            }
        };
        tokio::select! {
            outcome = tended => if let Err(error) = outcome {
                let error = clone8s_daemon::supervisor::chain(&error);
                tracing::warn!(container = %process.container.id, error, "a command left by the last run is not cleaned up");
            },
            () = self.stopping.cancelled() => {}
        }
    }

    /// The container's own process with another command.
    async fn exec_process(&self, container: &Container, command: &Command) -> Result<Vec<u8>> {
        let object = self.containerd.get_container(container.id.as_str()).await?;
        let unreadable = |_| Error::invalid("container_id", "its spec in containerd is not JSON");
        let spec = object.spec.unwrap_or_default();
        let mut document: serde_json::Value = serde_json::from_slice(&spec.value).map_err(unreadable)?;
        let mut process = document["process"].take();
        process["args"] = command.argv.clone().into();
        process["terminal"] = command.tty.into();
        // The container's own is of another terminal.
        process["consoleSize"] = match command.size {
            Some(size) if command.tty => serde_json::json!({"width": size.width, "height": size.height}),
            _ => serde_json::Value::Null,
        };
        if command.tty
            && let Some(env) = process["env"].as_array_mut()
        {
            let has_term = env
                .iter()
                .any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")));
            if !has_term {
                env.push("TERM=xterm".into());
            }
        }
        serde_json::to_vec(&process).map_err(unreadable)
    }
}

fn exit_code(code: u32) -> i32 {
    i32::try_from(code).unwrap_or(i32::MAX)
}

/// The next bytes of a process's output; none at its end, or once the process has ended and nothing has come for
/// [`LAST_OUTPUT`]. However slow the taker: only the waiting for bytes is timed.
async fn next_output(
    pipe: &mut pipe::Receiver,
    buffer: &mut bytes::BytesMut,
    exited: &mut watch::Receiver<bool>,
) -> bool {
    let silent = async {
        // An error says that whoever knows of the end has gone.
        let _ = exited.wait_for(|exited| *exited).await;
        sleep(LAST_OUTPUT).await;
    };
    tokio::select! {
        biased;
        read = pipe.read_buf(buffer) => matches!(read, Ok(1..)),
        () = silent => false,
    }
}

/// Reads to the end and keeps nothing.
async fn take_all(mut pipe: pipe::Receiver, mut exited: watch::Receiver<bool>) {
    let mut buffer = bytes::BytesMut::with_capacity(PART);
    while next_output(&mut pipe, &mut buffer, &mut exited).await {
        buffer.clear();
    }
}

/// What is read of a process at a time.
const PART: usize = 32 << 10;

/// Waits at most so long for a process that was killed.
async fn within_kill_limit<T>(wait: impl Future<Output = T>) {
    let _ = timeout(KILL_LIMIT, wait).await;
}
