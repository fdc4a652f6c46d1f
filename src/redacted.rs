//! Messages that hold secrets show themselves without them: a log or an error formats whatever it is given.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;

use crate::{cri, v1};

/// What stands in the place of a secret.
#[derive(Clone, Copy)]
enum Redacted {
    Empty,
    Set,
}

impl Redacted {
    fn of(text: &str) -> Self {
        if text.is_empty() { Self::Empty } else { Self::Set }
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "\"\"",
            Self::Set => "(redacted)",
        })
    }
}

/// Keys with the sizes of their values.
struct Sizes<'a>(&'a BTreeMap<String, Bytes>);

impl fmt::Debug for Sizes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self
            .0
            .iter()
            .map(|(key, value)| (key, format!("{} bytes", value.len())));
        f.debug_map().entries(sizes).finish()
    }
}

impl fmt::Debug for v1::Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("metadata", &self.metadata)
            .field("data", &Sizes(&self.data))
            .field("string_data", &self.string_data.keys())
            .field("type", &self.r#type)
            .field("immutable", &self.immutable)
            .finish()
    }
}

impl fmt::Debug for v1::CreateJoinTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateJoinTokenResponse")
            .field("token", &Redacted::of(&self.token))
            .field("expiration_timestamp", &self.expiration_timestamp)
            .finish()
    }
}

impl fmt::Debug for v1::RegisterNodeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterNodeRequest")
            .field("token", &Redacted::of(&self.token))
            .field("node_name", &self.node_name)
            .field("certificate_request", &self.certificate_request)
            .finish()
    }
}

impl fmt::Debug for v1::BackUpStoreResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackUpStoreResponse({} bytes)", self.data.len())
    }
}

impl fmt::Debug for v1::BackupEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupEntry({}, {} bytes)", self.key, self.value.len())
    }
}

impl fmt::Debug for v1::BackupHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupHeader")
            .field("revision", &self.revision)
            .field("creation_timestamp", &self.creation_timestamp)
            .field("version", &self.version)
            .field("ca_certificate", &self.ca_certificate)
            .field("ca_key", &Redacted::of(&self.ca_key))
            .finish()
    }
}

impl fmt::Debug for cri::AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &Redacted::of(&self.password))
            .field("auth", &Redacted::of(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &Redacted::of(&self.identity_token))
            .field("registry_token", &Redacted::of(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_its_secrets_not_even_inside_another() {
        let secret = v1::Secret {
            data: [("password".to_owned(), Bytes::from_static(b"hunter2"))].into(),
            string_data: [("pin".to_owned(), "hunter2".to_owned())].into(),
            ..v1::Secret::default()
        };
        let request = v1::CreateSecretRequest {
            secret: Some(secret),
            ..Default::default()
        };
        let token = v1::CreateJoinTokenResponse {
            token: "hunter2".to_owned(),
            expiration_timestamp: None,
        };
        let registration = v1::RegisterNodeRequest {
            token: "hunter2".to_owned(),
            node_name: "n1".to_owned(),
            certificate_request: String::new(),
        };
        let pull = cri::PullImageRequest {
            auth: Some(cri::AuthConfig {
                username: "me".to_owned(),
                password: "hunter2".to_owned(),
                auth: "hunter2".to_owned(),
                identity_token: "hunter2".to_owned(),
                registry_token: "hunter2".to_owned(),
                ..cri::AuthConfig::default()
            }),
            ..cri::PullImageRequest::default()
        };
        let header = v1::BackupHeader {
            ca_key: "hunter2".to_owned(),
            ..v1::BackupHeader::default()
        };
        let entry = v1::BackupEntry {
            key: "/clone8s/x".to_owned(),
            value: Bytes::from_static(b"hunter2"),
        };
        let part = v1::BackUpStoreResponse {
            data: Bytes::from_static(b"hunter2"),
        };
        let shown = format!("{request:?} {token:?} {registration:?} {pull:?} {header:?} {entry:?} {part:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        for kept in [
            "\"password\": \"7 bytes\"",
            "pin",
            "n1",
            "\"me\"",
            "token: (redacted)",
        ] {
            assert!(shown.contains(kept), "{kept} is missing from {shown}");
        }
    }
}
