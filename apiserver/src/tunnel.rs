//! Calls to nodes, which listen on nothing: a node waits for its calls on one stream and answers each on another.
//!
//! ```text
//! caller ─► call ──────► the node's line (WatchNodeCalls) ─► node
//!           waiting ◄─── answer stream (AnswerNodeCall) ◄─── node
//!           relaying ◄── frames, as fast as the caller reads
//!           input ─────► as fast as the node takes it
//! ```
//! A call ends when the node ends it, when the caller goes, or when the node is lost; the two streams tell the
//! other side which. Nothing here is stored: after a restart nodes connect again and callers ask again.

mod answer;
mod input;
mod line;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use clone8s::v1::{WatchNodeCallsResponse, watch_node_calls_response::Call};
use clone8s_daemon::Shutdown;
use futures::{Stream, stream};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};
use tonic::{Code, Status};

pub(crate) use self::input::Input;
use crate::{error::ApiError, pki::hex};

/// Calls that a node has not picked up yet; one more is refused with RESOURCE_EXHAUSTED.
const CALLS_WAITING: usize = 64;
/// Frames on their way to a caller; a full channel holds the node's stream back.
const FRAMES_WAITING: usize = 8;
/// A node that has not begun to answer by then is taken for lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Every node's line and every call that is not answered yet.
#[derive(Debug)]
pub(crate) struct Tunnels {
    table: Mutex<Table>,
    shutdown: Shutdown,
}

#[derive(Debug, Default)]
struct Table {
    lines: HashMap<String, LineEntry>,
    waiting: HashMap<String, WaitingCall>,
    /// Tells an older line of a node from its newer one.
    next_line: u64,
}

#[derive(Debug)]
struct LineEntry {
    id: u64,
    calls: mpsc::Sender<WatchNodeCallsResponse>,
}

#[derive(Debug)]
struct WaitingCall {
    node: String,
    line: u64,
    frames: mpsc::Sender<Frame>,
    input: Input,
}

/// What a caller hears.
#[derive(Debug)]
enum Frame {
    Part(Part),
    /// OK ends the answer; anything else is the reason for which it failed.
    End(Code, String),
    /// The caller's own input cannot be used.
    Refused(ApiError),
}

/// A part of a node's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Started,
    Data(Bytes),
    Stderr(Bytes),
    ExitCode(i32),
}

impl Tunnels {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self {
            table: Mutex::default(),
            shutdown,
        }
    }

    /// Sends a call to a node. The answer is what the node sends back for it, from now on.
    pub(crate) fn call(self: &Arc<Self>, node: &str, call: Call, input: Input) -> Result<Answer, ApiError> {
        let call_id = hex(&rand::random::<[u8; 16]>());
        let (frames, answer) = mpsc::channel(FRAMES_WAITING);
        let mut table = self.table();
        let not_connected = || ApiError::NodeNotConnected {
            node: node.to_owned(),
        };
        let busy = || ApiError::NodeBusy {
            node: node.to_owned(),
        };
        let line = table.lines.get(node).ok_or_else(not_connected)?;
        // Counted here, because the connection's own buffers take a good many calls off the channel.
        let waiting = table.waiting.values().filter(|call| call.line == line.id);
        if waiting.count() >= CALLS_WAITING {
            return Err(busy());
        }
        let message = WatchNodeCallsResponse {
            call_id: call_id.clone(),
            call: Some(call),
        };
        match line.calls.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(not_connected()),
            Err(TrySendError::Full(_)) => return Err(busy()),
        }
        let waiting = WaitingCall {
            node: node.to_owned(),
            line: line.id,
            frames,
            input,
        };
        table.waiting.insert(call_id.clone(), waiting);
        drop(table);
        Ok(Answer {
            node: node.to_owned(),
            frames: answer,
            begun: false,
            tunnels: Arc::clone(self),
            call_id,
        })
    }

    /// The outcome of what may take long, unless the apiserver stops first.
    pub(crate) async fn unless_stopping<T>(&self, outcome: impl Future<Output = T>) -> Result<T, ApiError> {
        tokio::select! {
            () = self.shutdown.cancelled() => Err(ApiError::Stopping),
            outcome = outcome => Ok(outcome),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: each change of it is one insert or one remove.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's answer to one call. Dropping it tells the node that the caller has gone.
#[derive(Debug)]
pub(crate) struct Answer {
    node: String,
    frames: mpsc::Receiver<Frame>,
    begun: bool,
    tunnels: Arc<Tunnels>,
    call_id: String,
}

impl Answer {
    /// The answer's parts, and the error that ends it if it does not end well.
    pub(crate) fn parts(self) -> impl Stream<Item = Result<Part, Status>> + Send {
        stream::unfold(Some(self), async |answer| {
            let mut answer = answer?;
            match answer.next().await {
                Ok(Some(part)) => Some((Ok(part), Some(answer))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    /// The next part, or None at the answer's good end.
    async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        let tunnels = Arc::clone(&self.tunnels);
        let next = tunnels.unless_stopping(self.receive()).await??;
        self.begun = true;
        match next {
            Some(Frame::Part(part)) => Ok(Some(part)),
            Some(Frame::Refused(error)) => Err(error),
            Some(Frame::End(Code::Ok, _)) => Ok(None),
            Some(Frame::End(code, message)) => Err(ApiError::NodeAnswered {
                node: self.node.clone(),
                code,
                message,
            }),
            None => Err(ApiError::NodeLost {
                node: self.node.clone(),
                what: "it went away in the middle of its answer",
            }),
        }
    }

    async fn receive(&mut self) -> Result<Option<Frame>, ApiError> {
        if self.begun {
            return Ok(self.frames.recv().await);
        }
        // A follower may wait for its first line for ever, but not for the node to pick up the call.
        loop {
            match timeout(ANSWER_TIMEOUT, self.frames.recv()).await {
                Ok(frame) => return Ok(frame),
                Err(_) if self.is_picked_up() => {}
                Err(_) => {
                    return Err(ApiError::NodeLost {
                        node: self.node.clone(),
                        what: "it did not answer in time",
                    });
                }
            }
        }
    }

    fn is_picked_up(&self) -> bool {
        !self.tunnels.table().waiting.contains_key(&self.call_id)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.tunnels.table().waiting.remove(&self.call_id);
    }
}
