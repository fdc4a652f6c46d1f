//! The sessions of the runtime in memory: whatever is talked with sends back what it gets.

use std::future::ready;

use bytes::Bytes;
use clone8s::cri::ContainerState;
use futures::{StreamExt as _, stream};
use tonic::Status;

use super::{CommandBehavior, FakeRuntime};
use crate::runtime::{ContainerId, Input, Inputs, Output, Outputs, Session, TerminalSize};

impl FakeRuntime {
    /// A command echoes its input to the end, then ends as [`FakeRuntime::set_command`] says. A container echoes for
    /// ever, and so does a port until its input ends; a terminal's size, and the one that it starts with, is echoed as
    /// "WIDTHxHEIGHT".
    pub(super) async fn open_session(&self, session: Session, input: Inputs) -> Result<Outputs, Status> {
        let failed = |error: crate::runtime::RuntimeError| Status::internal(error.to_string());
        let started = stream::once(ready(Ok(Output::Started)));
        let echoed = input
            .take_while(|input| ready(*input != Input::End))
            .filter_map(|input| ready(echo(input)))
            .map(Ok);
        match session {
            Session::Exec {
                container,
                command,
                stdin,
                size,
                ..
            } => {
                let line = command.join(" ");
                self.enter("Exec", Some(&line)).await.map_err(failed)?;
                let behavior = self.behavior_of_command(&container, line);
                let CommandBehavior { takes, exit_code } =
                    behavior.ok_or_else(|| not_running(container.as_str()))?;
                let end = stream::once(async move {
                    tokio::time::sleep(takes).await;
                    Ok(Output::ExitCode(exit_code))
                });
                let sized = stream::iter(size.map(|size| Ok(Output::Data(shown(size)))));
                let echoed = if stdin {
                    echoed.left_stream()
                } else {
                    stream::empty().right_stream()
                };
                Ok(started.chain(sized).chain(echoed).chain(end).boxed())
            }
            Session::Attach { container, .. } => {
                self.enter("Attach", Some(container.as_str()))
                    .await
                    .map_err(failed)?;
                let running = self.behavior_of_command(&container, String::new());
                running.ok_or_else(|| not_running(container.as_str()))?;
                Ok(started.chain(echoed).chain(stream::pending()).boxed())
            }
            Session::PortForward { sandbox, port } => {
                self.enter("PortForward", Some(&port.to_string()))
                    .await
                    .map_err(failed)?;
                let state = self.state();
                let ready = state.sandboxes.get(sandbox.as_str()).filter(|one| one.ready);
                ready.ok_or_else(|| not_running(sandbox.as_str()))?;
                Ok(started.chain(echoed).boxed())
            }
        }
    }

    /// None where the container does not run.
    pub(super) fn behavior_of_command(&self, id: &ContainerId, line: String) -> Option<CommandBehavior> {
        let state = self.state();
        let container = state.containers.get(id.as_str())?;
        if container.state != ContainerState::ContainerRunning {
            return None;
        }
        let metadata = container.config.metadata.clone().unwrap_or_default();
        let behavior = state.commands.get(&(metadata.name, line)).copied();
        Some(behavior.unwrap_or_default())
    }
}

fn echo(input: Input) -> Option<Output> {
    match input {
        Input::Data(bytes) => Some(Output::Data(bytes)),
        Input::Resize(size) => Some(Output::Data(shown(size))),
        Input::End => None,
    }
}

fn shown(TerminalSize { width, height }: TerminalSize) -> Bytes {
    format!("{width}x{height}").into()
}

fn not_running(id: &str) -> Status {
    Status::failed_precondition(format!("{id} does not run"))
}
