//! What a gRPC status says, in words for a person.

use std::error::Error as _;

use anyhow::anyhow;
use clone8s::rules::Violation;
use clone8s_daemon::channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How an error begins that says that there is no server to answer.
const UNREACHED: &str = "the apiserver cannot be reached or cannot serve this now";

/// One line for the error, and one for each bad field where there are several.
pub fn explain(status: &Status) -> String {
    let mut text = match status.code() {
        // Whoever gives a reason was reached.
        Code::Unavailable | Code::Unimplemented if status.get_details_error_info().is_some() => {
            status.message().to_owned()
        }
        Code::Unavailable => unreached(status),
        // No server says that: the call, or its answer, was lost on the way.
        _ if status.source().is_some() => unreached(status),
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
    let lines: Vec<_> = violations(status).iter().map(Violation::to_string).collect();
    // The server's words have all of them in one line.
    let named = lines.first().and_then(|first| text.find(first.as_str()));
    match (lines.len(), named) {
        (1, Some(_)) => return text,
        (_, Some(place)) => text.truncate(text[..place].trim_end_matches(": ").len()),
        _ => {}
    }
    for line in lines {
        text = format!("{text}\n  {line}");
    }
    text
}

fn unreached(status: &Status) -> String {
    let why = channel::words(status);
    // rustls's words, and those of the kernel.
    let next_step = [
        ("UnknownIssuer", "; --ca is not the root CA of this server"),
        ("NotValidForName", "; name the server as its certificate does"),
        (
            "fatal alert",
            "; the server takes no certificate like that of --cert",
        ),
        // TLS 1.3 lets the client believe that it is in before the server has looked at its certificate.
        (
            "connection closed",
            "; the server may have refused the certificate of --cert",
        ),
        ("Connection refused", "; is it running there?"),
    ]
    .into_iter()
    .find_map(|(word, next_step)| why.contains(word).then_some(next_step));
    format!("{UNREACHED}: {why}{}", next_step.unwrap_or_default())
}

/// Whether it is worth another try.
pub fn is_passing(status: &Status) -> bool {
    // No server says what has a source: the call, or its answer, was lost on the way.
    status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::Aborted
                | Code::OutOfRange
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
        )
}

/// The error of a command that goes through all of its objects even when some fail.
pub fn none_failed(errors: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}

/// Names the server in an error that says that there is none to answer.
pub fn name_server(error: anyhow::Error, server: &str) -> anyhow::Error {
    let text = format!("{error:#}");
    if !text.contains(UNREACHED) {
        return error;
    }
    anyhow!(text.replacen(UNREACHED, &format!("{server}: {UNREACHED}"), 1))
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
    fn what_was_lost_on_the_way_says_where_and_what_to_do() {
        let lost = |code, words: &'static str| {
            let mut status = Status::new(code, "transport error");
            status.set_source(std::sync::Arc::new(std::io::Error::other(words)));
            let error = anyhow!("pod/web: {}", explain(&status));
            name_server(error, "https://10.0.0.1:7443").to_string()
        };
        assert_eq!(
            lost(Code::Unknown, "received fatal alert: UnknownCA"),
            format!(
                "pod/web: https://10.0.0.1:7443: {UNREACHED}: received fatal alert: UnknownCA; the server takes no \
                 certificate like that of --cert"
            )
        );
        assert!(
            lost(Code::Cancelled, "connection closed")
                .ends_with(": connection closed; the server may have refused the certificate of --cert")
        );
        assert!(
            lost(Code::Unavailable, "invalid peer certificate: UnknownIssuer")
                .ends_with(": UnknownIssuer; --ca is not the root CA of this server")
        );
        let other = name_server(anyhow!("Pod default/web not found"), "https://10.0.0.1:7443");
        assert_eq!(other.to_string(), "Pod default/web not found");
    }

    #[test]
    fn a_bad_field_that_the_error_names_is_told_once() {
        let details = ErrorDetails::with_bad_request(vec![FieldViolation::new("container", "is missing")]);
        let told = "the call is not valid: container: is missing";
        let status = Status::with_error_details(Code::InvalidArgument, told, details);
        assert_eq!(explain(&status), told);

        let details = ErrorDetails::with_bad_request(vec![
            FieldViolation::new("a", "is missing"),
            FieldViolation::new("b", "is empty"),
        ]);
        let told = "the call is not valid: a: is missing; b: is empty";
        let status = Status::with_error_details(Code::InvalidArgument, told, details);
        assert_eq!(
            explain(&status),
            "the call is not valid\n  a: is missing\n  b: is empty"
        );
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
