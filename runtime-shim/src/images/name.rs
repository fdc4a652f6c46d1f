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

impl ImageName {
    /// Reads a reference as people write it: `web` is `docker.io/library/web:latest`.
    pub fn parse(reference: &str) -> Result<Self, ImageError> {
        Self::reference(reference).map(|reference| Self::from(&reference))
    }

    /// The reference, for the registry client.
    pub(crate) fn reference(reference: &str) -> Result<Reference, ImageError> {
        let parsed: Reference = reference.parse().map_err(|error| ImageError::BadReference {
            reference: reference.to_owned(),
            problem: format!("{error}"),
        })?;
        Ok(parsed)
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
    fn what_is_no_reference_is_refused_by_its_own_words(#[case] written: &str) {
        let error = ImageName::parse(written).unwrap_err().to_string();
        assert!(error.contains(&format!("{written:?}")), "{error}");
    }
}
