//! One call's answer: frames as fast as the caller reads them, then how it ended; and what the caller sends meanwhile.

use bytes::Bytes;
use clone8s::v1::{
    AnswerNodeCallRequest, AnswerNodeCallResponse, NodeCallEnd, NodeInputTaken, PodStreamStarted,
    answer_node_call_request::Frame, answer_node_call_response::Frame as InputFrame,
    tunnel_service_client::TunnelServiceClient,
};
use clone8s_daemon::channel::Channel;
use futures::{Stream, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::runtime::Input;

/// Frames on their way; a full channel holds the reading back.
const FRAMES_WAITING: usize = 8;
/// The apiserver sends no more than eight messages that are not taken (`tunnel.proto`).
const INPUTS_WAITING: usize = 8;

/// Where an answer goes.
#[derive(Debug)]
pub(super) struct Reply {
    channel: Channel,
    call_id: String,
}

/// Sends an answer's parts to the caller. Each waits while the caller is slow.
#[derive(Debug, Clone)]
pub(super) struct Frames(mpsc::Sender<AnswerNodeCallRequest>);

/// What the caller sends.
#[derive(Debug)]
pub(super) struct Inputs {
    received: mpsc::Receiver<Input>,
    frames: Frames,
}

/// The caller has gone: nobody reads what is sent.
#[derive(Debug)]
pub(super) struct CallerGone;

impl From<CallerGone> for Status {
    fn from(_: CallerGone) -> Self {
        Self::cancelled("the caller has gone")
    }
}

impl Frames {
    pub(super) async fn started(&self) -> Result<(), CallerGone> {
        self.send(Frame::Started(PodStreamStarted {})).await
    }

    pub(super) async fn data(&self, data: Bytes) -> Result<(), CallerGone> {
        self.send(Frame::Data(data)).await
    }

    pub(super) async fn stderr(&self, data: Bytes) -> Result<(), CallerGone> {
        self.send(Frame::Stderr(data)).await
    }

    pub(super) async fn exit_code(&self, code: i32) -> Result<(), CallerGone> {
        self.send(Frame::ExitCode(code)).await
    }

    async fn send(&self, frame: Frame) -> Result<(), CallerGone> {
        let message = AnswerNodeCallRequest {
            call_id: String::new(),
            frame: Some(frame),
        };
        self.0.send(message).await.map_err(|_| CallerGone)
    }
}

impl Inputs {
    /// As a stream; what is taken from it makes room for more.
    pub(super) fn into_stream(self) -> impl Stream<Item = Input> + Send {
        stream::unfold(self, async |mut inputs| {
            let input = inputs.received.recv().await?;
            inputs
                .frames
                .send(Frame::InputTaken(NodeInputTaken {}))
                .await
                .ok()?;
            Some((input, inputs))
        })
    }
}

impl Reply {
    pub(super) fn new(channel: Channel, call_id: String) -> Self {
        Self { channel, call_id }
    }

    /// Runs `produce` until it ends or the caller goes. A call that cannot be answered has nobody to tell: its caller
    /// sees the tunnel break.
    pub(super) async fn send(self, produce: impl AsyncFnOnce(&Frames, Inputs) -> Result<(), Status>) {
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING);
        let first = AnswerNodeCallRequest {
            call_id: self.call_id,
            frame: None,
        };
        if sender.send(first).await.is_err() {
            return;
        }
        let mut client = TunnelServiceClient::new(self.channel);
        let mut caller = match client.answer_node_call(ReceiverStream::new(receiver)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                tracing::debug!(reason = status.message(), "a call was not picked up");
                return;
            }
        };
        let frames = Frames(sender);
        let (inputs, received) = mpsc::channel(INPUTS_WAITING);
        let received = Inputs {
            received,
            frames: frames.clone(),
        };
        let outcome = tokio::select! {
            () = until_gone(&mut caller, &inputs) => return,
            outcome = produce(&frames, received) => outcome,
        };
        let end = match outcome {
            Ok(()) => NodeCallEnd::default(),
            Err(status) => NodeCallEnd {
                code: status.code().into(),
                message: status.message().to_owned(),
            },
        };
        let last = async {
            if frames.send(Frame::End(end)).await.is_ok() {
                // Dropping the call before its last frame is through would take the frame with it. The apiserver ends
                // the call once its caller has read to the end, or has gone.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = until_gone(&mut caller, &inputs) => {}
            () = last => {}
        }
    }
}

/// Receives until the apiserver ends the call. It never waits for whoever takes the input: a caller that goes is seen
/// at once.
async fn until_gone(caller: &mut Streaming<AnswerNodeCallResponse>, inputs: &mpsc::Sender<Input>) {
    while let Ok(Some(message)) = caller.message().await {
        let input = match message.frame {
            Some(InputFrame::Input(bytes)) => Input::Data(bytes),
            Some(InputFrame::InputEnd(_)) => Input::End,
            Some(InputFrame::Resize(size)) => Input::Resize(size.into()),
            // What a newer apiserver may say.
            None => continue,
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = inputs.try_send(input) {
            tracing::error!("the apiserver sends more input than is taken; the call is given up");
            return;
        }
    }
}
