//! Join tokens: `<id>.<secret>.<SHA-256 of the root CA's DER in hex>`.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a certificate's DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(TokenError::Pin);
        }
        for (position, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[position * 2..position * 2 + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| TokenError::Pin)?;
        }
        Ok(Self(bytes))
    }
}

/// A token, taken apart. Its Debug output hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// `<id>.<secret>`: what the apiserver wants to see.
    credentials: String,
    /// Which root CA the apiserver's certificate must chain to; None where the token came without.
    pub(super) pin: Option<Fingerprint>,
}

impl Token {
    pub(super) fn credentials(&self) -> &str {
        &self.credentials
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// Why a text is not a join token. Says nothing of the text itself: most of it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("has {0} parts between dots; a token is <id>.<secret>.<SHA-256 of the root CA in hex>")]
    Parts(usize),
    #[error("has an empty id or an empty secret")]
    Empty,
    #[error("does not end in a SHA-256 of 64 hexadecimal digits")]
    Pin,
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let (id, secret, pin) = match parts[..] {
            [id, secret] => (id, secret, None),
            [id, secret, pin] => (id, secret, Some(pin.parse()?)),
            _ => return Err(TokenError::Parts(parts.len())),
        };
        if id.is_empty() || secret.is_empty() {
            return Err(TokenError::Empty);
        }
        Ok(Self {
            credentials: format!("{id}.{secret}"),
            pin,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const PIN: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_token_pins_the_root_ca_and_hides_its_secret() {
        let token: Token = format!("id1.hush.{PIN}\n").parse().unwrap();
        assert_eq!(token.pin, Some(Fingerprint::of(b"test")));
        assert_eq!(token.pin.unwrap().to_string(), PIN);
        assert_eq!(token.credentials(), "id1.hush");
        assert!(!format!("{token:?}").contains("hush"));
    }

    #[test]
    fn a_token_may_come_without_its_pin() {
        assert_eq!("id1.hush".parse::<Token>().unwrap().pin, None);
    }

    #[rstest]
    #[case("", TokenError::Parts(1))]
    #[case("a.b.c.d", TokenError::Parts(4))]
    #[case(".b", TokenError::Empty)]
    #[case("a.", TokenError::Empty)]
    #[case("a.b.c", TokenError::Pin)]
    #[case("a.b.éééééééééééééééééééééééééééééééé", TokenError::Pin)]
    fn what_is_no_token_is_refused_without_being_repeated(#[case] text: &str, #[case] expected: TokenError) {
        assert_eq!(text.parse::<Token>().unwrap_err(), expected);
    }

    #[test]
    fn a_pin_of_64_characters_must_be_hexadecimal() {
        let text = format!("a.b.{}", "g".repeat(64));
        assert_eq!(text.parse::<Token>().unwrap_err(), TokenError::Pin);
    }
}
