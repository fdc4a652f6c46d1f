//! Join tokens: `<id>.<secret>.<SHA-256 of the root CA's DER in hex>`.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{error::ApiError, pki::hex, store::KeyValue};

/// Tokens that are neither used nor expired, by id.
pub(super) const TOKENS_PREFIX: &str = "/clone8s/system/join-tokens/";

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// A token in the hands of its holder.
pub(super) struct JoinToken {
    /// Not secret: it may stand in logs and errors.
    id: String,
    secret: String,
    /// Of the cluster's root CA; None when the holder has kept it to themselves.
    fingerprint: Option<String>,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl JoinToken {
    pub(super) fn random(fingerprint: &str) -> Self {
        Self {
            id: hex(&rand::random::<[u8; ID_BYTES]>()),
            secret: hex(&rand::random::<[u8; SECRET_BYTES]>()),
            fingerprint: Some(fingerprint.to_owned()),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let id = parts.next().filter(|id| is_hex(id, ID_BYTES))?;
        let secret = parts.next().filter(|secret| is_hex(secret, SECRET_BYTES))?;
        let fingerprint = parts.next();
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            fingerprint: fingerprint.map(str::to_owned),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The whole token, for the answer to whoever asked for it and for nothing else.
    pub(super) fn reveal(&self) -> String {
        let mut text = format!("{}.{}", self.id, self.secret);
        if let Some(fingerprint) = &self.fingerprint {
            text.push('.');
            text.push_str(fingerprint);
        }
        text
    }

    pub(super) fn key(&self) -> String {
        format!("{TOKENS_PREFIX}{}", self.id)
    }

    /// False when the token was made for a cluster with another root CA.
    pub(super) fn pins(&self, fingerprint: &str) -> bool {
        self.fingerprint
            .as_deref()
            .is_none_or(|pinned| pinned.eq_ignore_ascii_case(fingerprint))
    }

    pub(super) fn record(&self, node_name: String, expires: SystemTime) -> TokenRecord {
        TokenRecord {
            secret_hash: self.secret_hash(),
            node_name,
            expires_at: expires
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        }
    }

    /// Hashes are compared, so how long it takes tells nothing of the secret.
    pub(super) fn has_secret(&self, hash: &[u8]) -> bool {
        hash == self.secret_hash()
    }

    fn secret_hash(&self) -> Vec<u8> {
        Sha256::digest(&self.secret).to_vec()
    }
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A token as the store keeps it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TokenRecord {
    /// SHA-256 of the secret, which is random and long: a slow hash would add nothing.
    #[prost(bytes = "vec", tag = "1")]
    secret_hash: Vec<u8>,
    /// The only name that the token may register; empty means any free one.
    #[prost(string, tag = "2")]
    pub(super) node_name: String,
    /// Seconds since 1970.
    #[prost(uint64, tag = "3")]
    expires_at: u64,
}

impl TokenRecord {
    pub(super) fn read(stored: &KeyValue) -> Result<Self, ApiError> {
        Self::decode(stored.value.clone())
            .map_err(|cause| ApiError::internal(format!("{}: not a join token", stored.key), cause))
    }

    pub(super) fn matches(&self, token: &JoinToken) -> bool {
        token.has_secret(&self.secret_hash)
    }

    pub(super) fn secret_hash(&self) -> &[u8] {
        &self.secret_hash
    }

    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        now >= SystemTime::UNIX_EPOCH + Duration::from_secs(self.expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_with_and_without_its_fingerprint() {
        let token = JoinToken::random("abcd");
        let whole = JoinToken::parse(&token.reveal()).unwrap();
        assert_eq!(whole.reveal(), token.reveal());
        assert!(whole.pins("abcd") && whole.pins("ABCD") && !whole.pins("ef01"));
        let short = token.reveal().rsplit_once('.').unwrap().0.to_owned();
        let short = JoinToken::parse(&short).unwrap();
        assert_eq!(short.secret_hash(), token.secret_hash());
        assert!(short.pins("anything"));
    }

    #[rstest::rstest]
    #[case("")]
    #[case("a.b.c")]
    #[case("../../objects/nodes/n1.aaaa.bbbb")]
    #[case("0011223344556677")]
    fn other_text_is_not_a_token(#[case] text: &str) {
        assert!(JoinToken::parse(text).is_none());
    }

    #[test]
    fn the_record_holds_no_secret_and_the_debug_form_neither() {
        let token = JoinToken::random("abcd");
        let record = token.record("n1".into(), SystemTime::UNIX_EPOCH);
        let bytes = record.encode_to_vec();
        let secret = token.secret.as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        assert!(!format!("{token:?} {record:?}").contains(&token.secret));
    }

    #[test]
    fn another_secret_does_not_match() {
        let token = JoinToken::random("abcd");
        let record = token.record(String::new(), SystemTime::UNIX_EPOCH);
        assert!(record.matches(&token));
        assert!(!record.matches(&JoinToken::random("abcd")));
    }
}
