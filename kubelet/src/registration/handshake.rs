//! Finds the root CA that a join token pins, before anything is sent to a server that may not be ours.
//!
//! One TLS handshake, broken off as soon as the server has shown its certificates: the pin picks the root among
//! them, and the rest must chain to it and be for the server's name. The join itself then runs on a connection that
//! trusts this root alone.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use clone8s_daemon::supervisor::chain;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{address::Address, token::Fingerprint};

const ASK: &str = "check how the apiserver got its certificate";

const DEADLINE: Duration = Duration::from_secs(10);

/// Why a server's certificates are not to be trusted, or are not known.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the apiserver at {address} is not reachable: {cause}")]
    Unreachable { address: String, cause: String },
    #[error(
        "the apiserver at {address} belongs to another cluster: the join token pins the root CA with SHA-256 {expected}, \
         but it presents {presented}; check the address, or make a token on that cluster"
    )]
    WrongCa {
        address: String,
        expected: String,
        presented: String,
    },
    #[error("the certificate of the apiserver at {address} is not good for it: {reason}; {next_step}")]
    BadCertificate {
        address: String,
        reason: String,
        next_step: &'static str,
    },
}

/// The pinned root CA, once the server at the address has shown it and a certificate that chains to it.
pub(super) async fn pinned_root(
    address: &Address,
    pin: Fingerprint,
    now: SystemTime,
) -> Result<CertificateDer<'static>, HandshakeError> {
    let presented = presented_chain(address).await?;
    let root = pick_root(address, &presented, pin)?;
    check(address, &presented, &root, now)?;
    Ok(root)
}

/// What the server shows in a handshake that goes no further.
async fn presented_chain(address: &Address) -> Result<Vec<CertificateDer<'static>>, HandshakeError> {
    let unreachable = |cause: String| HandshakeError::Unreachable {
        address: address.to_string(),
        cause,
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let witness = Arc::new(Witness {
        provider: provider.clone(),
        seen: Mutex::new(Vec::new()),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unreachable(chain(&error)))?
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];

    let attempt = async {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        TlsConnector::from(Arc::new(config))
            .connect(address.server_name(), stream)
            .await
    };
    let outcome = match timeout(DEADLINE, attempt).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    let seen = std::mem::take(&mut *witness.seen.lock().unwrap_or_else(PoisonError::into_inner));
    // The witness breaks every handshake off, so that it ends in an error even when all went well.
    match outcome {
        _ if !seen.is_empty() => Ok(seen),
        Err(error) => Err(unreachable(chain(&error))),
        Ok(()) => Err(unreachable("it presents no certificate".into())),
    }
}

fn pick_root(
    address: &Address,
    presented: &[CertificateDer<'static>],
    pin: Fingerprint,
) -> Result<CertificateDer<'static>, HandshakeError> {
    presented
        .iter()
        .find(|certificate| Fingerprint::of(certificate) == pin)
        .cloned()
        .ok_or_else(|| HandshakeError::WrongCa {
            address: address.to_string(),
            expected: pin.to_string(),
            // The last is the nearest to the root.
            presented: presented.last().map_or_else(
                || "none".to_owned(),
                |certificate| format!("{} ({})", Fingerprint::of(certificate), subject(certificate)),
            ),
        })
}

/// What the TLS library will check again on the connection that follows: here its reason reaches a person.
fn check(
    address: &Address,
    presented: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<(), HandshakeError> {
    let bad = |reason: String, next_step| HandshakeError::BadCertificate {
        address: address.to_string(),
        reason,
        next_step,
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(root.clone())
        .map_err(|error| bad(error.to_string(), ASK))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| bad(error.to_string(), ASK))?;
    let Some((leaf, others)) = presented.split_first() else {
        return Err(bad("it presents none".into(), ASK));
    };
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = UnixTime::since_unix_epoch(since);
    match verifier.verify_server_cert(leaf, others, &address.server_name(), &[], time) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(
            reason @ (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }),
        )) => Err(bad(
            reason.to_string(),
            "use a name that the certificate has, or give the apiserver's certificate this name",
        )),
        Err(error) => Err(bad(error.to_string(), ASK)),
    }
}

fn subject(certificate: &CertificateDer<'_>) -> String {
    X509Certificate::from_der(certificate).map_or_else(
        |_| "unreadable".to_owned(),
        |(_, certificate)| certificate.subject().to_string(),
    )
}

/// Takes down what the server presents, and refuses it.
struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = [leaf]
            .into_iter()
            .chain(others)
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        Err(refusal())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refusal())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refusal())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn refusal() -> rustls::Error {
    CertificateError::ApplicationVerificationFailure.into()
}

#[cfg(test)]
mod tests;
