//! Names of images, in full.

use std::fmt;

use oci_client::Reference;

use super::ImageError;

/// `registry/repository`, with a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    text: String,
    repository: Option<String>,
    tagged: bool,
}

/// The registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";

impl ImageName {
    /// Reads a reference as people write it: `web` is `docker.io/library/web:latest`.
    pub fn parse(reference: &str) -> Result<Self, ImageError> {
        Self::reference(reference).map(|reference| Self::from(&reference))
    }

    /// The reference, for the registry client.
    ///
    /// Read here rather than by that client, whose patterns take longer to build than a container to start.
    pub(crate) fn reference(reference: &str) -> Result<Reference, ImageError> {
        split(reference).map_err(|problem| ImageError::BadReference {
            reference: reference.to_owned(),
            problem: problem.to_owned(),
        })
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

/// `[registry[:port]/]repository[:tag][@digest]` (the grammar of docker's distribution references).
fn split(reference: &str) -> Result<Reference, &'static str> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err("the digest must be sha256: and 64 hexadecimal digits, or sha512: and 128");
    }
    // A colon before a slash belongs to a registry's port.
    let (name, tag) = match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(tag)),
        None => (name, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag must be up to 128 letters, digits, '_', '.' and '-'");
    }
    let is_registry = |part: &str| part == "localhost" || part.contains(['.', ':']);
    let (registry, path) = match name.split_once('/').filter(|(first, _)| is_registry(first)) {
        Some((registry, path)) => (registry, path.to_owned()),
        None if name.contains('/') => (DEFAULT_REGISTRY, name.to_owned()),
        None => (DEFAULT_REGISTRY, format!("library/{name}")),
    };
    if !registry
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c))
    {
        return Err("the registry must be a host name or an address, with a port or without");
    }
    if path.len() > 255 || !path.split('/').all(is_path_part) {
        return Err("the repository must be lower-case letters and digits, parted by '/', '.', '_' or '-'");
    }
    let registry = registry.to_owned();
    Ok(match (tag, digest) {
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, path, tag.to_owned(), digest.to_owned())
        }
        (None, Some(digest)) => Reference::with_digest(registry, path, digest.to_owned()),
        (tag, None) => Reference::with_tag(registry, path, tag.unwrap_or("latest").to_owned()),
    })
}

fn is_digest(digest: &str) -> bool {
    let hex =
        |text: &str, length| text.len() == length && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    match digest.split_once(':') {
        Some(("sha256", text)) => hex(text, 64),
        Some(("sha512", text)) => hex(text, 128),
        _ => false,
    }
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
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        match (reference.digest(), reference.tag()) {
            // By digest the tag says nothing more.
            (Some(digest), _) => Self {
                text: format!("{repository}@{digest}"),
                repository: Some(repository),
                tagged: false,
            },
            (None, tag) => Self {
                text: format!("{repository}:{}", tag.unwrap_or("latest")),
                repository: Some(repository),
                tagged: true,
            },
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
    fn what_is_no_reference_is_refused_by_its_own_words(#[case] written: &str) {
        let error = ImageName::parse(written).unwrap_err().to_string();
        assert!(error.contains(&format!("{written:?}")), "{error}");
    }
}
