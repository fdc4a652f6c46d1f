//! GET over HTTP/1.1, for probes and hooks: a connection a request, any certificate, redirects within the server.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use clone8s::v1::HttpGetAction;
use clone8s_daemon::supervisor::chain;
use futures::future::{Either, select};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, HOST, LOCATION, USER_AGENT},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const MOST_REDIRECTS: usize = 10;
/// What is read of an answer; the rest is for nobody.
const BEGINNING: usize = 1024;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What of an answer people want to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) beginning: String,
}

/// "10.0.0.1:80", "[fd00::1]:80".
pub(crate) fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// Asks, and follows redirects as long as they stay with the server.
pub(crate) async fn get(target: &Target, get: &HttpGetAction) -> Result<Answered, String> {
    let mut path = get.path.clone();
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    for _ in 0..=MOST_REDIRECTS {
        let (answered, location) = ask(target, get, &path).await?;
        let authority = authority(&target.host, target.port);
        let next = location.and_then(|location| resolve(&location, &authority, &path));
        match next {
            Some(next) => path = next,
            None => return Ok(answered),
        }
    }
    Err(format!("more than {MOST_REDIRECTS} redirects"))
}

/// One request on a connection of its own: the answer, and where it sends us.
async fn ask(target: &Target, get: &HttpGetAction, path: &str) -> Result<(Answered, Option<String>), String> {
    let authority = authority(&target.host, target.port);
    let request = request(get, path, &authority)?;
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|error| format!("connect to {authority}: {error}"))?;
    if get.scheme != "HTTPS" {
        return exchange(TokioIo::new(stream), request).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::clone(&TLS))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS with {authority}: {}", chain(&error)))?;
    exchange(TokioIo::new(stream), request).await
}

fn request(get: &HttpGetAction, path: &str, authority: &str) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(path);
    let defaults = [
        (HOST, authority.to_owned()),
        (ACCEPT, "*/*".to_owned()),
        (USER_AGENT, format!("clone8s-probe/{}", env!("CARGO_PKG_VERSION"))),
    ];
    for (name, value) in defaults {
        let mut given = get.http_headers.iter();
        if !given.any(|header| header.name.eq_ignore_ascii_case(name.as_str())) {
            request = request.header(name, value);
        }
    }
    for header in &get.http_headers {
        request = request.header(&header.name, &header.value);
    }
    request
        .body(Empty::new())
        .map_err(|error| format!("cannot ask for {path:?}: {error}"))
}

async fn exchange<S: Read + Write + Unpin + Send + 'static>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<(Answered, Option<String>), String> {
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| chain(&error))?;
    let answer = pin!(async move {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| chain(&error))?;
        let status = response.status();
        let location = response
            .headers()
            .get(LOCATION)
            .filter(|_| status.is_redirection());
        let location = location
            .and_then(|location| location.to_str().ok())
            .map(str::to_owned);
        let answered = Answered {
            status: status.as_u16(),
            beginning: beginning(response.into_body()).await,
        };
        Ok((answered, location))
    });
    let connection = pin!(connection);
    match select(answer, connection).await {
        Either::Left((answer, _)) => answer,
        // The server has closed the connection; what it said before is here.
        Either::Right((_, answer)) => answer.await,
    }
}

/// The path that a redirect leads to, unless it leads away from the server.
fn resolve(location: &str, authority: &str, path: &str) -> Option<String> {
    let absolute = location
        .split_once("://")
        .map(|(_, rest)| rest)
        .or_else(|| location.strip_prefix("//"));
    if let Some(rest) = absolute {
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let same = host == authority || authority.strip_suffix(":80") == Some(host);
        return same.then(|| {
            if path.is_empty() {
                "/".to_owned()
            } else {
                path.to_owned()
            }
        });
    }
    if location.starts_with('/') {
        return Some(location.to_owned());
    }
    let folder = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
    Some(format!("{folder}{location}"))
}

async fn beginning(mut body: Incoming) -> String {
    let mut read = Vec::new();
    while read.len() < BEGINNING {
        match body.frame().await {
            Some(Ok(frame)) => read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) | None => break,
        }
    }
    read.truncate(BEGINNING);
    String::from_utf8_lossy(&read).trim().to_owned()
}

/// Probes ask whether a server answers, not who it is.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone { provider }))
        .with_no_client_auth();
    Arc::new(config)
});

#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/b", Some("/b"))]
    #[case("b", Some("/a/b"))]
    #[case("http://10.0.0.1:8080/c", Some("/c"))]
    #[case("//10.0.0.1:8080", Some("/"))]
    #[case("http://elsewhere/c", None)]
    fn a_redirect_is_followed_within_its_server(#[case] location: &str, #[case] expected: Option<&str>) {
        let next = resolve(location, "10.0.0.1:8080", "/a/x");
        assert_eq!(next.as_deref(), expected);
    }
}
