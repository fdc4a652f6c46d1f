//! Attach: a running container's own streams, from now on.
//!
//! Output comes from the task that writes the log, which waits for nobody: a caller that lags behind by more than
//! 4 MiB is let go of with an error, and container and log never notice. Input goes straight into the container's FIFO;
//! with CRI's `stdin_once` it ends for good with the first caller that gave any.

use std::sync::Arc;

use futures::future::join;

use super::{Caller, Output};
use crate::{
    container::{Container, state::State},
    error::{Error, Result},
    exec::{feed, follow_size},
    logs::{Stream, Tapped},
    shim::Shim,
};

/// What a caller wants of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Shim {
    /// The container that can be attached to so.
    pub(crate) fn attachable(&self, id: &str, wanted: Wanted) -> Result<Arc<Container>> {
        self.ready()?;
        let container = self.running_container(id, "only a running container can be attached to")?;
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(Error::invalid(
                "stdin",
                "one of stdin, stdout, or stderr must be set",
            ));
        }
        if wanted.stdin && !container.config.stdin {
            return Err(Error::WrongState {
                kind: "container",
                id: container.id.to_string(),
                state: "without standard input",
                next_step: "create it with stdin set, or attach to its output alone",
            });
        }
        Ok(container)
    }

    /// Joins a caller to the container until its output ends or the caller goes.
    pub(crate) async fn attach(
        self: Arc<Self>,
        container: Arc<Container>,
        wanted: Wanted,
        caller: Caller,
    ) -> Result<()> {
        let Caller {
            stdin,
            resize,
            output,
        } = caller;
        let Some(mut tap) = container.tap() else {
            return Err(Error::WrongState {
                kind: "container",
                id: container.id.to_string(),
                state: container.state().name(),
                next_step: "only a running container can be attached to",
            });
        };
        let id = container.id.as_str();
        let delivered = async {
            loop {
                let output_of = match tokio::select! {
                    tapped = tap.next() => tapped,
                    () = output.closed() => return Ok(()),
                } {
                    Tapped::Output(Stream::Stdout, bytes) if wanted.stdout => Output::Stdout(bytes),
                    Tapped::Output(Stream::Stderr, bytes) if wanted.stderr => Output::Stderr(bytes),
                    Tapped::Output(..) => continue,
                    Tapped::Ended => return Ok(()),
                    Tapped::Lagged => {
                        return Err(Error::Lagged {
                            container: id.to_owned(),
                        });
                    }
                };
                if output.send(output_of).await.is_err() {
                    return Ok(());
                }
            }
        };
        let fifo = self.fifos(&container).stdin();
        let given = async {
            let (Some(stdin), Some(fifo), true) = (stdin, fifo, wanted.stdin) else {
                return std::future::pending().await;
            };
            feed(&fifo, stdin).await;
            if wanted.stdout || wanted.stderr {
                // The caller has said all that it has to say; what the container answers is still to come.
                self.end_stdin_once(&container).await;
                std::future::pending::<()>().await;
            }
        };
        let sized = follow_size(&*self.containerd, id, None, resize);
        let outcome = tokio::select! {
            outcome = delivered => outcome,
            () = async { join(given, async { if container.config.tty { sized.await } }).await; } => Ok(()),
            () = self.stopping.cancelled() => Err(Error::Stopping),
        };
        if wanted.stdin && !self.stopping.is_cancelled() {
            self.end_stdin_once(&container).await;
        }
        outcome
    }

    /// CRI, ContainerConfig.stdin_once.
    async fn end_stdin_once(&self, container: &Container) {
        if !container.config.stdin_once || !matches!(container.state(), State::Running { .. }) {
            return;
        }
        // It may have ended meanwhile.
        if let Err(error) = self.containerd.close_stdin(container.id.as_str(), None).await {
            tracing::debug!(container = %container.id, %error, "standard input not closed");
        }
    }
}
