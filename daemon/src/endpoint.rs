//! The way to an apiserver: a unix socket, or TLS verified against the cluster's root CA.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tonic::transport::{self, Certificate, ClientTlsConfig, Identity};

use crate::{channel::Channel, unix};

/// The flags that name an apiserver.
#[derive(Debug, Clone, Args)]
pub struct Endpoint {
    /// The apiserver: unix:///path/to/socket or https://host:port
    #[arg(
        long,
        env = "CLONE8S_SERVER",
        default_value = "unix:///run/clone8s/apiserver.sock",
        value_name = "URL"
    )]
    pub server: String,
    /// The cluster's root CA, in PEM; needed with https
    #[arg(long, env = "CLONE8S_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The client certificate, in PEM
    #[arg(long, env = "CLONE8S_CERT", value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The client certificate's key, in PEM
    #[arg(long, env = "CLONE8S_KEY", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// Why there is no way to the apiserver, before anything was sent.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("--server {0}: must be unix:///PATH or https://HOST:PORT")]
    Scheme(String),
    #[error("--server {0} needs --ca, the PEM file of the cluster's root CA")]
    NoCa(String),
    #[error("cannot read {path}", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path}: has no certificate in PEM; --ca takes the cluster's root CA, pki/ca.crt in the apiserver's data folder", path = .0.display())]
    NoCertificate(PathBuf),
    #[error("--server {server:?} or its certificates cannot be used")]
    Tls {
        server: String,
        #[source]
        cause: tonic::transport::Error,
    },
}

/// A connection is looked after: one that answers no ping for this long is made anew.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Endpoint {
    /// A channel that connects on first use and again after every break.
    pub fn channel(&self) -> Result<Channel, EndpointError> {
        if let Some(path) = self
            .server
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
        {
            return Ok(unix::channel(path).into());
        }
        if !self.server.starts_with("https://") {
            return Err(EndpointError::Scheme(self.server.clone()));
        }
        let ca = self
            .ca
            .as_deref()
            .ok_or_else(|| EndpointError::NoCa(self.server.clone()))?;
        let roots = read(ca)?;
        if CertificateDer::from_pem_slice(&roots).is_err() {
            return Err(EndpointError::NoCertificate(ca.to_owned()));
        }
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots));
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        let unusable = |cause| EndpointError::Tls {
            server: self.server.clone(),
            cause,
        };
        Ok(transport::Channel::from_shared(self.server.clone())
            .map_err(|_| EndpointError::Scheme(self.server.clone()))?
            .tls_config(tls)
            .map_err(unusable)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_lazy()
            .into())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EndpointError> {
    fs::read(path).map_err(|cause| EndpointError::Read {
        path: path.to_owned(),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(server: &str) -> Endpoint {
        Endpoint {
            server: server.to_owned(),
            ca: None,
            cert: None,
            key: None,
        }
    }

    #[test]
    fn https_is_refused_without_a_root_ca() {
        let error = to("https://10.0.0.1:6443").channel().unwrap_err();
        assert!(error.to_string().contains("needs --ca"), "{error}");
    }

    #[test]
    fn plain_http_and_relative_sockets_are_refused() {
        for server in ["http://localhost:80", "unix://run/api.sock", "/run/api.sock", ""] {
            assert!(matches!(
                to(server).channel().unwrap_err(),
                EndpointError::Scheme(_)
            ));
        }
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let endpoint = Endpoint {
            ca: Some("/nowhere/ca.pem".into()),
            ..to("https://localhost:1")
        };
        let error = endpoint.channel().unwrap_err();
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn a_root_ca_without_a_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "no certificate").unwrap();
        let endpoint = Endpoint {
            ca: Some(file.path().to_owned()),
            ..to("https://localhost:1")
        };
        let error = endpoint.channel().unwrap_err();
        let path = file.path().display().to_string();
        assert!(
            error
                .to_string()
                .starts_with(&format!("{path}: has no certificate in PEM")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_unix_socket_needs_no_certificates() {
        to("unix:///run/api.sock").channel().unwrap();
    }
}
