//! ExecSync: a command and what it wrote, once it has ended.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{net::unix::pipe, sync::watch, time::timeout};

use super::{Command, Outputs, PART, Process, next_output, within_kill_limit};
use crate::{
    error::{Error, Result},
    shim::Shim,
};

/// The most that an answer carries: CRI's clients take messages of 16 MiB. The rest is read and dropped, so that the
/// command can end, and standard error says so.
const MAX_OUTPUT: usize = (16 << 20) - (64 << 10);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: Bytes,
    pub(crate) stderr: Bytes,
    pub(crate) code: i32,
}

/// The start of a stream, and how much more there was.
#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    bytes: BytesMut,
    dropped: u64,
}

impl Shim {
    /// CRI: a time limit of zero seconds or less is none.
    pub(crate) async fn exec_sync(
        self: Arc<Self>,
        id: String,
        argv: Vec<String>,
        limit_seconds: i64,
    ) -> Result<Outcome> {
        let command = Command {
            argv,
            tty: false,
            stdin: false,
            size: None,
        };
        let container = self.executable(&id, &command)?;
        let (process, Outputs { stdout, stderr }) = self.start_process(&container, &command).await?;
        let limit = u64::try_from(limit_seconds).ok().filter(|&seconds| seconds > 0);
        let (ended, exited) = watch::channel(false);
        let end = async {
            let code = self.await_end(&process, limit).await;
            ended.send_replace(true);
            code
        };
        let err = async {
            match stderr {
                Some(stderr) => take(stderr, exited.clone()).await,
                None => Taken::default(),
            }
        };
        let (code, out, err) = tokio::select! {
            all = async { tokio::join!(end, take(stdout, exited.clone()), err) } => all,
            () = self.stopping.cancelled() => return Err(Error::Stopping),
        };
        self.end_process(&process).await?;
        let code = code?;
        let (stdout, stderr) = fit(out, err);
        Ok(Outcome { stdout, stderr, code })
    }

    /// Waits for the command's end and kills it at its time limit.
    async fn await_end(&self, process: &Process, limit: Option<u64>) -> Result<i32> {
        let mut end = std::pin::pin!(self.process_end(process));
        let Some(seconds) = limit else {
            return end.await;
        };
        if let Ok(code) = timeout(Duration::from_secs(seconds), &mut end).await {
            return code;
        }
        self.kill_process(process).await?;
        // Its process must be gone before it can be deleted.
        within_kill_limit(end).await;
        Err(Error::Deadline {
            what: format!("the command in container {}", process.container.id),
            seconds,
        })
    }
}

/// Reads to the end, and keeps the first [`MAX_OUTPUT`] bytes.
async fn take(mut pipe: pipe::Receiver, mut exited: watch::Receiver<bool>) -> Taken {
    let mut taken = Taken::default();
    let mut part = BytesMut::with_capacity(PART);
    while next_output(&mut pipe, &mut part, &mut exited).await {
        let kept = part.len().min(MAX_OUTPUT - taken.bytes.len());
        taken.bytes.extend_from_slice(&part[..kept]);
        taken.dropped += (part.len() - kept) as u64;
        part.clear();
    }
    taken
}

/// Both streams in one answer. Of the two, standard error is the shorter in all likelihood, and keeps at least half.
fn fit(mut out: Taken, mut err: Taken) -> (Bytes, Bytes) {
    let room_for_err = MAX_OUTPUT - out.bytes.len().min(MAX_OUTPUT / 2);
    cut(&mut err, room_for_err);
    cut(&mut out, MAX_OUTPUT - err.bytes.len());
    for (name, dropped) in [("stdout", out.dropped), ("stderr", err.dropped)] {
        if dropped > 0 {
            let note = format!("\nruntime-shim: {dropped} bytes of {name} did not fit into the answer\n");
            err.bytes.extend_from_slice(note.as_bytes());
        }
    }
    (out.bytes.freeze(), err.bytes.freeze())
}

fn cut(taken: &mut Taken, room: usize) {
    taken.dropped += taken.bytes.len().saturating_sub(room) as u64;
    taken.bytes.truncate(room);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn taken(length: usize) -> Taken {
        Taken {
            bytes: BytesMut::zeroed(length),
            dropped: 0,
        }
    }

    #[tokio::test]
    async fn output_beyond_the_bound_is_dropped_and_does_not_block_its_writer() {
        let (mut sender, receiver) = pipe::pipe().unwrap();
        let write = async move {
            let chunk = vec![b'x'; 1 << 20];
            for _ in 0..17 {
                sender.write_all(&chunk).await.unwrap();
            }
        };
        let (_ended, exited) = watch::channel(false);
        let ((), taken) = tokio::join!(write, take(receiver, exited));
        assert_eq!(taken.bytes.len(), MAX_OUTPUT);
        assert_eq!(taken.dropped, (17 << 20) - MAX_OUTPUT as u64);
    }

    #[test]
    fn an_answer_fits_into_the_message_that_clients_take_and_says_what_is_missing() {
        let (out, err) = fit(taken(5), taken(3));
        assert_eq!((out.len(), err.len()), (5, 3));
        for (out, err) in [
            (MAX_OUTPUT, 10),
            (10, MAX_OUTPUT),
            (MAX_OUTPUT, MAX_OUTPUT),
            (MAX_OUTPUT / 2 + 7, MAX_OUTPUT / 2 + 7),
        ] {
            let dropped = out + err - MAX_OUTPUT;
            let (out, err) = fit(taken(out), taken(err));
            assert!(out.len() + err.len() < 16 << 20);
            let note = String::from_utf8_lossy(&err[err.len().saturating_sub(80)..]).into_owned();
            assert!(note.contains("did not fit into the answer"), "{dropped}: {note}");
            assert!(out.len() + err.len() >= MAX_OUTPUT);
        }
    }
}
