//! References to images: `[registry[:port]/]path[:tag][@digest]`.

/// A reference's parts, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageReference<'a> {
    /// With the registry, where there is one.
    pub name: &'a str,
    pub tag: Option<&'a str>,
    /// "sha256:" and 64 hexadecimal digits.
    pub digest: Option<&'a str>,
}

impl<'a> ImageReference<'a> {
    /// The error is a sentence that follows the field's path.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("must not be empty".to_owned());
        }
        let wrong = |reason: &str| {
            format!("must be an image such as \"registry.example/app:1.2\": {reason}, but is {text:?}")
        };
        if text.len() > 1024 {
            return Err(format!(
                "must have at most 1024 characters, but has {}",
                text.len()
            ));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].rfind(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong("a digest is \"sha256:\" and 64 hexadecimal digits"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong(
                "a tag has letters, digits, \"_\", \".\" and \"-\", 128 at most",
            ));
        }
        let reference = Self { name, tag, digest };
        let (_, path) = reference.registry_and_path();
        if !path.split('/').all(is_component) {
            return Err(wrong(
                "its path has lowercase letters and digits, with \".\", \"_\" or \"-\" between them",
            ));
        }
        Ok(reference)
    }

    /// The registry, where the name has one, and what it has the image under.
    pub fn registry_and_path(&self) -> (Option<&'a str>, &'a str) {
        match self.name.split_once('/') {
            Some((registry, path)) if is_registry(registry) => (Some(registry), path),
            _ => (None, self.name),
        }
    }

    /// True when the reference can mean another image tomorrow by convention: the tag "latest", or none.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.is_none_or(|tag| tag == "latest")
    }
}

/// The first part of a name is a registry when it looks like a host: with a dot, a port, or "localhost".
fn is_registry(part: &str) -> bool {
    let (host, port) = match part.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (part, None),
    };
    let is_host = host.starts_with('[') && host.ends_with(']')
        || !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    is_host
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
        && (port.is_some() || host.contains('.') || host == "localhost")
}

fn is_component(part: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(edge)
        && part.ends_with(edge)
        && part.chars().all(|c| edge(c) || matches!(c, '.' | '_' | '-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .chars()
                .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case("busybox", "busybox", None, true)]
    #[case("busybox:latest", "busybox", Some("latest"), true)]
    #[case(
        "registry.example:5000/team/app:1.2",
        "registry.example:5000/team/app",
        Some("1.2"),
        false
    )]
    #[case("localhost:5000/app", "localhost:5000/app", None, true)]
    #[case("127.0.0.1:5000/a_b/c-d:V1", "127.0.0.1:5000/a_b/c-d", Some("V1"), false)]
    #[case("library/nginx:1.27-alpine", "library/nginx", Some("1.27-alpine"), false)]
    fn a_reference_is_taken_apart(
        #[case] text: &str,
        #[case] name: &str,
        #[case] tag: Option<&str>,
        #[case] latest: bool,
    ) {
        let image = ImageReference::parse(text).unwrap();
        assert_eq!((image.name, image.tag, image.is_latest()), (name, tag, latest));
    }

    #[test]
    fn a_digest_pins_an_image() {
        let text = format!("app:latest@{DIGEST}");
        let image = ImageReference::parse(&text).unwrap();
        assert_eq!(image.digest, Some(DIGEST));
        assert!(!image.is_latest());
    }

    #[rstest]
    #[case("")]
    #[case(" busybox")]
    #[case("Busybox")]
    #[case("app:")]
    #[case("app:a b")]
    #[case("app@sha256:12")]
    #[case("registry.example/")]
    #[case("/app")]
    #[case("https://registry.example/app")]
    #[case("app@md5:abc")]
    fn what_is_no_reference_is_refused(#[case] text: &str) {
        assert!(ImageReference::parse(text).is_err());
    }
}
