//! Exec, attach and port-forward: sessions of the runtime with the container or the sandbox that a call means.

use std::{fmt, sync::Arc};

use clone8s::v1::{AttachPodStart, ExecPodStart, PortForwardPodStart};
use futures::StreamExt as _;
use tonic::Status;

use super::{
    answer::{Frames, Inputs},
    place::{KnownPod, Pods},
};
use crate::{
    desired::PodKey,
    pod::observed::{Observed, Run, RunState, Sandbox},
    runtime::{ContainerId, Output, Runtime, RuntimeError, SandboxId, Session},
};

/// Opens sessions with the pods of the node.
#[derive(Clone)]
pub(super) struct Sessions {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) pods: Pods,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) async fn exec(
        &self,
        start: ExecPodStart,
        frames: &Frames,
        inputs: Inputs,
    ) -> Result<(), Status> {
        let pod = self.pods.find(&start.namespace, &start.name)?;
        let session = Session::Exec {
            container: self.running(&pod, &start.container).await?,
            command: start.command,
            stdin: start.stdin,
            tty: start.tty,
            size: start.size.map(Into::into),
        };
        match self.carry(session, frames, inputs).await? {
            Some(Output::ExitCode(code)) => Ok(frames.exit_code(code).await?),
            _ => Err(Status::unavailable(
                "the container runtime let go of the command before its end",
            )),
        }
    }

    pub(super) async fn attach(
        &self,
        start: AttachPodStart,
        frames: &Frames,
        inputs: Inputs,
    ) -> Result<(), Status> {
        let pod = self.pods.find(&start.namespace, &start.name)?;
        let session = Session::Attach {
            container: self.running(&pod, &start.container).await?,
            stdin: start.stdin,
        };
        self.carry(session, frames, inputs).await.map(drop)
    }

    pub(super) async fn port_forward(
        &self,
        start: PortForwardPodStart,
        frames: &Frames,
        inputs: Inputs,
    ) -> Result<(), Status> {
        let pod = self.pods.find(&start.namespace, &start.name)?;
        let session = Session::PortForward {
            sandbox: self.sandbox(&pod).await?,
            port: start.port,
        };
        self.carry(session, frames, inputs).await.map(drop)
    }

    /// Sends what the session says until it ends or tells an exit code.
    async fn carry(
        &self,
        session: Session,
        frames: &Frames,
        inputs: Inputs,
    ) -> Result<Option<Output>, Status> {
        let mut outputs = self.runtime.open(session, inputs.into_stream().boxed()).await?;
        while let Some(output) = outputs.next().await {
            match output? {
                Output::Started => frames.started().await?,
                Output::Data(bytes) => frames.data(bytes).await?,
                Output::Stderr(bytes) => frames.stderr(bytes).await?,
                last @ Output::ExitCode(_) => return Ok(Some(last)),
            }
        }
        Ok(None)
    }

    /// The present run of a container.
    async fn running(&self, pod: &KnownPod, container: &str) -> Result<ContainerId, Status> {
        let name = pod.container(container)?;
        let key = pod.key();
        let listed = self
            .runtime
            .list_containers(Some(key))
            .await
            .map_err(|error| unavailable(&error))?;
        let runs = listed.iter().filter_map(|listed| Run::parse(listed, None));
        let observed = Observed {
            containers: of(key, runs),
            ..Default::default()
        };
        let runs = observed.runs_of(pod.uid(), &name);
        let is_running = |run: &&&Run| matches!(run.state, RunState::Running { .. });
        match runs.iter().find(is_running) {
            Some(run) => Ok(run.id.clone()),
            None => Err(Status::failed_precondition(format!(
                "container {name} of pod {key} is not running{}; c8s describe pod tells what became of it",
                pod.waiting_for(&name)
            ))),
        }
    }

    /// Where the pod's ports are.
    async fn sandbox(&self, pod: &KnownPod) -> Result<SandboxId, Status> {
        let key = pod.key();
        let listed = self
            .runtime
            .list_sandboxes(Some(key))
            .await
            .map_err(|error| unavailable(&error))?;
        let observed = Observed {
            sandboxes: of(key, listed.iter().filter_map(Sandbox::parse)),
            ..Default::default()
        };
        match observed.ready_sandbox(pod.uid()) {
            Some(sandbox) => Ok(sandbox.id.clone()),
            None => Err(Status::failed_precondition(format!(
                "pod {key} is not running; c8s describe pod tells what became of it"
            ))),
        }
    }
}

/// A runtime may ignore the filter of a list; the labels decide.
fn of<T>(key: &PodKey, listed: impl Iterator<Item = (PodKey, T)>) -> Vec<T> {
    let own = listed.filter(|(owner, _)| owner == key);
    own.map(|(_, one)| one).collect()
}

fn unavailable(error: &RuntimeError) -> Status {
    Status::unavailable(error.to_string())
}
