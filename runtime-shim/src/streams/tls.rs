//! TLS for the streaming server: a certificate that may be renewed under a running server, and clients' certificates
//! where a CA for them is given.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;

use crate::{config::StreamTls, table::lock};

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{path}: not readable as PEM", path = .path.display())]
    Pem {
        path: PathBuf,
        #[source]
        cause: rustls_pki_types::pem::Error,
    },
    #[error("{path}: has no certificate", path = .0.display())]
    Empty(PathBuf),
    #[error("the streaming server's certificate, key or client CA cannot be used")]
    Unusable(#[from] rustls::Error),
    #[error("the streaming server's client CA cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The files' present content, read again when they change.
#[derive(Debug)]
pub(super) struct Tls {
    files: StreamTls,
    current: Mutex<Current>,
}

struct Current {
    written: Vec<Option<SystemTime>>,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn read(files: StreamTls) -> Result<Self, TlsError> {
        let current = Current {
            written: written(&files),
            acceptor: acceptor(&files)?,
        };
        Ok(Self {
            files,
            current: Mutex::new(current),
        })
    }

    /// For the next connection. A renewal that cannot be used leaves the files' last content in force.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut current = lock(&self.current);
        let now = written(&self.files);
        if now != current.written {
            current.written = now;
            match acceptor(&self.files) {
                Ok(acceptor) => {
                    tracing::info!("streaming with a new certificate");
                    current.acceptor = acceptor;
                }
                Err(error) => tracing::error!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "cannot use the streaming server's new certificate; the last one stays"
                ),
            }
        }
        current.acceptor.clone()
    }
}

fn written(files: &StreamTls) -> Vec<Option<SystemTime>> {
    [
        Some(&files.certificate),
        Some(&files.key),
        files.client_ca.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(|path| path.metadata().and_then(|found| found.modified()).ok())
    .collect()
}

fn acceptor(files: &StreamTls) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem(&files.key))?;
    let mut config = builder.with_single_cert(certificates(&files.certificate)?, key)?;
    // Upgrades are HTTP/1.1's.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path)
        .map_err(pem(path))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem(path))?;
    if found.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(found)
}

fn pem(path: &Path) -> impl FnOnce(rustls_pki_types::pem::Error) -> TlsError {
    let path = path.to_owned();
    move |cause| TlsError::Pem { path, cause }
}

/// A connection's bytes, plain or not.
pub(super) enum Socket {
    Plain(tokio::net::TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>),
}

macro_rules! either {
    ($socket:expr, $inner:ident => $call:expr) => {
        match std::pin::Pin::get_mut($socket) {
            Socket::Plain($inner) => $call,
            Socket::Tls($inner) => $call,
        }
    };
}

impl tokio::io::AsyncRead for Socket {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        either!(self, inner => std::pin::Pin::new(inner).poll_read(context, buffer))
    }
}

impl tokio::io::AsyncWrite for Socket {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        either!(self, inner => std::pin::Pin::new(inner).poll_write(context, buffer))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        either!(self, inner => std::pin::Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        either!(self, inner => std::pin::Pin::new(inner).poll_shutdown(context))
    }
}
