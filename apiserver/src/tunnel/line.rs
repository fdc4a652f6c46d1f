//! A node's line: the stream of calls that it waits on.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use clone8s::v1::WatchNodeCallsResponse;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::{CALLS_WAITING, LineEntry, Tunnels};
use crate::error::ApiError;

impl Tunnels {
    /// Opens a node's line. A newer line takes the place of an older one, which ends.
    pub(crate) fn open_line(self: &Arc<Self>, node: &str) -> Line {
        let (calls, receiver) = mpsc::channel(CALLS_WAITING);
        let mut table = self.table();
        table.next_line += 1;
        let id = table.next_line;
        table.lines.insert(node.to_owned(), LineEntry { id, calls });
        drop(table);
        Line {
            node: node.to_owned(),
            id,
            calls: receiver,
            stopping: Box::pin(self.shutdown.clone().cancelled_owned()),
            ended: false,
            tunnels: Arc::clone(self),
        }
    }
}

/// The calls for one node, until it goes, the apiserver stops, or a newer line takes over.
#[derive(Debug)]
pub(crate) struct Line {
    node: String,
    id: u64,
    calls: mpsc::Receiver<WatchNodeCallsResponse>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
    tunnels: Arc<Tunnels>,
}

impl Stream for Line {
    type Item = Result<WatchNodeCallsResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let line = self.get_mut();
        if line.ended {
            return Poll::Ready(None);
        }
        let end = match line.calls.poll_recv(context) {
            Poll::Ready(Some(call)) => return Poll::Ready(Some(Ok(call))),
            Poll::Ready(None) => ApiError::LineReplaced {
                node: line.node.clone(),
            },
            Poll::Pending => {
                std::task::ready!(line.stopping.as_mut().poll(context));
                ApiError::Stopping
            }
        };
        line.ended = true;
        Poll::Ready(Some(Err(end.into())))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut table = self.tunnels.table();
        if table.lines.get(&self.node).is_some_and(|line| line.id == self.id) {
            table.lines.remove(&self.node);
        }
        // Nobody is left to pick these up; their callers learn it at once.
        table.waiting.retain(|_, call| call.line != self.id);
    }
}
