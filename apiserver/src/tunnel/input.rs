//! What a caller sends while its call is answered.

use std::fmt;

use bytes::Bytes;
use clone8s::v1::{AnswerNodeCallResponse, NodeInputEnd, answer_node_call_response::Frame as InputFrame};
use futures::{
    Stream, StreamExt as _,
    future::ready,
    stream::{self, BoxStream},
};
use tokio::sync::{Semaphore, mpsc};

use super::Frame;
use crate::error::ApiError;

/// Messages on their way to a node that it has not used up. They fit into the connection's own buffers, so that the
/// node can always read on, and hears at once when the caller goes.
pub(super) const WINDOW: usize = 8;
/// Bytes of one message.
const PART: usize = 32 << 10;

/// A caller's input, in its order; an error ends the call.
pub(crate) struct Input(BoxStream<'static, Result<InputFrame, ApiError>>);

impl Input {
    /// Of a call that takes none.
    pub(crate) fn none() -> Self {
        Self(stream::pending().boxed())
    }

    /// The end of `frames` is the input's end.
    pub(crate) fn new(frames: impl Stream<Item = Result<InputFrame, ApiError>> + Send + 'static) -> Self {
        let end = stream::once(ready(Ok(InputFrame::InputEnd(NodeInputEnd {}))));
        let parts = frames.flat_map(|frame| match frame {
            Ok(InputFrame::Input(bytes)) => stream::iter(split(bytes)).map(Ok).left_stream(),
            other => stream::once(ready(other)).right_stream(),
        });
        Self(parts.chain(end).boxed())
    }

    /// The messages for the node, each as soon as the window has room for it. What ends the call is told to `caller`.
    pub(super) fn messages(
        self,
        window: impl AsRef<Semaphore> + Send,
        caller: mpsc::WeakSender<Frame>,
    ) -> impl Stream<Item = AnswerNodeCallResponse> + Send {
        stream::unfold((self.0, window, caller), async |(mut frames, window, caller)| {
            window.as_ref().acquire().await.ok()?.forget();
            match frames.next().await? {
                Ok(frame) => {
                    let message = AnswerNodeCallResponse { frame: Some(frame) };
                    Some((message, (frames, window, caller)))
                }
                Err(error) => {
                    // Where there is nobody to tell, the caller has gone.
                    let _ = caller.upgrade()?.send(Frame::Refused(error)).await;
                    None
                }
            }
        })
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}

fn split(mut bytes: Bytes) -> impl Iterator<Item = InputFrame> {
    std::iter::from_fn(move || {
        let part = bytes.split_to(bytes.len().min(PART));
        (!part.is_empty()).then_some(InputFrame::Input(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_large_message_becomes_small_ones_and_the_end_is_told() {
        let large = Bytes::from(vec![b'x'; 2 * PART + 1]);
        let frames = stream::iter([Ok(InputFrame::Input(large)), Ok(InputFrame::Input(Bytes::new()))]);
        let sizes = Input::new(frames).0.map(|frame| match frame.unwrap() {
            InputFrame::Input(bytes) => bytes.len(),
            _ => 0,
        });
        assert_eq!(sizes.collect::<Vec<_>>().await, [PART, PART, 1, 0]);
    }
}
