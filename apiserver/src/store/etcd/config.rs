//! How an etcd cluster is reached, and what may be wrong with that.

use std::{fs, io, path::PathBuf, time::Duration};

use etcd_client::{Certificate, Identity, TlsOptions};

/// Longer than it takes the pings to end a hanging connection, so that the next call finds another.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach an etcd cluster.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `https://host:port` of each member. `http://` is for loopback and tests.
    pub endpoints: Vec<String>,
    /// The root CA (PEM) that the members' certificates are verified against; needed for https.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key (PEM), where the members ask for one.
    pub identity: Option<ClientIdentity>,
    /// How long a call may take.
    pub request_timeout: Duration,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl EtcdConfig {
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ca: None,
            identity: None,
            request_timeout: REQUEST_TIMEOUT,
        }
    }
}

/// What is wrong with an [`EtcdConfig`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("no etcd endpoint is given; give at least one, such as https://127.0.0.1:2379")]
    NoEndpoint,
    #[error("{endpoint}: not the address of an etcd: {cause}; write it as https://127.0.0.1:2379")]
    BadEndpoint { endpoint: String, cause: String },
    #[error("{endpoint}: https needs the root CA that etcd's certificate is verified against; give its file")]
    NoCa { endpoint: String },
    #[error("{endpoint}: certificates are given, but this endpoint is not https; write it as https://…")]
    NotTls { endpoint: String },
    #[error("cannot read {path}", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// TLS as the config wants it; none where no file of it is named.
pub(super) fn tls_options(config: &EtcdConfig) -> Result<Option<TlsOptions>, ConfigError> {
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|cause| ConfigError::Read {
            path: path.clone(),
            cause,
        })
    };
    if config.endpoints.is_empty() {
        return Err(ConfigError::NoEndpoint);
    }
    let wants_tls = config.ca.is_some() || config.identity.is_some();
    for endpoint in &config.endpoints {
        let endpoint = || endpoint.clone();
        match (endpoint().split_once("://").map(|(scheme, _)| scheme), wants_tls) {
            (Some("https"), _) if config.ca.is_none() => {
                return Err(ConfigError::NoCa { endpoint: endpoint() });
            }
            (Some("https"), _) | (Some("http"), false) => {}
            (Some("http"), true) => return Err(ConfigError::NotTls { endpoint: endpoint() }),
            (scheme, _) => {
                return Err(ConfigError::BadEndpoint {
                    endpoint: endpoint(),
                    cause: scheme.map_or("it has no scheme".to_owned(), |scheme| {
                        format!("unknown scheme {scheme}")
                    }),
                });
            }
        }
    }
    let Some(ca) = &config.ca else {
        return Ok(None);
    };
    // Only this root: the system's roots have no say in who is our etcd.
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let Some(identity) = &config.identity {
        tls = tls.identity(Identity::from_pem(
            read(&identity.certificate)?,
            read(&identity.key)?,
        ));
    }
    Ok(Some(tls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::etcd::EtcdStore;

    #[tokio::test]
    async fn a_config_is_refused_by_what_is_wrong_with_it() {
        let mut config = EtcdConfig::new(["https://127.0.0.1:2379"]);
        let told = async |config: &EtcdConfig| EtcdStore::connect(config).await.unwrap_err().to_string();
        assert!(told(&config).await.contains("needs the root CA"));
        config.ca = Some("/nowhere/ca.pem".into());
        assert!(told(&config).await.contains("/nowhere/ca.pem"));
        config.endpoints = vec!["http://127.0.0.1:2379".to_owned()];
        assert!(told(&config).await.contains("is not https"));
        for bad in ["127.0.0.1:2379", "ftp://127.0.0.1", "http://"] {
            let error = told(&EtcdConfig::new([bad])).await;
            assert!(error.contains(bad) && error.contains("write it as"), "{error}");
        }
        assert!(told(&EtcdConfig::new([""; 0])).await.contains("no etcd endpoint"));
    }
}
