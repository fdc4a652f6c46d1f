//! Why an image cannot be had.

use std::{io, path::PathBuf};

use crate::{
    containerd::{ContainerdError, ErrorKind},
    images::platform::Host,
};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image {reference:?}: not a valid reference: {problem}; write it as registry/repository:tag")]
    BadReference { reference: String, problem: String },
    /// `also` tells of other places that were asked, and may be empty.
    #[error("image {image}: {registry} has no such image; check its name and tag{also}")]
    NotInRegistry {
        image: String,
        registry: String,
        also: String,
    },
    #[error(
        "image {image}: {registry} refuses it without credentials; give credentials for this registry, or check the \
         name: some registries refuse what does not exist{also}"
    )]
    NeedsCredentials {
        image: String,
        registry: String,
        also: String,
    },
    #[error(
        "image {image}: {registry} refuses the credentials given ({problem}); check them, what they allow, and the \
         image's name{also}"
    )]
    WrongCredentials {
        image: String,
        registry: String,
        problem: String,
        also: String,
    },
    #[error("image {image}: cannot reach {registry}: {problem}; {next_step}{also}")]
    Unreachable {
        image: String,
        registry: String,
        problem: String,
        next_step: &'static str,
        also: String,
    },
    #[error("image {image}: no secure connection to {registry}: {problem}; {next_step}{also}")]
    Tls {
        image: String,
        registry: String,
        problem: String,
        next_step: &'static str,
        also: String,
    },
    #[error(
        "image {image}: {registry} limits how often it may be asked ({problem}); try again later, or give credentials with a higher limit{also}"
    )]
    Throttled {
        image: String,
        registry: String,
        problem: String,
        also: String,
    },
    #[error("image {image}: {registry}: {problem}{also}")]
    Registry {
        image: String,
        registry: String,
        problem: String,
        also: String,
    },
    #[error(
        "image {image}: {registry} sent other bytes than those of {digest}; nothing of it was kept, and the registry, or a proxy before it, needs a look"
    )]
    WrongBytes {
        image: String,
        registry: String,
        digest: String,
    },
    #[error("image {image}: unusable credentials: {problem}")]
    BadCredentials { image: String, problem: String },
    #[error("registry configuration {path}: {problem}", path = .path.display())]
    Hosts { path: PathBuf, problem: String },
    #[error(
        "image {what}: has nothing that runs on {host}, only: {platforms}",
        host = Host::here(),
        platforms = if .platforms.is_empty() { "nothing that names its platform".to_owned() } else { .platforms.join(", ") }
    )]
    NoPlatform { what: String, platforms: Vec<String> },
    #[error("image {image}: is no container image but {media_type:?}; use the tool that made it")]
    NotRunnable { image: String, media_type: String },
    #[error(
        "image {image}: has a layer of type {media_type:?}, which cannot be unpacked; layers are plain, gzip or zstd \
         tars that the registry itself has, without encryption"
    )]
    UnknownLayer { image: String, media_type: String },
    #[error(
        "image {image}: {what} over the limit of {limit} bytes; raise --image-size-limit if that is right"
    )]
    TooLarge { image: String, what: String, limit: u64 },
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
    #[error("pull of image {image} was cancelled; what has come is kept for the next one")]
    Cancelled { image: String },
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
}

impl ImageError {
    pub(crate) fn malformed(what: &str, problem: &str) -> Self {
        Self::Malformed {
            what: what.to_owned(),
            problem: problem.to_owned(),
        }
    }

    /// Whether the next pull can use what this one has got.
    pub(crate) fn is_passing(&self) -> bool {
        if let Self::Containerd(error) = self {
            return error.kind == ErrorKind::Unavailable;
        }
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Tls { .. }
                | Self::Throttled { .. }
                | Self::NeedsCredentials { .. }
                | Self::WrongCredentials { .. }
                | Self::Cancelled { .. }
        )
    }
}
