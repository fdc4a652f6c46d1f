//! Exec: a command that talks with its caller while it runs.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::{
    net::unix::pipe,
    sync::{mpsc, watch},
};

use super::{Command, Outputs, PART, feed, follow_size, next_output};
use crate::{
    container::Container,
    error::{Error, Result},
    shim::Shim,
    streams::{Caller, Output, attach::Wanted},
};

impl Shim {
    /// Runs a command to its end, whether its caller stays or not; its exit code.
    pub(crate) async fn exec(
        self: Arc<Self>,
        container: Arc<Container>,
        command: Command,
        wanted: Wanted,
        caller: Caller,
    ) -> Result<i32> {
        let (process, Outputs { stdout, stderr }) = self.start_process(&container, &command).await?;
        let Caller {
            stdin,
            resize,
            output,
        } = caller;
        let (container, id) = (container.id.as_str(), process.id.as_str());
        let (ended, exited) = watch::channel(false);
        let end = async {
            let code = self.process_end(&process).await;
            ended.send_replace(true);
            code
        };
        let out = carry(
            stdout,
            wanted.stdout.then(|| output.clone()),
            Output::Stdout,
            exited.clone(),
        );
        let err = async {
            if let Some(stderr) = stderr {
                carry(
                    stderr,
                    wanted.stderr.then(|| output.clone()),
                    Output::Stderr,
                    exited.clone(),
                )
                .await;
            }
        };
        let input = async {
            if let (Some(fifo), Some(stdin)) = (process.fifos.stdin(), stdin) {
                feed(&fifo, stdin).await;
                // containerd's shim process keeps the FIFO open until it is told.
                if let Err(error) = self.containerd.close_stdin(container, Some(id)).await {
                    tracing::debug!(container, %error, "standard input not closed");
                }
            }
        };
        let sizes = async {
            if command.tty {
                follow_size(&*self.containerd, container, Some(id), resize).await;
            }
        };
        let given = async {
            tokio::join!(input, sizes);
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            (code, (), ()) = async { tokio::join!(end, out, err) } => code,
            () = given => Err(Error::Stopping),
            // The command goes on; the next run of this program looks after it.
            () = self.stopping.cancelled() => return Err(Error::Stopping),
        };
        drop(output);
        self.end_process(&process).await?;
        outcome
    }
}

/// Carries one stream of a command to its caller. Where there is none, or none any more, it is read and dropped: the
/// command must not wait for someone who has gone.
async fn carry(
    mut pipe: pipe::Receiver,
    mut to: Option<mpsc::Sender<Output>>,
    wrap: impl Fn(Bytes) -> Output,
    mut exited: watch::Receiver<bool>,
) {
    let mut buffer = BytesMut::with_capacity(PART);
    while next_output(&mut pipe, &mut buffer, &mut exited).await {
        match &to {
            Some(caller) => {
                if caller.send(wrap(buffer.split().freeze())).await.is_err() {
                    to = None;
                }
                buffer.reserve(PART);
            }
            None => buffer.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncWriteExt as _, time::timeout};

    use super::*;

    const SOON: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_command_is_not_held_up_by_a_caller_that_has_gone() {
        let (mut sender, receiver) = pipe::pipe().unwrap();
        let (output, caller) = mpsc::channel(1);
        drop(caller);
        let (_ended, exited) = watch::channel(false);
        let command = async move {
            let chunk = vec![b'x'; 1 << 20];
            sender.write_all(&chunk).await.unwrap();
        };
        let carried = carry(receiver, Some(output), Output::Stdout, exited);
        let both = async { tokio::join!(command, carried) };
        timeout(SOON, both).await.expect("all of it is taken");
    }

    #[tokio::test]
    async fn what_a_child_holds_open_does_not_hold_up_the_end_and_a_slow_caller_loses_nothing() {
        let (mut sender, receiver) = pipe::pipe().unwrap();
        let (output, mut caller) = mpsc::channel(1);
        let (ended, exited) = watch::channel(false);
        sender.write_all(&vec![b'x'; 60_000]).await.unwrap();
        ended.send_replace(true);
        let slow = async {
            let mut taken = 0;
            // Each wait is longer than output may stay silent.
            while let Some(Output::Stdout(bytes)) = caller.recv().await {
                taken += bytes.len();
                tokio::time::sleep(super::super::LAST_OUTPUT * 2).await;
            }
            taken
        };
        let carried = carry(receiver, Some(output), Output::Stdout, exited);
        let (taken, ()) = timeout(SOON, async { tokio::join!(slow, carried) })
            .await
            .expect("an end");
        assert_eq!(taken, 60_000);
        drop(sender);
    }
}
