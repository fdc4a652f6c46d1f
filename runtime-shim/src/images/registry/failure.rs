//! Why one place did not answer as hoped, and what follows from it.

use std::{error::Error, io, time::Duration};

use super::super::ImageError;

/// What a person can do about a host that is not reached.
const CHECK_NETWORK: &str = "check the registry's name, the network and any proxy between";
const CHECK_NAME: &str = "check the registry's name and this host's DNS";
const CHECK_SCHEME: &str =
    "if it speaks plain HTTP, give its address as http:// in certs.d/<host>/hosts.toml";
const CHECK_AUTHORITY: &str =
    "give the file of the authority that signed its certificate as `ca` in certs.d/<host>/hosts.toml";
const CHECK_CERTIFICATE: &str = "the registry needs a certificate that is valid for its name and today";
const CHECK_CLIENT: &str =
    "it may ask for a client certificate: give one as `client` in certs.d/<host>/hosts.toml";

/// What came of asking one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It does not have it.
    Absent,
    /// It wants to see credentials, or others.
    Refused { shown: bool, problem: String },
    /// Too many requests; how long to wait, if it says so.
    Throttled { wait: Option<Duration>, problem: String },
    /// It cannot be reached, or not at this time.
    Unreachable {
        problem: String,
        next_step: &'static str,
    },
    Tls {
        problem: String,
        next_step: &'static str,
    },
    /// It answers what cannot be right, and would again.
    Wrong(String),
}

impl Failure {
    pub(super) fn passing(problem: impl Into<String>) -> Self {
        Self::Unreachable {
            problem: problem.into(),
            next_step: CHECK_NETWORK,
        }
    }

    /// Whether asking again may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { next_step, .. } => *next_step != CHECK_NAME,
            Self::Throttled { wait, .. } => wait.is_none_or(|wait| wait <= super::rounds::LONGEST_WAIT),
            _ => false,
        }
    }

    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Throttled { wait, .. } => *wait,
            _ => None,
        }
    }

    /// In few words, for a place that is not the one that counts.
    pub(super) fn brief(&self) -> &str {
        match self {
            Self::Absent => "has no such image",
            Self::Refused { .. } => "refuses it",
            Self::Throttled { .. } => "limits requests",
            Self::Unreachable { problem, .. } | Self::Tls { problem, .. } | Self::Wrong(problem) => problem,
        }
    }

    /// For the person who asked for `image`.
    pub(super) fn explain(self, image: &str, registry: &str, also: String) -> ImageError {
        let (image, registry) = (image.to_owned(), registry.to_owned());
        match self {
            Self::Absent => ImageError::NotInRegistry {
                image,
                registry,
                also,
            },
            Self::Refused { shown: false, .. } => ImageError::NeedsCredentials {
                image,
                registry,
                also,
            },
            Self::Refused { problem, .. } => ImageError::WrongCredentials {
                image,
                registry,
                problem,
                also,
            },
            Self::Throttled { wait, problem } => ImageError::Throttled {
                image,
                registry,
                problem: match wait {
                    Some(wait) => format!("{problem}; it asks to wait {} s", wait.as_secs()),
                    None => problem,
                },
                also,
            },
            Self::Unreachable { problem, next_step } => ImageError::Unreachable {
                image,
                registry,
                problem,
                next_step,
                also,
            },
            Self::Tls { problem, next_step } => ImageError::Tls {
                image,
                registry,
                problem,
                next_step,
                also,
            },
            Self::Wrong(problem) => ImageError::Registry {
                image,
                registry,
                problem,
                also,
            },
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // Without the address: it may carry a token.
        let error = error.without_url();
        if let Some(failure) = find(&error).map(of_tls) {
            return failure;
        }
        let problem = innermost(&error);
        let text = clone8s_daemon::supervisor::chain(&error);
        if text.contains("dns error") {
            let problem = format!("its name has no address ({problem})");
            // The resolver's words for a name server that does not answer.
            if problem.contains("emporary") {
                return Self::passing(problem);
            }
            return Self::Unreachable {
                problem,
                next_step: CHECK_NAME,
            };
        }
        if text.contains("tls handshake eof") {
            return Self::Unreachable {
                problem: "it hangs up at the TLS handshake".into(),
                next_step: CHECK_SCHEME,
            };
        }
        if error.is_timeout() {
            return Self::passing(if error.is_connect() {
                "no connection in time"
            } else {
                "it has sent nothing for too long"
            });
        }
        if error.is_builder() {
            return Self::Wrong(format!("cannot be asked: {problem}"));
        }
        Self::passing(problem)
    }
}

fn of_tls(error: &rustls::Error) -> Failure {
    use rustls::{CertificateError, Error as Tls};
    let (problem, next_step) = match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "its certificate is signed by no authority that this host knows".to_owned(),
            CHECK_AUTHORITY,
        ),
        Tls::InvalidCertificate(problem) => (
            format!("its certificate is not good: {problem}"),
            CHECK_CERTIFICATE,
        ),
        Tls::InvalidMessage(_) => ("it does not speak TLS".to_owned(), CHECK_SCHEME),
        Tls::AlertReceived(alert) => (format!("it ends the handshake: {alert:?}"), CHECK_CLIENT),
        other => (other.to_string(), CHECK_CERTIFICATE),
    };
    Failure::Tls { problem, next_step }
}

/// The TLS error in a chain: inside of an I/O error, which hides what it wraps.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next: Option<&'a (dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return find(inner);
        }
        next = error.source();
    }
    None
}

/// The last of a chain of causes says most; those before it, where it happened.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
