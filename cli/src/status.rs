//! What a gRPC status says, in words for a person.

use clone8s::rules::Violation;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// One line for the error, and one for each bad field.
pub fn explain(status: &Status) -> String {
    let mut text = match status.code() {
        // Whoever gives a reason was reached.
        Code::Unavailable | Code::Unimplemented if status.get_details_error_info().is_some() => {
            status.message().to_owned()
        }
        Code::Unavailable => format!(
            "the apiserver cannot be reached or cannot serve this now: {}",
            with_causes(status)
        ),
        Code::Unauthenticated | Code::PermissionDenied => {
            format!(
                "{}; use the root-only socket, or a client certificate with --cert and --key",
                status.message()
            )
        }
        Code::Unimplemented => format!("the server does not know this call: {}", status.message()),
        _ if status.message().is_empty() => format!("the server answered {:?}", status.code()),
        _ => status.message().to_owned(),
    };
    for violation in violations(status) {
        text = format!("{text}\n  {violation}");
    }
    text
}

/// The bad fields that the server names.
pub fn violations(status: &Status) -> Vec<Violation> {
    let bad = status.get_details_bad_request();
    bad.map(|bad| bad.field_violations)
        .unwrap_or_default()
        .into_iter()
        .map(|violation| Violation {
            field: violation.field,
            description: violation.description,
        })
        .collect()
}

fn with_causes(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => format!(
            "{}: {}",
            status.message(),
            clone8s_daemon::supervisor::chain(cause)
        ),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn an_answer_is_told_from_no_answer() {
        let details = ErrorDetails::with_error_info("NODE_LOST", "clone8s.io", []);
        let answered = Status::with_error_details(Code::Unavailable, "node n1 was lost", details);
        assert_eq!(explain(&answered), "node n1 was lost");
        assert!(explain(&Status::unavailable("refused")).contains("cannot be reached"));
    }

    #[test]
    fn every_bad_field_gets_its_line() {
        let details = ErrorDetails::with_bad_request(vec![
            FieldViolation::new("spec.containers[0].image", "must not be empty"),
            FieldViolation::new("metadata.name", "must be a DNS label"),
        ]);
        let status =
            Status::with_error_details(Code::InvalidArgument, "pod default/web is not valid", details);
        assert_eq!(
            explain(&status),
            "pod default/web is not valid\n  spec.containers[0].image: must not be empty\n  metadata.name: must be a DNS label"
        );
    }
}
