//! `https://host:port`, parsed once.

use std::{fmt, net::Ipv6Addr};

use rustls_pki_types::ServerName;
use tonic::transport::Uri;

/// Where an apiserver listens with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// Why a text is not an apiserver's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an apiserver's address; give https://<host>:<port>")]
pub struct AddressError(pub String);

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, AddressError> {
        let bad = || AddressError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(443),
            name,
        })
    }

    /// A name or an address, without brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What the server's certificate must be for.
    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("https://api.example:6443", "api.example", "https://api.example:6443")]
    #[case("https://127.0.0.1:6443/", "127.0.0.1", "https://127.0.0.1:6443")]
    #[case("https://[::1]:6443", "::1", "https://[::1]:6443")]
    #[case("https://api.example", "api.example", "https://api.example:443")]
    fn an_address_is_a_host_and_a_port(#[case] text: &str, #[case] host: &str, #[case] shown: &str) {
        let address = Address::parse(text).unwrap();
        assert_eq!((address.host(), address.to_string().as_str()), (host, shown));
    }

    #[rstest]
    #[case("http://api.example:6443")]
    #[case("api.example:6443")]
    #[case("https://")]
    #[case("https://api.example:6443/v1")]
    #[case("https://api_example!:1")]
    fn anything_else_is_refused_with_the_form_to_use(#[case] text: &str) {
        let error = Address::parse(text).unwrap_err().to_string();
        assert!(error.contains("give https://<host>:<port>"), "{error}");
    }
}
