//! The two ends between a session and what carries it.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// Parts of a stream on their way, each of at most some 32 KiB: what does not fit makes its sender wait.
const PARTS: usize = 4;

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Size {
    pub(crate) width: u16,
    pub(crate) height: u16,
}

/// What a session writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
}

/// The session's end.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Ends with the caller's input. None where the caller has none to give.
    pub(crate) stdin: Option<mpsc::Receiver<Bytes>>,
    /// The latest size.
    pub(crate) resize: watch::Receiver<Option<Size>>,
    /// Closed when the caller has gone.
    pub(crate) output: mpsc::Sender<Output>,
}

/// The transport's end. Dropping it is hanging up.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) stdin: Option<mpsc::Sender<Bytes>>,
    pub(crate) resize: watch::Sender<Option<Size>>,
    /// Ends with the session.
    pub(crate) output: mpsc::Receiver<Output>,
}

pub(crate) fn line(with_stdin: bool) -> (Caller, Line) {
    let (resize, sizes) = watch::channel(None);
    let (output, outputs) = mpsc::channel(PARTS);
    let (to_stdin, stdin) = mpsc::channel(PARTS);
    let caller = Caller {
        stdin: with_stdin.then_some(stdin),
        resize: sizes,
        output,
    };
    let line = Line {
        stdin: with_stdin.then_some(to_stdin),
        resize,
        output: outputs,
    };
    (caller, line)
}
