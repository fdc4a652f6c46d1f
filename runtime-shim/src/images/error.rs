//! Why an image cannot be had.

use std::{io, path::PathBuf};

use crate::containerd::ContainerdError;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {reference:?}: not a valid reference: {problem}; write it as registry/repository:tag")]
    BadReference { reference: String, problem: String },
    #[error("image {image}: {registry} has no such image; check its name and tag")]
    NotInRegistry { image: String, registry: String },
    #[error(
        "image {image}: {registry} refuses it without valid credentials; give credentials for this registry, or \
         check the name: some registries refuse what does not exist"
    )]
    Unauthenticated { image: String, registry: String },
    #[error(
        "image {image}: cannot reach {registry}: {problem}; check the name, the network, and whether the registry \
         speaks plain HTTP (then list it as such)"
    )]
    Unreachable {
        image: String,
        registry: String,
        problem: String,
    },
    #[error("image {image}: {registry}: {problem}")]
    Registry {
        image: String,
        registry: String,
        problem: String,
    },
    #[error("image {image}: unusable credentials: {problem}")]
    BadCredentials { image: String, problem: String },
    #[error("image {what}: has no variant for linux/{architecture}", architecture = crate::images::config::host_architecture())]
    NoPlatform { what: String },
    #[error("image document {what}: {problem}")]
    Malformed { what: String, problem: String },
    #[error("layer {layer}: unpacks to {actual}, but the image says {expected}")]
    WrongLayer {
        layer: String,
        expected: String,
        actual: String,
    },
    #[error("image archive {path}: {problem}", path = .path.display())]
    Archive { path: PathBuf, problem: String },
    #[error("image archive {path}", path = .path.display())]
    ReadArchive {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("read users of image {image}: {problem}")]
    Users { image: String, problem: String },
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
}

impl ImageError {
    pub(crate) fn no_platform(what: &str) -> Self {
        Self::NoPlatform {
            what: what.to_owned(),
        }
    }
}
