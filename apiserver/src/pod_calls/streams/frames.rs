//! The frames of the three calls, and the tunnel's.

use clone8s::v1::{
    AttachPodRequest, AttachPodResponse, AttachPodStart, ExecPodRequest, ExecPodResponse, ExecPodStart,
    NodeInputEnd, PodStreamStarted, PortForwardPodRequest, PortForwardPodResponse, PortForwardPodStart,
    answer_node_call_response::Frame as InputFrame, attach_pod_request, attach_pod_response,
    exec_pod_request, exec_pod_response, port_forward_pod_request, port_forward_pod_response,
};

use crate::tunnel::Part;

/// A message of a caller.
pub(super) trait Request: Sized + Send + 'static {
    type Start;

    /// None of a frame that is not known here.
    fn told(self) -> Option<Told<Self::Start>>;
}

/// What a caller's message says.
pub(super) enum Told<Start> {
    Start(Start),
    Input(InputFrame),
}

impl Request for ExecPodRequest {
    type Start = ExecPodStart;

    fn told(self) -> Option<Told<ExecPodStart>> {
        use exec_pod_request::Frame;
        Some(match self.frame? {
            Frame::Start(start) => Told::Start(start),
            Frame::Stdin(bytes) => Told::Input(InputFrame::Input(bytes)),
            Frame::StdinEnd(_) => Told::Input(InputFrame::InputEnd(NodeInputEnd {})),
            Frame::Resize(size) => Told::Input(InputFrame::Resize(size)),
        })
    }
}

impl Request for AttachPodRequest {
    type Start = AttachPodStart;

    fn told(self) -> Option<Told<AttachPodStart>> {
        use attach_pod_request::Frame;
        Some(match self.frame? {
            Frame::Start(start) => Told::Start(start),
            Frame::Stdin(bytes) => Told::Input(InputFrame::Input(bytes)),
            Frame::StdinEnd(_) => Told::Input(InputFrame::InputEnd(NodeInputEnd {})),
            Frame::Resize(size) => Told::Input(InputFrame::Resize(size)),
        })
    }
}

impl Request for PortForwardPodRequest {
    type Start = PortForwardPodStart;

    fn told(self) -> Option<Told<PortForwardPodStart>> {
        use port_forward_pod_request::Frame;
        Some(match self.frame? {
            Frame::Start(start) => Told::Start(start),
            Frame::Data(bytes) => Told::Input(InputFrame::Input(bytes)),
        })
    }
}

impl From<Part> for ExecPodResponse {
    fn from(part: Part) -> Self {
        use exec_pod_response::Frame;
        let frame = match part {
            Part::Started => Frame::Started(PodStreamStarted {}),
            Part::Data(bytes) => Frame::Stdout(bytes),
            Part::Stderr(bytes) => Frame::Stderr(bytes),
            Part::ExitCode(code) => Frame::ExitCode(code),
        };
        Self { frame: Some(frame) }
    }
}

impl From<Part> for AttachPodResponse {
    fn from(part: Part) -> Self {
        use attach_pod_response::Frame;
        let frame = match part {
            Part::Started => Some(Frame::Started(PodStreamStarted {})),
            Part::Data(bytes) => Some(Frame::Stdout(bytes)),
            Part::Stderr(bytes) => Some(Frame::Stderr(bytes)),
            // A container's streams have none.
            Part::ExitCode(_) => None,
        };
        Self { frame }
    }
}

impl From<Part> for PortForwardPodResponse {
    fn from(part: Part) -> Self {
        use port_forward_pod_response::Frame;
        let frame = match part {
            Part::Started => Some(Frame::Started(PodStreamStarted {})),
            Part::Data(bytes) => Some(Frame::Data(bytes)),
            // A connection has neither.
            Part::Stderr(_) | Part::ExitCode(_) => None,
        };
        Self { frame }
    }
}
