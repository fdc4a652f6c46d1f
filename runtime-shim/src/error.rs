//! Why a CRI call failed, and the one place that turns it into a gRPC status.

use std::{borrow::Cow, io, path::PathBuf};

use tonic::{Code, Status};

use crate::{
    containerd::{ContainerdError, ErrorKind},
    images::ImageError,
    network::{BridgeError, CniError, NetworkError},
};

/// The outcome of a CRI call.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a CRI call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{kind} {id}: not found")]
    NotFound { kind: &'static str, id: String },
    #[error("{kind} {name} exists already as {id}; remove it or raise its attempt")]
    Exists {
        kind: &'static str,
        name: String,
        id: String,
    },
    #[error("{field}: {problem}")]
    Invalid {
        /// The path of the field in the request, such as `config.mounts[1].host_path`.
        field: Cow<'static, str>,
        problem: String,
    },
    /// A good request that this host or its OCI runtime cannot meet.
    #[error("{field}: {problem}")]
    Unmet {
        field: Cow<'static, str>,
        problem: String,
    },
    #[error("{kind} {id} is {state}; {next_step}")]
    WrongState {
        kind: &'static str,
        id: String,
        state: &'static str,
        next_step: &'static str,
    },
    #[error("the runtime is not ready: {0}")]
    NotReady(String),
    #[error("{what} took longer than {seconds} s")]
    Deadline { what: String, seconds: u64 },
    #[error("there are {most} {what} already; {next_step}")]
    Exhausted {
        what: &'static str,
        most: usize,
        next_step: &'static str,
    },
    #[error(
        "the output of container {container} comes faster than it is taken; attach again, or read its log"
    )]
    Lagged { container: String },
    #[error("connect to port {port} in sandbox {sandbox}; does the pod listen on it?")]
    Connect {
        sandbox: String,
        port: u16,
        #[source]
        cause: io::Error,
    },
    #[error("{what} {path}", path = .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The OCI runtime refused a process. Without ids: of every try the same is told.
    #[error("cannot start the container: {0}")]
    CannotStart(String),
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A call was cut off by the end of the process.
    #[error("the runtime is stopping")]
    Stopping,
}

impl Error {
    pub(crate) fn invalid(field: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn unmet(field: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Self {
        Self::Unmet {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// For `map_err` after file operations.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { what, path, cause }
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::WrongState { .. } | Self::Unmet { .. } => Code::FailedPrecondition,
            Self::Exhausted { .. } | Self::Lagged { .. } => Code::ResourceExhausted,
            Self::NotReady(_) | Self::Stopping | Self::Connect { .. } => Code::Unavailable,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::File { .. } => Code::Internal,
            // Not this program's bug: the reply tells what the OCI runtime said.
            Self::CannotStart(_) => Code::Unknown,
            Self::Containerd(error) => containerd_code(error),
            Self::Image(error) => image_code(error),
            Self::Network(error) => network_code(error),
        }
    }
}

fn containerd_code(error: &ContainerdError) -> Code {
    match error.kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::WrongState => Code::FailedPrecondition,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        // Not this program's bug: the reply tells what containerd or the OCI runtime said.
        ErrorKind::Other => Code::Unknown,
    }
}

fn network_code(error: &NetworkError) -> Code {
    match error {
        NetworkError::Cni(error) => match error {
            CniError::FixedAddress { .. } => Code::FailedPrecondition,
            CniError::Journal { .. } => Code::Internal,
            // The plugin's or the configuration's failure, told in their words.
            CniError::Conf(_)
            | CniError::Plugin(_)
            | CniError::Result { .. }
            | CniError::NoAddress { .. } => Code::Unknown,
        },
        NetworkError::Bridge(error) => match error {
            BridgeError::AddressTaken { .. } | BridgeError::PortTaken { .. } => Code::FailedPrecondition,
            BridgeError::OutsideRange { .. } => Code::InvalidArgument,
            BridgeError::Exhausted { .. } => Code::ResourceExhausted,
            BridgeError::Kernel { .. } => Code::Unknown,
        },
    }
}

fn image_code(error: &ImageError) -> Code {
    match error {
        ImageError::BadReference { .. } | ImageError::BadCredentials { .. } => Code::InvalidArgument,
        ImageError::NotInRegistry { .. } | ImageError::NoPlatform { .. } => Code::NotFound,
        ImageError::NeedsCredentials { .. } | ImageError::WrongCredentials { .. } => Code::Unauthenticated,
        ImageError::Unreachable { .. } | ImageError::Tls { .. } => Code::Unavailable,
        ImageError::Throttled { .. } | ImageError::TooLarge { .. } => Code::ResourceExhausted,
        ImageError::Malformed { .. } | ImageError::WrongLayer { .. } | ImageError::WrongBytes { .. } => {
            Code::DataLoss
        }
        ImageError::Hosts { .. } | ImageError::NotRunnable { .. } | ImageError::UnknownLayer { .. } => {
            Code::FailedPrecondition
        }
        ImageError::Cancelled { .. } => Code::Cancelled,
        ImageError::Registry { .. }
        | ImageError::Archive { .. }
        | ImageError::ReadArchive { .. }
        | ImageError::Users { .. } => Code::Unknown,
        ImageError::Containerd(error) => containerd_code(error),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), clone8s_daemon::supervisor::chain(&error))
    }
}
