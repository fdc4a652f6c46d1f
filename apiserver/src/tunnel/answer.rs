//! A node's answer stream: its frames go to the caller as fast as the caller takes them.

use clone8s::v1::{AnswerNodeCallRequest, AnswerNodeCallResponse, answer_node_call_request};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{Frame, Tunnels};
use crate::{access::Scope, error::ApiError};

impl Tunnels {
    /// Takes a node's answer to a call. The stream that goes back to the node carries nothing; it ends when the
    /// answer is through, or when its caller has gone.
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
        let caller = self.pick_up(scope, &first.call_id)?;
        let shutdown = self.shutdown.clone();
        let relay = async move {
            let mut next = Some(Ok(first));
            loop {
                let Some(Ok(message)) = next else {
                    // The node broke off: the caller sees its frames end without an end.
                    return None;
                };
                // A first message may carry the id alone.
                if let Some(frame) = frame(message) {
                    let last = matches!(frame, Frame::End(..));
                    if caller.send(frame).await.is_err() || last {
                        return None;
                    }
                }
                next = tokio::select! {
                    () = caller.closed() => return None,
                    () = shutdown.cancelled() => return Some(Err(ApiError::Stopping.into())),
                    next = frames.next() => next,
                };
            }
        };
        Ok(stream::once(relay).filter_map(|end| async move { end }))
    }

    /// Each call can be picked up once, by the node that it is for.
    fn pick_up(&self, scope: &Scope, call_id: &str) -> Result<mpsc::Sender<Frame>, ApiError> {
        let mut table = self.table();
        let Some(call) = table.waiting.get(call_id) else {
            return Err(ApiError::NoSuchCall);
        };
        scope.check_node(&call.node, "answer for")?;
        match table.waiting.remove(call_id) {
            Some(call) => Ok(call.frames),
            None => Err(ApiError::NoSuchCall),
        }
    }
}

fn frame(message: AnswerNodeCallRequest) -> Option<Frame> {
    Some(match message.frame? {
        answer_node_call_request::Frame::Data(data) => Frame::Data(data),
        answer_node_call_request::Frame::End(end) => Frame::End(Code::from_i32(end.code), end.message),
    })
}
