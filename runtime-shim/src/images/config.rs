//! The JSON documents of an image (OCI image spec 1.1; docker's v2.2 has the same fields).

use serde::{Deserialize, Serialize};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: String, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        }
    }
}

impl From<&Descriptor> for containerd_client::types::Descriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size.cast_signed(),
            annotations: descriptor.annotations.clone().into_iter().collect(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
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
    pub(crate) diff_ids: Vec<String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// This host's architecture in the words of image indexes.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

impl Index {
    /// The manifest for this host: of its architecture, or the only one that names none.
    pub(crate) fn for_host(&self) -> Option<&Descriptor> {
        let fits = |platform: &Platform| {
            platform.os == "linux"
                && platform.architecture == host_architecture()
                && matches!(platform.variant.as_str(), "" | "v8" | "v1")
        };
        let named = self
            .manifests
            .iter()
            .find(|manifest| manifest.platform.as_ref().is_some_and(fits));
        named.or_else(|| match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
    }
}

/// The name of the snapshot with the first layers, as containerd calls it (OCI image spec, config.md, "Layer
/// ChainID").
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => super::sha256(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_in_a_configuration_are_empty() {
        let text = r#"{"config": {"Env": null, "Cmd": ["sh"], "User": null, "Labels": {}},
            "rootfs": {"type": "layers", "diff_ids": []}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let run = config.config.unwrap();
        assert_eq!(
            run,
            RunConfig {
                cmd: vec!["sh".into()],
                ..Default::default()
            }
        );
    }

    #[test]
    fn the_manifest_of_an_index_is_the_hosts() {
        let manifest = |platform: Option<(&str, &str)>, digest: &str| Descriptor {
            platform: platform.map(|(os, architecture)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: String::new(),
            }),
            ..Descriptor::new(OCI_MANIFEST, digest.into(), 1)
        };
        let host = host_architecture();
        let index = Index {
            manifests: vec![
                manifest(Some(("unknown", "unknown")), "attestation"),
                manifest(Some(("windows", host)), "windows"),
                manifest(Some(("linux", host)), "ours"),
            ],
        };
        assert_eq!(index.for_host().unwrap().digest, "ours");
        let index = Index {
            manifests: vec![manifest(Some(("linux", "s390x")), "other")],
        };
        assert_eq!(index.for_host(), None);
        let index = Index {
            manifests: vec![manifest(None, "only")],
        };
        assert_eq!(index.for_host().unwrap().digest, "only");
    }

    #[test]
    fn a_chain_id_covers_all_layers_below() {
        let ids = ["sha256:aa", "sha256:bb"].map(str::to_owned);
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], "sha256:aa");
        // sha256("sha256:aa sha256:bb")
        assert_eq!(chain[1], super::super::sha256(b"sha256:aa sha256:bb"));
        assert!(chain_ids(&[]).is_empty());
    }
}
