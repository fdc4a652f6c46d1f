//! TLS to the broker: only the configured root is trusted, not those of the machine.

use std::{fs, path::Path};

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::{AmqpConfig, ConfigError};

/// None for a plain connection.
pub(super) fn connector(config: &AmqpConfig) -> Result<Option<RustlsConnector>, ConfigError> {
    let wants_tls = config.ca.is_some() || config.identity.is_some();
    let Some(ca) = &config.ca else {
        return match config.url.starts_with("amqps:") {
            true => Err(ConfigError::NoCa),
            false if wants_tls => Err(ConfigError::NotTls),
            false => Ok(None),
        };
    };
    if !config.url.starts_with("amqps:") {
        return Err(ConfigError::NotTls);
    }
    clone8s_daemon::process::install_tls_provider();
    let roots = RustlsConnectorConfig::default().with_parsable_certificates(certificates(ca)?);
    let connector = match &config.identity {
        None => roots.connector_with_no_client_auth(),
        Some(identity) => {
            roots.connector_with_single_cert(certificates(&identity.certificate)?, key(&identity.key)?)
        }
    };
    let path = config
        .identity
        .as_ref()
        .map_or(ca, |identity| &identity.certificate);
    connector.map(Some).map_err(|error| bad_pem(path, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_pem(path, &error))?;
    if certificates.is_empty() {
        return Err(bad_pem(path, &"there is no certificate in it"));
    }
    Ok(certificates)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| bad_pem(path, &"there is no private key in it"))
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|cause| ConfigError::Read {
        path: path.to_owned(),
        cause,
    })
}

fn bad_pem(path: &Path, cause: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::BadPem {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}
