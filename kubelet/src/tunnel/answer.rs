//! One call's answer: frames as fast as the caller reads them, then how it ended.

use std::time::Duration;

use bytes::Bytes;
use clone8s::v1::{
    AnswerNodeCallRequest, NodeCallEnd, answer_node_call_request::Frame,
    tunnel_service_client::TunnelServiceClient,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

/// Frames on their way; a full channel holds the reading back.
const FRAMES_WAITING: usize = 8;
/// For the last frames to reach the apiserver.
const LAST_FRAMES: Duration = Duration::from_secs(10);

/// Where an answer goes.
#[derive(Debug)]
pub(super) struct Reply {
    channel: Channel,
    call_id: String,
}

/// Sends data to the caller.
#[derive(Debug)]
pub(super) struct Frames(mpsc::Sender<AnswerNodeCallRequest>);

/// The caller has gone: nobody reads what is sent.
#[derive(Debug)]
pub(super) struct CallerGone;

impl From<CallerGone> for Status {
    fn from(_: CallerGone) -> Self {
        Self::cancelled("the caller has gone")
    }
}

impl Frames {
    /// Waits while the caller is slow.
    pub(super) async fn data(&self, data: Bytes) -> Result<(), CallerGone> {
        self.send(String::new(), Frame::Data(data)).await
    }

    async fn send(&self, call_id: String, frame: Frame) -> Result<(), CallerGone> {
        let frame = Some(frame);
        let message = AnswerNodeCallRequest { call_id, frame };
        self.0.send(message).await.map_err(|_| CallerGone)
    }
}

impl Reply {
    pub(super) fn new(channel: Channel, call_id: String) -> Self {
        Self { channel, call_id }
    }

    /// Runs `produce` until it ends or the caller goes. A call that cannot be answered has nobody to tell: its caller
    /// sees the tunnel break.
    pub(super) async fn send(self, produce: impl AsyncFnOnce(&Frames) -> Result<(), Status>) {
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING);
        let frames = Frames(sender);
        let first = AnswerNodeCallRequest {
            call_id: self.call_id,
            frame: None,
        };
        if frames.0.send(first).await.is_err() {
            return;
        }
        let mut client = TunnelServiceClient::new(self.channel);
        let mut ended = match client.answer_node_call(ReceiverStream::new(receiver)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                tracing::debug!(reason = status.message(), "a call was not picked up");
                return;
            }
        };
        let outcome = tokio::select! {
            // Nothing but its end comes from there.
            _ = ended.message() => return,
            outcome = produce(&frames) => outcome,
        };
        let end = match outcome {
            Ok(()) => NodeCallEnd::default(),
            Err(status) => NodeCallEnd {
                code: status.code().into(),
                message: status.message().to_owned(),
            },
        };
        if frames.send(String::new(), Frame::End(end)).await.is_ok() {
            drop(frames);
            // Dropping the call before its last frame is through would take the frame with it.
            let _ = timeout(LAST_FRAMES, ended.message()).await;
        }
    }
}
