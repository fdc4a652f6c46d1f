//! A talk with what runs in a pod: a command, a container's own streams, or a port.

use bytes::Bytes;
use clone8s::v1::PodTerminalSize;
use futures::stream::BoxStream;
use tonic::Status;

use super::{ContainerId, SandboxId};

/// Whom to talk with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A command that is started for it.
    Exec {
        container: ContainerId,
        /// The program and its arguments.
        command: Vec<String>,
        stdin: bool,
        tty: bool,
        /// Of its terminal, as it starts.
        size: Option<TerminalSize>,
    },
    /// What the container's process reads and writes from now on.
    Attach { container: ContainerId, stdin: bool },
    /// One connection to a port on the loopback of the pod.
    PortForward { sandbox: SandboxId, port: u32 },
}

/// What the caller says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Data(Bytes),
    /// Nothing more comes.
    End,
    Resize(TerminalSize),
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u32,
    pub height: u32,
}

impl From<PodTerminalSize> for TerminalSize {
    fn from(PodTerminalSize { width, height }: PodTerminalSize) -> Self {
        Self { width, height }
    }
}

/// What is said to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Started,
    /// Standard output, or what the port sends.
    Data(Bytes),
    Stderr(Bytes),
    /// Of a command; the last.
    ExitCode(i32),
}

/// Nothing that matters comes after [`Input::End`].
pub type Inputs = BoxStream<'static, Input>;

/// Ends with the session. The status is in the runtime's words, for the caller. Dropping it hangs up.
pub type Outputs = BoxStream<'static, Result<Output, Status>>;
