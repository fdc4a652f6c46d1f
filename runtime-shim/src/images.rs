//! Images in containerd: blobs in its content store, layers as a chain of snapshots, names in its image store.
//!
//! ```text
//! registry ─┐                   (under a lease)
//! archive ──┴─► blobs ─► layers unpacked, bottom up ─► name          labels on the blobs keep all of it alive
//! ```

pub(crate) mod archive;
pub(crate) mod config;
mod error;
mod name;
mod pull;
mod unpack;
mod usage;
pub(crate) mod users;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, OnceLock},
};

use containerd_client::services::v1 as api;
use sha2::{Digest as _, Sha256};

use self::config::{Descriptor, ImageConfig, Manifest, RunConfig};
pub use self::{error::ImageError, name::ImageName};
use crate::{
    containerd::{Containerd, Usage, already_gone},
    ids::LeaseId,
    table::lock,
};

type Result<T, E = ImageError> = std::result::Result<T, E>;

/// The images of one containerd namespace.
#[derive(Debug)]
pub(crate) struct Images {
    containerd: Arc<dyn Containerd>,
    snapshotter: String,
    /// Registries, besides loopback ones, that are spoken to without TLS.
    plain_http: BTreeSet<String>,
    /// By the digest of a name's target: what a digest stands for never changes.
    known: Mutex<HashMap<String, Arc<Image>>>,
    users: Mutex<HashMap<String, Arc<users::Users>>>,
    snapshot_root: OnceLock<String>,
    layer_usage: Mutex<HashMap<String, Usage>>,
    /// One writer at a time for each blob or snapshot.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// An image as the content store describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// The digest of the configuration: the same for every name and manifest of the same content.
    pub(crate) id: String,
    /// All blobs together, in bytes, as they are stored.
    pub(crate) size: u64,
    pub(crate) run: RunConfig,
    pub(crate) architecture: String,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) diff_ids: Vec<String>,
    pub(crate) manifest: Descriptor,
}

impl Image {
    /// The snapshot that containers build on; empty for an image without layers.
    pub(crate) fn top(&self) -> String {
        config::chain_ids(&self.diff_ids).pop().unwrap_or_default()
    }
}

/// An image with all its names.
#[derive(Debug, Clone)]
pub(crate) struct NamedImage {
    pub(crate) image: Arc<Image>,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
}

impl NamedImage {
    /// A reference by digest where there is one, else the id.
    pub(crate) fn reference(&self) -> String {
        self.digests.first().unwrap_or(&self.image.id).clone()
    }
}

impl Images {
    pub(crate) fn new(
        containerd: Arc<dyn Containerd>,
        snapshotter: &str,
        plain_http: BTreeSet<String>,
    ) -> Self {
        Self {
            containerd,
            snapshotter: snapshotter.to_owned(),
            plain_http,
            known: Mutex::default(),
            users: Mutex::default(),
            snapshot_root: OnceLock::new(),
            layer_usage: Mutex::default(),
            flights: Mutex::default(),
        }
    }

    /// Every image whose content is complete.
    pub(crate) async fn list(&self) -> Result<Vec<NamedImage>> {
        let mut by_id: BTreeMap<String, NamedImage> = BTreeMap::new();
        for named in self.containerd.list_images().await? {
            let Some(target) = named.target else { continue };
            let image = match self.describe(&target.digest).await {
                Ok(image) => image,
                Err(error) => {
                    tracing::debug!(image = named.name, %error, "passed over an incomplete image");
                    continue;
                }
            };
            let entry = by_id.entry(image.id.clone()).or_insert_with(|| NamedImage {
                image: Arc::clone(&image),
                tags: Vec::new(),
                digests: Vec::new(),
            });
            let name = ImageName::of_stored(&named.name);
            if let Some(by_digest) = name.with_digest(&target.digest)
                && !entry.digests.contains(&by_digest)
            {
                entry.digests.push(by_digest);
            }
            if name.is_tagged() {
                entry.tags.push(named.name);
            }
        }
        Ok(by_id.into_values().collect())
    }

    /// By id, or a beginning of it, or by any of its names; none when it is not here.
    pub(crate) async fn find(&self, reference: &str) -> Result<Option<NamedImage>> {
        let all = self.list().await?;
        let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
        let by_id = |named: &&NamedImage| {
            let id = named.image.id.trim_start_matches("sha256:");
            // Shorter ones are more likely names.
            id == hex || hex.len() >= 12 && id.starts_with(hex)
        };
        if let Some(found) = all.iter().find(by_id) {
            return Ok(Some(found.clone()));
        }
        let Ok(name) = ImageName::parse(reference) else {
            return Ok(None);
        };
        let wanted = name.to_string();
        Ok(all
            .into_iter()
            .find(|named| named.tags.contains(&wanted) || named.digests.contains(&wanted)))
    }

    /// Removes an image with all its names; whether it was here.
    pub(crate) async fn remove(&self, reference: &str) -> Result<bool> {
        let Some(found) = self.find(reference).await? else {
            return Ok(false);
        };
        for named in self.containerd.list_images().await? {
            let Some(target) = named.target else { continue };
            if self
                .describe(&target.digest)
                .await
                .is_ok_and(|image| image.id == found.image.id)
            {
                already_gone(self.containerd.delete_image(&named.name).await)?;
            }
        }
        lock(&self.known).retain(|_, image| image.id != found.image.id);
        lock(&self.users).remove(&found.image.id);
        Ok(true)
    }

    /// What a manifest or index stands for on this host.
    async fn describe(&self, target: &str) -> Result<Arc<Image>> {
        if let Some(known) = lock(&self.known).get(target) {
            return Ok(Arc::clone(known));
        }
        let document = self.containerd.read_blob(target).await?;
        let (manifest, manifest_descriptor) = if let Ok(index) =
            serde_json::from_slice::<config::Index>(&document)
        {
            let ours = index
                .for_host()
                .ok_or_else(|| ImageError::no_platform(target))?
                .clone();
            let document = self.containerd.read_blob(&ours.digest).await?;
            (parse::<Manifest>(&ours.digest, &document)?, ours)
        } else {
            let manifest = parse::<Manifest>(target, &document)?;
            let descriptor = Descriptor::new(&manifest.media_type, target.to_owned(), document.len() as u64);
            (manifest, descriptor)
        };
        let document = self.containerd.read_blob(&manifest.config.digest).await?;
        let image_config: ImageConfig = parse(&manifest.config.digest, &document)?;
        let image = Arc::new(Image {
            size: manifest_descriptor.size
                + manifest.config.size
                + manifest.layers.iter().map(|layer| layer.size).sum::<u64>(),
            id: manifest.config.digest,
            run: image_config.config.unwrap_or_default(),
            architecture: image_config.architecture,
            layers: manifest.layers,
            diff_ids: image_config.rootfs.diff_ids,
            manifest: manifest_descriptor,
        });
        lock(&self.known).insert(target.to_owned(), Arc::clone(&image));
        Ok(image)
    }

    /// Makes the image complete and names it: layers unpacked, blobs bound together, then the names.
    async fn publish(&self, names: &[String], target: &Descriptor, lease: &LeaseId) -> Result<Arc<Image>> {
        let image = self.describe(&target.digest).await?;
        self.unpack(&image, lease).await?;
        self.bind(target, &image).await?;
        for name in names {
            let image = api::Image {
                name: name.clone(),
                target: Some(target.into()),
                ..Default::default()
            };
            self.containerd.put_image(image).await?;
        }
        Ok(image)
    }

    /// Labels by which containerd's garbage collection finds from the index to the manifest, from there to the
    /// configuration and the layers, and from the configuration to the snapshots.
    async fn bind(&self, target: &Descriptor, image: &Image) -> Result<()> {
        let content =
            |name: &str, digest: &str| (format!("containerd.io/gc.ref.content.{name}"), digest.to_owned());
        if target.digest != image.manifest.digest {
            let labels = HashMap::from([content("m.0", &image.manifest.digest)]);
            self.containerd.set_blob_labels(&target.digest, labels).await?;
        }
        let layers = image.layers.iter().enumerate();
        let labels = std::iter::once(content("config", &image.id))
            .chain(layers.map(|(index, layer)| content(&format!("l.{index}"), &layer.digest)))
            .collect();
        self.containerd
            .set_blob_labels(&image.manifest.digest, labels)
            .await?;
        let snapshot = (
            format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter),
            image.top(),
        );
        self.containerd
            .set_blob_labels(&image.id, HashMap::from([snapshot]))
            .await?;
        Ok(())
    }

    /// The lock under which one blob or snapshot is made.
    fn flight(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = lock(&self.flights);
        // Those that nobody else holds any more.
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(name.to_owned()).or_default())
    }
}

fn parse<T: serde::de::DeserializeOwned>(digest: &str, document: &[u8]) -> Result<T> {
    serde_json::from_slice(document).map_err(|error| ImageError::Malformed {
        what: digest.to_owned(),
        problem: error.to_string(),
    })
}

/// The digest of some bytes, as images write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest_text(&Sha256::digest(bytes))
}

pub(crate) fn digest_text(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
