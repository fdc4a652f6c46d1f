//! What can go wrong, and how containerd is told.

use std::{io, path::PathBuf};

/// gRPC's codes, as far as they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    FailedPrecondition = 9,
    Unimplemented = 12,
}

/// The call of the OCI runtime.
pub(crate) const CHECKPOINT: &str = "checkpoint";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}: not found")]
    NotFound(String),
    #[error("{0}: exists already")]
    Exists(String),
    #[error("{what}: is {state}, and cannot be {wanted}")]
    WrongState {
        what: String,
        state: &'static str,
        wanted: &'static str,
    },
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("the task API has no method {0} here")]
    NoMethod(String),
    #[error("OCI runtime: {call}: {message}")]
    Runtime { call: &'static str, message: String },
    #[error("cannot {what} {path}: {cause}", path = .path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// For `map_err`.
    pub(crate) fn file<E: Into<io::Error>>(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |cause| Self::File {
            what,
            path,
            cause: cause.into(),
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::Exists(_) => Code::AlreadyExists,
            // A checkpoint fails for a runtime, kernel or container that does not allow it, and all is as before.
            Self::WrongState { .. } | Self::Runtime { call: CHECKPOINT, .. } => Code::FailedPrecondition,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::NoMethod(_) => Code::Unimplemented,
            Self::Runtime { .. } | Self::File { .. } => Code::Unknown,
        }
    }
}
