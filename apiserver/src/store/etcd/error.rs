//! What etcd's errors mean to the store's callers.

use std::time::Duration;

use clone8s_daemon::channel;
use tonic::Code;

use crate::store::{Revision, StoreError, VALUE_LIMIT};

/// What a call was about, for its error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) action: &'static str,
    key: &'a str,
    at: Option<Revision>,
}

impl<'a> Asked<'a> {
    pub(super) fn key(action: &'static str, key: &'a str) -> Self {
        Self {
            action,
            key,
            at: None,
        }
    }

    pub(super) fn at(action: &'static str, at: Option<Revision>) -> Self {
        Self { action, key: "", at }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("etcd at {endpoints}: {action}: {cause}")]
struct CallFailed {
    endpoints: String,
    action: &'static str,
    cause: String,
}

pub(super) fn timed_out(endpoints: &str, action: &'static str, timeout: Duration) -> StoreError {
    unavailable(
        endpoints,
        action,
        format!("no answer within {timeout:?}; see that it runs and has a quorum"),
    )
}

pub(super) fn unavailable(endpoints: &str, action: &'static str, cause: String) -> StoreError {
    StoreError::Unavailable(Box::new(CallFailed {
        endpoints: endpoints.to_owned(),
        action,
        cause,
    }))
}

/// `oldest` and `newest` in the result are only what can be known from the question.
pub(super) fn map_error(endpoints: &str, asked: &Asked<'_>, error: etcd_client::Error) -> StoreError {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return unavailable(endpoints, asked.action, error.to_string());
    };
    let at = asked.at.unwrap_or(Revision(0));
    let failed = |cause: String| CallFailed {
        endpoints: endpoints.to_owned(),
        action: asked.action,
        cause,
    };
    // etcd tells these two apart by their words alone (etcd, api/v3rpc/rpctypes/error.go).
    match status.code() {
        Code::OutOfRange if status.message().contains("compacted") => StoreError::Compacted {
            asked: at,
            oldest: Revision(at.0 + 1),
        },
        Code::OutOfRange if status.message().contains("future") => StoreError::Future {
            asked: at,
            newest: Revision(at.0 - 1),
        },
        Code::InvalidArgument if status.message().contains("too large") => StoreError::TooLarge {
            key: asked.key.to_owned(),
            bytes: VALUE_LIMIT,
            limit: VALUE_LIMIT,
        },
        Code::PermissionDenied | Code::Unauthenticated => StoreError::Broken(Box::new(failed(format!(
            "{}; see that the client's certificate is one that etcd trusts",
            status.message()
        )))),
        Code::InvalidArgument | Code::DataLoss | Code::Unimplemented => {
            StoreError::Broken(Box::new(failed(status.message().to_owned())))
        }
        _ => StoreError::Unavailable(Box::new(failed(channel::words(&status)))),
    }
}
