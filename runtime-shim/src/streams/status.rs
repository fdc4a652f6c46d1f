//! How a session's end is told to Kubernetes' clients: `meta/v1, Status` in JSON, or text for those before it.

use bytes::Bytes;
use serde_json::json;

use crate::error::{Error, Result};

/// How much a client's protocol can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusForm {
    /// From v4 on.
    Json,
    /// Nothing for success, words for all else.
    Text,
}

/// What goes to the error stream for an exit code.
pub(super) fn encode(outcome: &Result<i32>, form: StatusForm) -> Bytes {
    match form {
        StatusForm::Json => as_json(outcome).to_string().into(),
        StatusForm::Text => match outcome {
            Ok(0) => Bytes::new(),
            Ok(code) => format!("command terminated with non-zero exit code: {code}").into(),
            Err(error) => words(error).into(),
        },
    }
}

fn as_json(outcome: &Result<i32>) -> serde_json::Value {
    match outcome {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {}", words(error)),
            "reason": "InternalError",
            "details": { "causes": [{ "message": words(error) }] },
            "code": 500,
        }),
    }
}

pub(super) fn words(error: &Error) -> String {
    clone8s_daemon::supervisor::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_v4_read_the_exit_code_from_the_causes() {
        let status: serde_json::Value = serde_json::from_slice(&encode(&Ok(7), StatusForm::Json)).unwrap();
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        let status: serde_json::Value = serde_json::from_slice(&encode(&Ok(0), StatusForm::Json)).unwrap();
        assert_eq!(status["status"], "Success");
    }

    #[test]
    fn older_clients_take_silence_for_success() {
        assert!(encode(&Ok(0), StatusForm::Text).is_empty());
        assert!(encode(&Ok(1), StatusForm::Text).ends_with(b"code: 1"));
        let failed = encode(&Err(Error::Stopping), StatusForm::Text);
        assert_eq!(failed, "the runtime is stopping");
    }
}
