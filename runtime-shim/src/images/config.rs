//! The JSON documents of an image (OCI image spec 1.1; docker's v2.2 has the same fields).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ImageError, Result,
    digest::Digest,
    platform::{Host, Platform},
};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Documents larger than this are not documents. containerd has the same bound.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;
/// overlayfs takes some hundreds at most, in one page of mount options.
const MAX_LAYERS: usize = 512;

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Bytes; what a signed 64-bit number holds, as in containerd.
    #[serde(deserialize_with = "size")]
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if i64::try_from(size).is_err() {
        return Err(serde::de::Error::custom("no blob is as large as this"));
    }
    Ok(size)
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }
}

impl From<&Descriptor> for containerd_client::types::Descriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.to_string(),
            size: descriptor.size.cast_signed(),
            annotations: descriptor.annotations.clone().into_iter().collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a target may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// What tells documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    schema_version: Option<u32>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document, with its media type. `what` names it in errors.
    pub(crate) fn read(what: &str, bytes: &[u8]) -> Result<(Self, String)> {
        let malformed = |problem: &str| ImageError::malformed(what, problem);
        let shape: Shape = parse(what, bytes)?;
        let is_index = shape.manifests.is_some();
        // One document that reads as two could be an index to one reader and a manifest to another (CVE-2021-41190).
        if is_index && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(malformed("is both an index and a manifest"));
        }
        let media_type = match shape.media_type.as_deref().filter(|named| !named.is_empty()) {
            Some(named) if named.starts_with(DOCKER_SCHEMA_1) => {
                return Err(malformed(
                    "is in docker's old schema 1; push the image again with a current tool",
                ));
            }
            Some(named @ (OCI_INDEX | DOCKER_LIST)) if is_index => named,
            Some(named @ (OCI_MANIFEST | DOCKER_MANIFEST)) if !is_index => named,
            Some(other) => {
                let other: String = other.chars().take(120).collect();
                return Err(malformed(&format!("is not the {other:?} that it says it is")));
            }
            None if is_index => OCI_INDEX,
            None if shape.schema_version == Some(1) => {
                return Err(malformed(
                    "is in docker's old schema 1; push the image again with a current tool",
                ));
            }
            None => OCI_MANIFEST,
        };
        let document = if is_index {
            Self::Index(parse(what, bytes)?)
        } else {
            let manifest: Manifest = parse(what, bytes)?;
            manifest.check(what)?;
            Self::Manifest(manifest)
        };
        Ok((document, media_type.to_owned()))
    }
}

impl Manifest {
    fn check(&self, what: &str) -> Result<()> {
        if self.layers.len() > MAX_LAYERS {
            return Err(ImageError::malformed(
                what,
                &format!(
                    "has {} layers; at most {MAX_LAYERS} can be stacked",
                    self.layers.len()
                ),
            ));
        }
        if !matches!(self.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG | "") {
            return Err(ImageError::NotRunnable {
                image: what.to_owned(),
                media_type: self.config.media_type.chars().take(120).collect(),
            });
        }
        if self.config.size > MAX_DOCUMENT {
            return Err(ImageError::malformed(
                what,
                "its configuration is larger than 8 MiB",
            ));
        }
        for layer in &self.layers {
            if as_unpacked(layer).is_none() {
                return Err(ImageError::UnknownLayer {
                    image: what.to_owned(),
                    media_type: layer.media_type.chars().take(120).collect(),
                });
            }
        }
        Ok(())
    }

    /// Bytes of all blobs, as they are stored.
    pub(crate) fn size(&self) -> u64 {
        self.layers
            .iter()
            .fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// A layer's media type in the words that every containerd unpacks; none for what cannot be unpacked: foreign and
/// encrypted layers, and what is no layer.
pub(crate) fn as_unpacked(layer: &Descriptor) -> Option<&'static str> {
    let (name, suffix) = if let Some(suffix) = layer.media_type.strip_prefix(OCI_LAYER) {
        ("+", suffix)
    } else {
        (".", layer.media_type.strip_prefix(DOCKER_LAYER)?)
    };
    match suffix.strip_prefix(name) {
        None if suffix.is_empty() => Some(OCI_LAYER),
        Some("gzip") => Some("application/vnd.oci.image.layer.v1.tar+gzip"),
        Some("zstd") => Some("application/vnd.oci.image.layer.v1.tar+zstd"),
        _ => None,
    }
}

impl Index {
    /// The images that this host can run, the best first, and indexes that may have some; none when there are none,
    /// with what there is instead.
    pub(crate) fn choices(&self, host: Host) -> Result<Vec<&Descriptor>, Vec<String>> {
        let mut choices: Vec<(u32, &Descriptor)> = self
            .manifests
            .iter()
            .filter_map(|manifest| {
                let rank = match &manifest.platform {
                    Some(platform) if *platform != Platform::default() => host.rank(platform)?,
                    // Without a platform it may be anything: only after all that say what they are.
                    _ => 0,
                };
                Some((rank, manifest))
            })
            .collect();
        // A stable sort: among equals the first of the index wins.
        choices.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        if choices.is_empty() {
            return Err(self.platforms());
        }
        // An index beneath this one first if equal: it says what it has, a bare manifest does not.
        choices.sort_by_key(|(rank, manifest)| *rank == 0 && !manifest.is_index());
        Ok(choices.into_iter().map(|(_, manifest)| manifest).collect())
    }

    /// What the index has, without attestations and other companions.
    pub(crate) fn platforms(&self) -> Vec<String> {
        let mut platforms: Vec<_> = self
            .manifests
            .iter()
            .filter_map(|manifest| manifest.platform.as_ref())
            .filter(|platform| platform.os != "unknown" && !platform.os.is_empty())
            .map(|platform| platform.to_string().chars().take(60).collect())
            .collect();
        platforms.sort();
        platforms.dedup();
        platforms
    }
}

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) config: Option<RunConfig>,
    pub(crate) rootfs: RootFs,
}

impl ImageConfig {
    /// Reads the configuration of a manifest with so many layers.
    pub(crate) fn read(digest: &Digest, bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = parse(digest, bytes)?;
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != layers {
            return Err(ImageError::malformed(
                digest,
                &format!("{layers} layers, but {diff_ids} diff ids"),
            ));
        }
        if !matches!(config.os.as_str(), "linux" | "") {
            return Err(ImageError::NoPlatform {
                what: digest.to_string(),
                platforms: vec![format!("{}/{}", config.os, config.architecture)],
            });
        }
        Ok(config)
    }
}

/// How the image wants to be run. Null and absent are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) user: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) stop_signal: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct RootFs {
    /// The digest of each layer as a plain tar, the lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, document: &[u8]) -> Result<T> {
    serde_json::from_slice(document).map_err(|error| ImageError::malformed(what, &error.to_string()))
}

/// The name of the snapshot with the first layers, as containerd calls it (OCI image spec, config.md, "Layer
/// ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests;
