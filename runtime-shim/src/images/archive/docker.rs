//! What `docker save` writes: `manifest.json`, and blobs without digests.

use std::io::Read as _;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Archive, CHUNK, Contents, Source, full_name};
use crate::images::{
    Result,
    config::{self, Descriptor, Manifest},
    digest::Digest,
};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    pub(super) fn docker(&self) -> Result<Vec<Contents>> {
        let entries: Vec<Entry> = self.document("manifest.json")?;
        entries.iter().map(|entry| self.docker_image(entry)).collect()
    }

    fn docker_image(&self, entry: &Entry) -> Result<Contents> {
        let (config_descriptor, config_source) = self.digested(&entry.config, config::OCI_CONFIG)?;
        let layers = entry
            .layers
            .iter()
            .map(|path| self.digested(path, config::OCI_LAYER))
            .collect::<Result<Vec<_>>>()?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: config::OCI_MANIFEST.into(),
            config: config_descriptor.clone(),
            layers: layers.iter().map(|(descriptor, _)| descriptor.clone()).collect(),
        };
        let document = serde_json::to_vec(&manifest).map_err(|error| self.problem(&error.to_string()))?;
        config::Document::read(&self.stem(), &document)?;
        let target = Descriptor::new(config::OCI_MANIFEST, Digest::of(&document), document.len() as u64);
        let tags = entry.repo_tags.clone().unwrap_or_default();
        let names = match tags.as_slice() {
            [] => vec![full_name(&self.stem())?],
            tags => tags.iter().map(|tag| full_name(tag)).collect::<Result<_>>()?,
        };
        let mut blobs = vec![
            (target.clone(), Source::Bytes(document.into())),
            (config_descriptor, config_source),
        ];
        blobs.extend(layers);
        Ok(Contents { names, target, blobs })
    }

    /// An entry as a blob; a layer may be compressed.
    fn digested(&self, path: &str, media_type: &str) -> Result<(Descriptor, Source)> {
        let extent = self.extent(path)?;
        let mut hash = Sha256::new();
        let mut reader = self.reader(extent);
        let mut magic = Vec::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = reader.read(&mut buffer).map_err(|cause| self.unreadable(cause))?;
            if length == 0 {
                break;
            }
            if magic.is_empty() {
                magic = buffer[..length.min(4)].to_vec();
            }
            hash.update(&buffer[..length]);
        }
        let is_layer = media_type == config::OCI_LAYER;
        let suffix = if is_layer && magic.starts_with(&GZIP) {
            "+gzip"
        } else if is_layer && magic == ZSTD {
            "+zstd"
        } else {
            ""
        };
        let digest = Digest::from_hash(&hash.finalize());
        let descriptor = Descriptor::new(&format!("{media_type}{suffix}"), digest, extent.size);
        Ok((descriptor, Source::Extent(extent)))
    }
}
