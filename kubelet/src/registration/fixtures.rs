//! A cluster's CA and a small apiserver for the tests of the registration.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clone8s::v1::{
    RegisterNodeRequest, RegisterNodeResponse, RenewNodeCertificateRequest, RenewNodeCertificateResponse,
    registration_service_server::{RegistrationService, RegistrationServiceServer},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, PublicKeyData,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use super::token::Fingerprint;

/// A root CA.
pub(super) struct Ca {
    pub(super) pem: String,
    pub(super) der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn token(&self) -> String {
        format!("id.secret.{}", Fingerprint::of(&self.der))
    }

    /// Leaf and root, as an apiserver presents them, and the leaf's key.
    pub(super) fn server(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (format!("{}{}", leaf.pem(), self.pem), key.serialize_pem())
    }

    pub(super) fn sign(&self, node: &str, key: &impl PublicKeyData, life: Duration) -> String {
        let mut params = CertificateParams::default();
        let name = format!("system:node:{node}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let now = clone8s_daemon::clock::now();
        params.not_before = (now - Duration::from_secs(1)).into();
        params.not_after = (now + life).into();
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

/// Registers every node that knows the token, once.
#[derive(Clone)]
pub(super) struct Clerk {
    pub(super) ca: Arc<Ca>,
    /// How long the certificates are good.
    pub(super) life: Duration,
    /// What to answer to a registration instead.
    pub(super) refusal: Arc<Mutex<Option<Status>>>,
    pub(super) registered: Arc<AtomicUsize>,
    pub(super) renewed: Arc<AtomicUsize>,
}

impl Clerk {
    pub(super) fn new(ca: Ca) -> Self {
        Self {
            ca: Arc::new(ca),
            life: Duration::from_hours(1),
            refusal: Arc::default(),
            registered: Arc::default(),
            renewed: Arc::default(),
        }
    }

    fn answer(&self, node: &str, request: &str) -> String {
        let request = CertificateSigningRequestParams::from_pem(request).unwrap();
        self.ca.sign(node, &request.public_key, self.life)
    }
}

#[tonic::async_trait]
impl RegistrationService for Clerk {
    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        let request = request.into_inner();
        if let Some(status) = self.refusal.lock().unwrap().clone() {
            return Err(status);
        }
        if request.token != "id.secret" {
            return Err(Status::unauthenticated("the token is not known"));
        }
        self.registered.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(RegisterNodeResponse {
            certificate: self.answer(&request.node_name, &request.certificate_request),
            ca_certificate: self.ca.pem.clone(),
        }))
    }

    async fn renew_node_certificate(
        &self,
        request: Request<RenewNodeCertificateRequest>,
    ) -> Result<Response<RenewNodeCertificateResponse>, Status> {
        let shown = request.peer_certs().map_or(0, |certificates| certificates.len());
        if shown == 0 {
            return Err(Status::unauthenticated("no client certificate"));
        }
        self.renewed.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        Ok(Response::new(RenewNodeCertificateResponse {
            certificate: self.answer("node-1", &request.certificate_request),
            ca_certificate: self.ca.pem.clone(),
        }))
    }
}

/// Serves until the set is dropped.
pub(super) async fn serve(tasks: &mut JoinSet<()>, clerk: &Clerk, listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let (chain, key) = clerk.ca.server(&["localhost", "127.0.0.1"]);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(chain, key))
        .client_ca_root(Certificate::from_pem(&clerk.ca.pem))
        .client_auth_optional(true);
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(RegistrationServiceServer::new(clerk.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tasks.spawn(async move { server.await.unwrap() });
    address
}

/// A port that is taken, so that nobody else gets it, and at which nobody listens.
pub(super) fn silent_port() -> TcpSocket {
    let port = TcpSocket::new_v4().unwrap();
    port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    port
}

pub(super) async fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}
