//! From a caller's FIFO into the pipe that is a process's input.

use std::{io::PipeReader, os::fd::OwnedFd, path::Path, rc::Rc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    sync::Notify,
    task::JoinSet,
};

use super::{Owner, own};
use crate::failure::{Failure, Result};

const BUFFER: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Input {
    closed: Rc<Notify>,
    // Ended with the input.
    _copy: JoinSet<()>,
}

impl Input {
    /// The process's end, and the copying.
    pub(super) fn start(path: &Path, owner: Owner) -> Result<(PipeReader, Self)> {
        let failed = || Failure::file("make a pipe for", path);
        let (reader, writer) = std::io::pipe().map_err(failed())?;
        own(&reader, owner, path)?;
        let sender = pipe::Sender::from_owned_fd(OwnedFd::from(writer)).map_err(failed())?;
        let receiver = pipe::OpenOptions::new()
            .open_receiver(path)
            .map_err(Failure::file("open", path))?;
        let closed = Rc::new(Notify::new());
        let mut copy = JoinSet::new();
        copy.spawn_local(run(receiver, sender, Rc::clone(&closed)));
        Ok((reader, Self { closed, _copy: copy }))
    }

    /// Ends after what the caller has written already.
    pub(super) fn close(&self) {
        self.closed.notify_one();
    }
}

async fn run(mut receiver: pipe::Receiver, mut sender: pipe::Sender, closed: Rc<Notify>) {
    let mut buffer = vec![0; BUFFER];
    let mut is_closed = false;
    loop {
        let read = if is_closed {
            // Of the file itself: the receiver would say that nothing is there until its readiness is known.
            rustix::io::read(&receiver, &mut *buffer).map_err(Into::into)
        } else {
            tokio::select! {
                read = receiver.read(&mut buffer) => read,
                () = closed.notified() => {
                    is_closed = true;
                    continue;
                }
            }
        };
        match read {
            Ok(length @ 1..) => {
                if sender.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _, process::Stdio};

    use super::*;

    fn cat(path: &Path) -> (std::process::Child, Input) {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let (end, input) = Input::start(path, Owner::default()).unwrap();
        let mut command = std::process::Command::new("cat");
        let child = command.stdin(end).stdout(Stdio::piped()).spawn().unwrap();
        (child, input)
    }

    async fn output(child: std::process::Child) -> Vec<u8> {
        tokio::task::spawn_blocking(|| child.wait_with_output().unwrap().stdout)
            .await
            .unwrap()
    }

    async fn local(test: impl Future<Output = ()>) {
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_process_waits_for_its_caller_and_ends_with_its_input() {
        local(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("in");
            let (mut child, _input) = cat(&path);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            assert!(
                child.try_wait().unwrap().is_none(),
                "it has seen an end that nobody made"
            );
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all(b"words")
                .unwrap();
            assert_eq!(output(child).await, b"words");
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_written_before_the_close_arrives() {
        local(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("in");
            let (child, input) = cat(&path);
            let mut caller = OpenOptions::new().write(true).open(&path).unwrap();
            caller.write_all(b"last").unwrap();
            input.close();
            assert_eq!(output(child).await, b"last");
            drop(caller);
        })
        .await;
    }
}
