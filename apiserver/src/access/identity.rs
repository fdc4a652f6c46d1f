//! Who is calling: from the connection alone, never from what the request says.

use std::{fmt, sync::Arc};

use clone8s::names;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The organization of certificates for administrators.
pub(crate) const ADMINS: &str = "system:masters";
/// The organization of certificates for nodes.
pub(crate) const NODES: &str = "system:nodes";
/// What the common name of a node's certificate starts with.
pub(crate) const NODE_PREFIX: &str = "system:node:";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Whoever can open the unix socket.
    Root,
    Admin {
        name: String,
    },
    Node(Arc<str>),
    /// No client certificate.
    Anonymous,
    /// A certificate of ours for neither an administrator nor a node.
    Stranger {
        subject: String,
    },
}

impl Identity {
    /// The identity behind a request's connection.
    pub(crate) fn of(extensions: &http::Extensions) -> Self {
        if extensions.get::<UdsConnectInfo>().is_some() {
            return Self::Root;
        }
        let certificates = extensions
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(TlsConnectInfo::peer_certs);
        match certificates.as_deref().and_then(|chain| chain.first()) {
            Some(certificate) => Self::of_certificate(certificate),
            None => Self::Anonymous,
        }
    }

    /// The identity in a certificate that TLS has verified against the cluster's root CA.
    pub(crate) fn of_certificate(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Self::Stranger {
                subject: "a certificate that cannot be read".into(),
            };
        };
        let subject = certificate.subject();
        let only = |mut values: Vec<String>| if values.len() == 1 { values.pop() } else { None };
        let words = |attributes: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            only(
                attributes
                    .iter()
                    .filter_map(|attribute| attribute.as_str().ok().map(str::to_owned))
                    .collect(),
            )
        };
        // More than one organization or common name is nobody's: we never sign such a subject.
        let organization = words(subject.iter_organization().collect());
        let common_name = words(subject.iter_common_name().collect());
        match (organization.as_deref(), common_name) {
            (Some(ADMINS), Some(name)) => Self::Admin { name },
            (Some(NODES), Some(name)) => match name.strip_prefix(NODE_PREFIX) {
                Some(node) if names::check_dns_label(node).is_ok() => Self::Node(node.into()),
                _ => Self::Stranger {
                    subject: subject.to_string(),
                },
            },
            _ => Self::Stranger {
                subject: subject.to_string(),
            },
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Admin { name } => write!(f, "administrator {name}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Anonymous => f.write_str("a caller without a certificate"),
            Self::Stranger { subject } => write!(f, "{subject}"),
        }
    }
}
