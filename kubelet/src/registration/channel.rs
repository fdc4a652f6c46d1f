//! Channels to an apiserver that has been told apart from any other.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clone8s_daemon::channel::Channel;
use rustls_pki_types::CertificateDer;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity as ClientIdentity};

use super::{address::Address, identity::Identity};

/// A broken connection shows within this, also on a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why no channel can be made; nothing has been sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot use these certificates for {address}")]
pub struct ChannelError {
    address: String,
    #[source]
    cause: tonic::transport::Error,
}

/// Trusts one root CA (PEM), and shows nothing of its own.
pub(super) fn trusting(address: &Address, root: &str) -> Result<Channel, ChannelError> {
    channel(
        address,
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root)),
    )
}

/// Trusts the cluster's root CA alone, and shows the node's certificate.
pub(super) fn mutual(address: &Address, identity: &Identity) -> Result<Channel, ChannelError> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&identity.ca))
        .identity(ClientIdentity::from_pem(&identity.certificate, &identity.key));
    channel(address, tls)
}

/// Connects on first use, and again after every break.
fn channel(address: &Address, tls: ClientTlsConfig) -> Result<Channel, ChannelError> {
    let failed = |cause| ChannelError {
        address: address.to_string(),
        cause,
    };
    let endpoint = Endpoint::from_shared(address.to_string())
        .and_then(|endpoint| endpoint.tls_config(tls.domain_name(address.host())))
        .map_err(failed)?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy().into())
}

/// A certificate in PEM.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
