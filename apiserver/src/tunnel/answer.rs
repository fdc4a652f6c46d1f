//! A node's answer stream: its frames go to the caller as fast as the caller takes them, and the caller's input the
//! other way.

use std::{future::ready, sync::Arc};

use clone8s::v1::{AnswerNodeCallRequest, AnswerNodeCallResponse, answer_node_call_request};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::{Code, Status};

use super::{Frame, Part, Tunnels, WaitingCall, input};
use crate::{access::Scope, error::ApiError};

impl Tunnels {
    /// Takes a node's answer to a call. The stream that goes back to the node carries the caller's input; it ends when
    /// the answer is through, or when its caller has gone.
    pub(crate) async fn answer<S>(
        &self,
        scope: &Scope,
        mut frames: S,
    ) -> Result<impl Stream<Item = Result<AnswerNodeCallResponse, Status>> + Send + use<S>, ApiError>
    where
        S: Stream<Item = Result<AnswerNodeCallRequest, Status>> + Send + Unpin + 'static,
    {
        let Some(Ok(first)) = frames.next().await else {
            return Err(ApiError::field(
                "the answer",
                "call_id",
                "is missing: the stream has no message",
            ));
        };
        let WaitingCall {
            frames: caller,
            input,
            ..
        } = self.pick_up(scope, &first.call_id)?;
        let window = Arc::new(Semaphore::new(input::WINDOW));
        // Weak: the caller learns from the relay's end that the node has gone.
        let input = input.messages(Arc::clone(&window), caller.downgrade());
        let relay = Relay { caller, window };
        let shutdown = self.shutdown.clone();
        let (over, is_over) = oneshot::channel::<()>();
        let relay = async move {
            let end = tokio::select! {
                () = shutdown.cancelled() => Some(Err(ApiError::Stopping.into())),
                () = relay.run(first, frames) => None,
            };
            drop(over);
            end
        };
        let input = input.map(Ok).take_until(is_over);
        // Each goes on while the other waits.
        Ok(stream::select(
            stream::once(relay).filter_map(ready),
            Box::pin(input),
        ))
    }

    /// Each call can be picked up once, by the node that it is for.
    fn pick_up(&self, scope: &Scope, call_id: &str) -> Result<WaitingCall, ApiError> {
        let mut table = self.table();
        let Some(call) = table.waiting.get(call_id) else {
            return Err(ApiError::NoSuchCall);
        };
        scope.check_node(&call.node, "answer for")?;
        table.waiting.remove(call_id).ok_or(ApiError::NoSuchCall)
    }
}

/// From a node to a caller.
struct Relay {
    caller: mpsc::Sender<Frame>,
    window: Arc<Semaphore>,
}

impl Relay {
    /// Ends with the answer, or when one of the two has gone: the caller then sees the frames end without an end.
    async fn run<S>(self, first: AnswerNodeCallRequest, mut frames: S)
    where
        S: Stream<Item = Result<AnswerNodeCallRequest, Status>> + Unpin,
    {
        let mut next = Some(Ok(first));
        while let Some(Ok(message)) = next {
            // A first message may carry the id alone.
            if let Some(frame) = message.frame.and_then(|frame| self.take(frame)) {
                let last = matches!(frame, Frame::End(..));
                if self.caller.send(frame).await.is_err() || last {
                    return;
                }
            }
            next = tokio::select! {
                () = self.caller.closed() => return,
                next = frames.next() => next,
            };
        }
    }

    /// What is for the caller.
    fn take(&self, frame: answer_node_call_request::Frame) -> Option<Frame> {
        use answer_node_call_request::Frame as Answered;
        Some(match frame {
            Answered::Started(_) => Frame::Part(Part::Started),
            Answered::Data(bytes) => Frame::Part(Part::Data(bytes)),
            Answered::Stderr(bytes) => Frame::Part(Part::Stderr(bytes)),
            Answered::ExitCode(code) => Frame::Part(Part::ExitCode(code)),
            Answered::End(end) => Frame::End(Code::from_i32(end.code), end.message),
            Answered::InputTaken(_) => {
                self.window.add_permits(1);
                return None;
            }
        })
    }
}
