//! TLS on TCP: the server's certificate, which may change while it serves, and clients' certificates, which are
//! verified when they are given and which the access table asks for where it needs them.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use clone8s_daemon::{Shutdown, clock};
use futures::{Stream, StreamExt as _};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::TcpListenerStream;

use crate::pki::{KeyPairPem, Pki, PkiError};

/// A peer that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at a time; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// How often the certificate is looked at: whether it ends soon, or its file has changed.
const REFRESH_EVERY: Duration = Duration::from_hours(1);

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot listen on {address}: choose another address, or stop what uses it")]
    Bind {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("the server's certificate or key is not one in PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the server's certificate and key cannot be used")]
    Unusable(#[from] rustls::Error),
    #[error("client certificates cannot be verified against the root CA")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// A bound address with the certificate that it shows.
#[derive(Debug)]
pub(crate) struct TlsListener {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    certificate: Arc<CurrentCertificate>,
}

impl TlsListener {
    pub(crate) async fn bind(address: SocketAddr, pki: &Pki) -> Result<Self, TlsError> {
        let certificate = Arc::new(CurrentCertificate::new(&pki.server(clock::now())?)?);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_slice(pki.authority.der()).into_owned())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind(address)
            .await
            .map_err(|cause| TlsError::Bind { address, cause })?;
        Ok(Self {
            listener,
            config: Arc::new(config),
            certificate,
        })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What keeps the certificate current.
    pub(crate) fn certificate(&self) -> Arc<CurrentCertificate> {
        Arc::clone(&self.certificate)
    }

    /// Connections whose handshake is done, in the order in which they are; a failed one concerns nobody else.
    pub(crate) fn connections(self) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
        let acceptor = TlsAcceptor::from(self.config);
        TcpListenerStream::new(self.listener)
            .map(move |connection| handshake(acceptor.clone(), connection))
            .buffer_unordered(HANDSHAKES)
            .filter_map(|connection| async move { connection.map(Ok) })
    }
}

async fn handshake(acceptor: TlsAcceptor, connection: io::Result<TcpStream>) -> Option<TlsStream<TcpStream>> {
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            // Out of file descriptors, most likely: some will be closed meanwhile.
            sleep(Duration::from_millis(100)).await;
            return None;
        }
    };
    // Small messages go out at once.
    if connection.set_nodelay(true).is_err() {
        return None;
    }
    let peer = connection.peer_addr().ok();
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(connection)).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            tracing::info!(?peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::info!(?peer, "TLS handshake took too long");
            None
        }
    }
}

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(crate) struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CurrentCertificate {
    fn new(pem: &KeyPairPem) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Arc::new(certified(pem)?))))
    }

    /// Keeps the certificate, and the administrator's on disk, from ending. Runs until shutdown.
    pub(crate) async fn keep_fresh(
        self: Arc<Self>,
        pki: Arc<Pki>,
        shutdown: Shutdown,
    ) -> Result<(), TlsError> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(REFRESH_EVERY) => {}
            }
            if let Err(error) = self.refresh(&pki) {
                // The present one serves on for as long as it lasts.
                tracing::error!(
                    error = clone8s_daemon::supervisor::chain(&error),
                    "cannot refresh the certificates"
                );
            }
        }
    }

    fn refresh(&self, pki: &Pki) -> Result<(), TlsError> {
        pki.refresh_admin(clock::now())?;
        let next = Arc::new(certified(&pki.server(clock::now())?)?);
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if current.cert != next.cert {
            tracing::info!("serving with a new certificate");
            *current = next;
        }
        Ok(())
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn certified(pem: &KeyPairPem) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())?;
    Ok(CertifiedKey::from_der(
        chain,
        key,
        &aws_lc_rs::default_provider(),
    )?)
}
