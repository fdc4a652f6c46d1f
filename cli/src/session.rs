//! A talk with a process in a pod, for `c8s exec` and `c8s attach`.
//!
//! ```text
//! standard input ─┐                        ┌─► standard output
//!                 ├─► requests … responses ┼─► standard error
//! window size ────┘                        └─► exit code
//! ```

use std::{
    convert::Infallible,
    io::{self, Write},
};

use anyhow::{Context as _, Result, anyhow};
use bytes::{Bytes, BytesMut};
use clap::Args;
use clone8s::v1::PodTerminalSize;
use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tonic::{Status, Streaming};

use crate::{
    namespace::NamespaceArgs,
    status::explain,
    terminal::{self, RawMode},
};

/// Bytes of one message.
const PART: usize = 32 << 10;
/// Messages on their way; more input waits unread.
const MESSAGES: usize = 4;

/// Whom to talk with, and how.
#[derive(Debug, Args)]
pub struct SessionArgs {
    /// The pod's name
    pub pod: String,
    /// The container; may be left out when the pod has one
    #[arg(short = 'c', long, default_value = "", hide_default_value = true)]
    pub container: String,
    /// Pass on the standard input
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Use this terminal as the container's: each key goes there as it is, and so does the window's size
    #[arg(short = 't', long)]
    pub tty: bool,
    #[command(flatten)]
    pub namespace: NamespaceArgs,
}

impl SessionArgs {
    pub fn pod_name(&self) -> String {
        pod_name(&self.pod)
    }

    /// What went wrong, with the pod that it was about.
    pub fn failed(&self, status: &Status) -> anyhow::Error {
        failed(&self.pod_name(), status)
    }

    /// Carries everything both ways until the answer ends; the exit code, if one has come.
    pub async fn talk<T>(
        &self,
        input: mpsc::Sender<ToPod>,
        responses: Streaming<T>,
        told: fn(T) -> Option<FromPod>,
        out: &mut impl Write,
    ) -> Result<Option<i32>> {
        let raw = if self.tty && self.stdin {
            RawMode::enter().context("this terminal")?
        } else {
            None
        };
        let mut err = io::stderr();
        let outcome = tokio::select! {
            outcome = receive(responses, told, out, &mut err) => outcome,
            broken = self.send_input(input) => match broken.context("the standard input")? {},
        };
        // Whatever is said from here on is for a terminal as it was.
        drop(raw);
        outcome.map_err(|error| error.of_pod(&self.pod_name()))
    }

    /// Sends what is typed and the window's size; it has no end of its own.
    async fn send_input(&self, to: mpsc::Sender<ToPod>) -> io::Result<Infallible> {
        let sizes = async {
            if self.tty {
                return send_sizes(&to).await;
            }
            std::future::pending().await
        };
        let bytes = async {
            if self.stdin {
                send_bytes(tokio::io::stdin(), &to).await?;
            }
            std::future::pending().await
        };
        tokio::select! {
            never = sizes => never,
            never = bytes => never,
        }
    }
}

/// As "pod/NAME" or "NAME".
pub fn pod_name(given: &str) -> String {
    given.strip_prefix("pod/").unwrap_or(given).to_owned()
}

pub fn failed(pod: &str, status: &Status) -> anyhow::Error {
    anyhow!("pod/{pod}: {}", explain(status))
}

/// What goes to the process.
#[derive(Debug, Clone, PartialEq)]
pub enum ToPod {
    Stdin(Bytes),
    StdinEnd,
    Resize(PodTerminalSize),
}

/// What comes from it.
#[derive(Debug, Clone, PartialEq)]
pub enum FromPod {
    Started,
    Stdout(Bytes),
    Stderr(Bytes),
    ExitCode(i32),
}

/// The requests of a call, and where to put them.
pub fn requests() -> (mpsc::Sender<ToPod>, impl Stream<Item = ToPod> + Send + 'static) {
    let (sender, mut receiver) = mpsc::channel(MESSAGES);
    (
        sender,
        stream::poll_fn(move |context| receiver.poll_recv(context)),
    )
}

/// Writes what comes to its end; the exit code, if one has come.
async fn receive<T>(
    mut responses: Streaming<T>,
    told: impl Fn(T) -> Option<FromPod>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<Option<i32>, ReceiveError> {
    let mut code = None;
    while let Some(response) = responses.message().await? {
        match told(response) {
            Some(FromPod::Stdout(bytes)) => {
                out.write_all(&bytes)?;
                out.flush()?;
            }
            Some(FromPod::Stderr(bytes)) => {
                err.write_all(&bytes)?;
                err.flush()?;
            }
            Some(FromPod::ExitCode(exit)) => code = Some(exit),
            Some(FromPod::Started) | None => {}
        }
    }
    Ok(code)
}

/// Why the receiving stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Call(#[from] Status),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ReceiveError {
    pub fn of_pod(self, pod: &str) -> anyhow::Error {
        match self {
            Self::Call(status) => failed(pod, &status),
            Self::Io(error) => error.into(),
        }
    }
}

/// Sends all that there is to read, and its end.
async fn send_bytes(mut from: impl AsyncRead + Unpin, to: &mpsc::Sender<ToPod>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PART);
        let message = match from.read_buf(&mut buffer).await? {
            0 => ToPod::StdinEnd,
            _ => ToPod::Stdin(buffer.split().freeze()),
        };
        let last = message == ToPod::StdinEnd;
        // A call that has ended takes no more; its outcome is told elsewhere.
        if to.send(message).await.is_err() || last {
            return Ok(());
        }
    }
}

async fn send_sizes(to: &mpsc::Sender<ToPod>) -> io::Result<Infallible> {
    let mut changes = signal(SignalKind::window_change())?;
    loop {
        if let Some(size) = terminal::size()
            && to.send(ToPod::Resize(size)).await.is_err()
        {
            return std::future::pending().await;
        }
        changes.recv().await;
    }
}
