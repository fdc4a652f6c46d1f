//! What is copied, and where to: here, or in a pod.

use std::{path::PathBuf, str::FromStr};

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operand {
    Here(PathBuf),
    InPod {
        namespace: Option<String>,
        pod: String,
        path: String,
    },
}

impl FromStr for Operand {
    type Err = String;

    /// A path that begins with '/' or '.' is here, whatever else it has in it.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        let (place, path) = match text.split_once(':') {
            Some(parts) if !text.starts_with(['/', '.']) => parts,
            _ => return Ok(Self::Here(PathBuf::from(text))),
        };
        if path.is_empty() {
            return Err("has no path after ':'".to_owned());
        }
        let (namespace, pod) = match place.split_once('/') {
            // As other commands name it.
            Some(("pod", pod)) => (None, pod),
            Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
            None => (None, place),
        };
        if pod.is_empty() || pod.contains('/') || namespace.as_deref() == Some("") {
            return Err(format!(
                "{place:?} is not [NAMESPACE/]POD; a path here begins with ./"
            ));
        }
        Ok(Self::InPod {
            namespace,
            pod: pod.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// A path in a container as its folder and its name there; "." is the name of a folder that has none.
pub(super) fn split(path: &str) -> (String, String) {
    let trimmed = path.trim_end_matches('/');
    let (folder, name) = match trimmed.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => (".", trimmed),
    };
    match (trimmed, name) {
        ("", _) => ("/".to_owned(), ".".to_owned()),
        (whole, "." | "..") => (whole.to_owned(), ".".to_owned()),
        (_, name) => (folder.to_owned(), name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_before_the_colon_and_its_namespace_before_the_slash() {
        let in_pod = |namespace: Option<&str>, pod: &str, path: &str| {
            Ok(Operand::InPod {
                namespace: namespace.map(str::to_owned),
                pod: pod.to_owned(),
                path: path.to_owned(),
            })
        };
        let here = |path: &str| Ok(Operand::Here(PathBuf::from(path)));
        assert_eq!("web:/etc/hosts".parse(), in_pod(None, "web", "/etc/hosts"));
        assert_eq!("pod/web:a".parse(), in_pod(None, "web", "a"));
        assert_eq!("prod/web:a:b".parse(), in_pod(Some("prod"), "web", "a:b"));
        assert_eq!("file".parse(), here("file"));
        assert_eq!("./web:a".parse(), here("./web:a"));
        assert_eq!("/tmp/web:a".parse(), here("/tmp/web:a"));
        for bad in ["", "web:", ":/etc", "a/b/c:/x", "/web", "/:x"] {
            let parsed = bad.parse::<Operand>();
            assert!(bad.starts_with('/') || parsed.is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_has_a_folder_and_a_name() {
        for (path, folder, name) in [
            ("/etc/hosts", "/etc", "hosts"),
            ("/etc/", "/", "etc"),
            ("/", "/", "."),
            ("a", ".", "a"),
            ("a/b//", "a", "b"),
            (".", ".", "."),
            ("a/..", "a/..", "."),
        ] {
            assert_eq!(split(path), (folder.to_owned(), name.to_owned()), "{path}");
        }
    }
}
