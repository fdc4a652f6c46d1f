//! Names that the apiserver makes.

use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use crate::kind::Kind;

/// Without vowels and without what looks alike, so that no word comes of it.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const RANDOM: usize = 5;
/// What a DNS label leaves for it.
const LONGEST_BASE: usize = 63 - RANDOM;

/// What the name of an object is to begin with, where it is to be made.
pub(super) fn base<K: Kind>(object: &K) -> Option<String> {
    let meta = object.metadata()?;
    if !meta.name.is_empty() || meta.generate_name.is_empty() {
        return None;
    }
    let mut base = meta.generate_name.clone();
    base.truncate(base.floor_char_boundary(LONGEST_BASE));
    Some(base)
}

pub(super) fn generated<K: Kind>(object: &K, base: &str) -> K {
    let mut random = rand::rng();
    let letters = std::iter::repeat_with(|| random.random_range(0..ALPHABET.len()));
    named(object, base, letters)
}

/// A name that comes of a seed, so that the same seed gives the same one; another for each attempt.
pub(super) fn derived<K: Kind>(object: &K, base: &str, seed: &str, attempt: usize) -> K {
    let digest = Sha256::digest(format!("{attempt} {seed}"));
    named(object, base, digest.into_iter().map(usize::from))
}

fn named<K: Kind>(object: &K, base: &str, letters: impl Iterator<Item = usize>) -> K {
    let mut name = base.to_owned();
    name.extend(
        letters
            .take(RANDOM)
            .map(|at| char::from(ALPHABET[at % ALPHABET.len()])),
    );
    let mut named = object.clone();
    named.metadata_mut().name = name;
    named
}

#[cfg(test)]
mod tests {
    use clone8s::{
        object::Object as _,
        v1::{ObjectMeta, Pod},
    };

    use super::*;

    fn pod(name: &str, generate_name: &str) -> Pod {
        Pod {
            metadata: Some(ObjectMeta {
                name: name.into(),
                generate_name: generate_name.into(),
                ..ObjectMeta::default()
            }),
            ..Pod::default()
        }
    }

    #[test]
    fn a_name_is_made_only_where_there_is_none() {
        assert_eq!(base(&pod("web", "web-")), None);
        assert_eq!(base(&pod("", "")), None);
        assert_eq!(base(&pod("", "web-")), Some("web-".into()));
    }

    #[test]
    fn a_made_name_begins_as_asked_and_fits_a_label() {
        let long = pod("", &"é".repeat(40));
        let base = base(&long).unwrap();
        assert_eq!(base, "é".repeat(29));
        let name = generated(&long, &base).name().to_owned();
        assert!(
            name.starts_with(&base) && name.len() == base.len() + RANDOM,
            "{name}"
        );
        assert_ne!(name, generated(&long, &base).name());
        let derived = |seed, attempt| derived(&long, &base, seed, attempt).name().to_owned();
        assert_eq!(derived("id", 1), derived("id", 1));
        assert_ne!(derived("id", 1), derived("id", 2));
        assert_ne!(derived("id", 1), derived("other", 1));
    }
}
