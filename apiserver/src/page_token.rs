//! Page tokens: where a list goes on, and in which state of the store.
//!
//! A token says nothing that its holder may not know, so it is not signed. It is checked to belong to the same
//! list, and what it leads to passes the same selectors and the same scope as the first page did.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{error::ApiError, store::Revision};

/// Keys are bounded by the length of names; a longer token was not made here.
const LONGEST: usize = 2048;

/// What makes two list requests the same list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) label_selector: &'a str,
    pub(crate) field_selector: &'a str,
}

impl Query<'_> {
    fn digest(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        for part in [self.prefix, self.label_selector, self.field_selector] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize()[..8].to_vec()
    }
}

/// The place after one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The state that every page of the list shows.
    pub(crate) revision: Revision,
    /// The last key that was looked at.
    pub(crate) after: String,
}

/// The token's form; a change of it makes older tokens unreadable, which only restarts their lists.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(int64, tag = "1")]
    revision: i64,
    /// Without the list's prefix.
    #[prost(string, tag = "2")]
    after: String,
    #[prost(bytes = "vec", tag = "3")]
    query: Vec<u8>,
}

impl Position {
    pub(crate) fn token(&self, query: &Query<'_>) -> String {
        let wire = Wire {
            revision: self.revision.0,
            after: self
                .after
                .strip_prefix(query.prefix)
                .unwrap_or(&self.after)
                .to_owned(),
            query: query.digest(),
        };
        URL_SAFE_NO_PAD.encode(wire.encode_to_vec())
    }

    /// None for the empty token: the first page.
    pub(crate) fn parse(token: &str, query: &Query<'_>) -> Result<Option<Self>, ApiError> {
        if token.is_empty() {
            return Ok(None);
        }
        if token.len() > LONGEST {
            return Err(ApiError::PageToken("it is too long"));
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| ApiError::PageToken("it cannot be read"))?;
        let wire = Wire::decode(bytes.as_slice()).map_err(|_| ApiError::PageToken("it cannot be read"))?;
        if wire.query != query.digest() {
            return Err(ApiError::PageToken(
                "it belongs to a list of another kind, namespace or selector",
            ));
        }
        if wire.revision <= 0 || wire.after.is_empty() {
            return Err(ApiError::PageToken("it names no place"));
        }
        Ok(Some(Self {
            revision: Revision(wire.revision),
            after: format!("{}{}", query.prefix, wire.after),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUERY: Query<'static> = Query {
        prefix: "/clone8s/objects/pods/default/",
        label_selector: "app=web",
        field_selector: "",
    };

    fn position() -> Position {
        Position {
            revision: Revision(42),
            after: "/clone8s/objects/pods/default/web-1".into(),
        }
    }

    #[test]
    fn a_token_leads_back_to_its_place() {
        let token = position().token(&QUERY);
        assert_eq!(Position::parse(&token, &QUERY).unwrap(), Some(position()));
    }

    #[test]
    fn an_empty_token_is_the_first_page() {
        assert_eq!(Position::parse("", &QUERY).unwrap(), None);
    }

    #[rstest::rstest]
    #[case::namespace(Query { prefix: "/clone8s/objects/pods/other/", ..QUERY })]
    #[case::kind(Query { prefix: "/clone8s/objects/secrets/default/", ..QUERY })]
    #[case::label_selector(Query { label_selector: "app=db", ..QUERY })]
    #[case::field_selector(Query { field_selector: "spec.nodeName=n1", ..QUERY })]
    #[case::selectors_swapped(Query { label_selector: "", field_selector: "app=web", ..QUERY })]
    fn a_token_of_another_list_is_refused(#[case] other: Query<'static>) {
        let token = position().token(&QUERY);
        let error = Position::parse(&token, &other).unwrap_err();
        assert!(error.to_string().contains("another kind"), "{error}");
    }

    #[test]
    fn a_token_cannot_leave_its_list() {
        let escape = Position {
            revision: Revision(42),
            after: "/clone8s/objects/secrets/kube/x".into(),
        };
        let back = Position::parse(&escape.token(&QUERY), &QUERY).unwrap().unwrap();
        assert!(back.after.starts_with(QUERY.prefix), "{back:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_but_never_panics(token in "\\PC{1,80}") {
            let _ = Position::parse(&token, &QUERY);
        }

        #[test]
        fn a_changed_token_never_reaches_another_list(byte in 0_usize..200, bit in 0_u8..8) {
            let mut bytes = URL_SAFE_NO_PAD.decode(position().token(&QUERY)).unwrap();
            let at = byte % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(Some(back)) = Position::parse(&URL_SAFE_NO_PAD.encode(bytes), &QUERY) {
                prop_assert!(back.after.starts_with(QUERY.prefix));
                prop_assert!(back.revision > Revision(0));
            }
        }
    }
}
