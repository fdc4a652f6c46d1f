//! Names of images, in full.

use std::fmt;

use super::{ImageError, digest::Digest};

/// `registry/repository`, with a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    text: String,
    repository: Option<String>,
    tagged: bool,
}

/// The parts of an image's name, as a registry is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `host` or `host:port`.
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) version: Version,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Version {
    Tag(String),
    Digest(Digest),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// The registry of names that have none.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";

impl ImageName {
    /// Reads a reference as people write it: `web` is `docker.io/library/web:latest`.
    pub fn parse(reference: &str) -> Result<Self, ImageError> {
        Reference::parse(reference).map(|reference| Self::from(&reference))
    }

    /// A name of containerd's image store. One that the shim has not written may be no reference.
    pub(crate) fn of_stored(name: &str) -> Self {
        Self::parse(name).unwrap_or_else(|_| Self {
            text: name.to_owned(),
            repository: None,
            tagged: false,
        })
    }

    pub(crate) fn is_tagged(&self) -> bool {
        self.tagged
    }

    /// The same repository by digest.
    pub(crate) fn with_digest(&self, digest: &str) -> Option<String> {
        self.repository
            .as_ref()
            .map(|repository| format!("{repository}@{digest}"))
    }
}

impl Reference {
    pub(crate) fn parse(reference: &str) -> Result<Self, ImageError> {
        split(reference).map_err(|problem| ImageError::BadReference {
            reference: reference.chars().take(300).collect(),
            problem: problem.to_owned(),
        })
    }
}

/// `[registry[:port]/]repository[:tag][@digest]` (the grammar of docker's distribution references).
fn split(reference: &str) -> Result<Reference, &'static str> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let digest = digest
        .map(|digest| Digest::try_from(digest.to_owned()))
        .transpose()
        .map_err(|_| "the digest must be sha256: and 64 hexadecimal digits")?;
    // A colon before a slash belongs to a registry's port.
    let (name, tag) = match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(tag)),
        None => (name, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag must be up to 128 letters, digits, '_', '.' and '-'");
    }
    let is_registry = |part: &str| part == "localhost" || part.contains(['.', ':']);
    let (registry, repository) = match name.split_once('/').filter(|(first, _)| is_registry(first)) {
        Some((registry, path)) => (registry, path.to_owned()),
        None if name.contains('/') => (DEFAULT_REGISTRY, name.to_owned()),
        None => (DEFAULT_REGISTRY, format!("library/{name}")),
    };
    if !is_host(registry) {
        return Err("the registry must be a host name or an address, with a port or without");
    }
    if repository.len() > 255 || !repository.split('/').all(is_path_part) {
        return Err("the repository must be lower-case letters and digits, parted by '/', '.', '_' or '-'");
    }
    // By digest the tag says nothing more.
    let version = digest.map_or_else(
        || Version::Tag(tag.unwrap_or("latest").to_owned()),
        Version::Digest,
    );
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        version,
    })
}

/// A name of labels, or an IPv6 address in brackets; with a port or without. It becomes part of a path.
fn is_host(text: &str) -> bool {
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|c| c.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_fits && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && name.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(is_word) && tag.chars().all(|c| is_word(c) || c == '.' || c == '-')
}

fn is_path_part(part: &str) -> bool {
    let is_plain = |c: char| matches!(c, 'a'..='z' | '0'..='9');
    // What stands between letters: one dot, one or two underscores, any number of dashes.
    let is_separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.chars().all(|c| c == '-');
    part.starts_with(is_plain) && part.ends_with(is_plain) && part.split(is_plain).all(is_separator)
}

impl From<&Reference> for ImageName {
    fn from(reference: &Reference) -> Self {
        let repository = format!("{}/{}", reference.registry, reference.repository);
        let (text, tagged) = match &reference.version {
            Version::Digest(digest) => (format!("{repository}@{digest}"), false),
            Version::Tag(tag) => (format!("{repository}:{tag}"), true),
        };
        Self {
            text,
            repository: Some(repository),
            tagged,
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[rstest]
    #[case("busybox", "docker.io/library/busybox:latest")]
    #[case("busybox:1.36", "docker.io/library/busybox:1.36")]
    #[case("team/app", "docker.io/team/app:latest")]
    #[case("localhost:5000/app", "localhost:5000/app:latest")]
    #[case("localhost/app:v1", "localhost/app:v1")]
    #[case("ghcr.io/a/b/c:v2", "ghcr.io/a/b/c:v2")]
    #[case("[::1]:5000/app", "[::1]:5000/app:latest")]
    #[case("a--b/c__d.e", "docker.io/a--b/c__d.e:latest")]
    fn a_name_is_written_in_full(#[case] written: &str, #[case] full: &str) {
        assert_eq!(ImageName::parse(written).unwrap().to_string(), full);
    }

    #[test]
    fn a_digest_takes_the_place_of_a_tag() {
        let name = ImageName::parse(&format!("app:v1@{DIGEST}")).unwrap();
        assert_eq!(name.to_string(), format!("docker.io/library/app@{DIGEST}"));
        assert!(!name.is_tagged());
    }

    #[rstest]
    #[case("")]
    #[case("UPPER")]
    #[case("a b")]
    #[case("app:tag with space")]
    #[case("app@sha256:short")]
    #[case("app@md5:aaaa")]
    #[case("a/../b")]
    #[case("a//b")]
    #[case("app/")]
    #[case("a___b")]
    #[case("-a")]
    #[case("app:")]
    #[case("exa mple.com/app")]
    #[case("../app")]
    #[case("./app")]
    #[case("a..b/app")]
    #[case("-a.b/app")]
    #[case("host:/app")]
    #[case("host:port/app")]
    #[case("[::1/app")]
    #[case("[..]/app")]
    fn what_is_no_reference_is_refused_by_its_own_words(#[case] written: &str) {
        let error = ImageName::parse(written).unwrap_err().to_string();
        assert!(error.contains(&format!("{written:?}")), "{error}");
    }

    proptest! {
        #[test]
        fn a_reference_in_full_reads_as_itself(text in "[a-zA-Z0-9./:@_-]{0,40}|\\PC{0,40}") {
            if let Ok(name) = ImageName::parse(&text) {
                let full = name.to_string();
                prop_assert_eq!(&ImageName::parse(&full).unwrap(), &name);
                let reference = Reference::parse(&full).unwrap();
                // Both become parts of paths and of addresses.
                prop_assert!(!reference.registry.contains('/') && !reference.registry.starts_with('.'));
                prop_assert!(!reference.repository.split('/').any(|part| part.starts_with('.')));
            }
        }
    }
}
