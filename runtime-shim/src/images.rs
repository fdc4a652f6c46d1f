//! Images in containerd: blobs in its content store, layers as a chain of snapshots, names in its image store.
//!
//! ```text
//! registry ─┐                   (under a lease)
//! archive ──┴─► blobs ─► layers unpacked, bottom up ─► name          labels on the blobs keep all of it alive
//! ```

pub(crate) mod archive;
pub(crate) mod config;
mod digest;
mod error;
mod leases;
mod name;
mod platform;
pub(crate) mod progress;
mod pull;
mod registry;
mod resolve;
mod unpack;
mod usage;
pub(crate) mod users;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use containerd_client::services::v1 as api;

pub(crate) use self::digest::Digest;
use self::{
    config::{Descriptor, ImageConfig, RunConfig},
    platform::Host,
    progress::Pulls,
    registry::Registries,
    resolve::{Documents, Found, resolve},
};
pub use self::{error::ImageError, name::ImageName};
use crate::{
    config::ImagesConfig,
    containerd::{Containerd, ContainerdError, ErrorKind, Usage, already_gone},
    ids::LeaseId,
    table::lock,
};

type Result<T, E = ImageError> = std::result::Result<T, E>;

/// What containerd's own CRI server writes on its images, and other tools look for.
const MANAGED_LABEL: &str = "io.cri-containerd.image";
const PINNED_LABEL: &str = "io.cri-containerd.pinned";

/// The images of one containerd namespace.
#[derive(Debug)]
pub(crate) struct Images {
    containerd: Arc<dyn Containerd>,
    snapshotter: String,
    registries: Registries,
    /// Names, in full, of images that are never to be collected.
    pinned: BTreeSet<String>,
    /// Bytes that one image may take, packed or unpacked.
    size_limit: u64,
    /// Downloads of one pull at a time.
    downloads: usize,
    pub(crate) pulls: Pulls,
    /// By the digest of a name's target: what a digest stands for never changes.
    known: Mutex<HashMap<Digest, Arc<Image>>>,
    users: Mutex<HashMap<String, Arc<users::Users>>>,
    snapshot_root: OnceLock<String>,
    layer_usage: Mutex<HashMap<String, Usage>>,
    /// One writer at a time for each blob or snapshot.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// The leases that calls use now.
    leases: Mutex<HashSet<LeaseId>>,
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
    pub(crate) diff_ids: Vec<Digest>,
    /// From the target over all indexes to the manifest.
    path: Vec<Descriptor>,
}

impl Image {
    /// What a manifest and its configuration say.
    fn new(found: Found, document: &[u8]) -> Result<Self> {
        let Found { path, manifest } = found;
        let image_config = ImageConfig::read(&manifest.config.digest, document, manifest.layers.len())?;
        let own = path.last().map_or(0, |manifest| manifest.size);
        Ok(Self {
            size: own.saturating_add(manifest.size()),
            id: manifest.config.digest.into(),
            run: image_config.config.unwrap_or_default(),
            architecture: image_config.architecture,
            layers: manifest.layers,
            diff_ids: image_config.rootfs.diff_ids,
            path,
        })
    }

    /// The snapshot that containers build on; empty for an image without layers.
    pub(crate) fn top(&self) -> String {
        config::chain_ids(&self.diff_ids)
            .pop()
            .map(String::from)
            .unwrap_or_default()
    }
}

/// An image with all its names.
#[derive(Debug, Clone)]
pub(crate) struct NamedImage {
    pub(crate) image: Arc<Image>,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
    /// Whoever collects unused images leaves this one alone.
    pub(crate) pinned: bool,
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
        config: &ImagesConfig,
    ) -> Self {
        Self {
            containerd,
            snapshotter: snapshotter.to_owned(),
            registries: Registries::new(config, plain_http),
            pinned: config
                .pinned
                .iter()
                .map(|name| ImageName::of_stored(name).to_string())
                .collect(),
            size_limit: config.size_limit,
            downloads: config.downloads.div_ceil(2),
            pulls: Pulls::default(),
            known: Mutex::default(),
            users: Mutex::default(),
            snapshot_root: OnceLock::new(),
            layer_usage: Mutex::default(),
            flights: Mutex::default(),
            leases: Mutex::default(),
        }
    }

    /// Every image whose content is complete.
    pub(crate) async fn list(&self) -> Result<Vec<NamedImage>> {
        let stored = self.containerd.list_images().await?;
        let mut by_id: BTreeMap<String, NamedImage> = BTreeMap::new();
        let mut targets = HashSet::with_capacity(stored.len());
        for named in stored {
            let Some(target) = named.target else { continue };
            let image = match self.describe(&target).await {
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
                pinned: false,
            });
            let name = ImageName::of_stored(&named.name);
            if let Some(by_digest) = name.with_digest(&target.digest)
                && !entry.digests.contains(&by_digest)
            {
                entry.digests.push(by_digest);
            }
            entry.pinned |= named
                .labels
                .get(PINNED_LABEL)
                .is_some_and(|value| value == "pinned")
                || self.pinned.contains(&named.name);
            if name.is_tagged() {
                entry.tags.push(named.name);
            }
            targets.insert(target.digest);
        }
        // What no name refers to any more.
        lock(&self.known).retain(|digest, _| targets.contains(digest.as_str()));
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

    /// Removes an image with all its names, as containerd's own CRI server does; whether it was here.
    pub(crate) async fn remove(&self, reference: &str) -> Result<bool> {
        let found = self.find(reference).await?;
        // An image whose content has gone missing has its name alone.
        let name = ImageName::of_stored(reference).to_string();
        let mut removed = false;
        for named in self.containerd.list_images().await? {
            let Some(target) = &named.target else { continue };
            let is_same = match &found {
                Some(found) => self
                    .describe(target)
                    .await
                    .is_ok_and(|image| image.id == found.image.id),
                None => named.name == name,
            };
            if is_same {
                already_gone(self.containerd.delete_image(&named.name).await)?;
                removed = true;
            }
        }
        if let Some(found) = found {
            lock(&self.known).retain(|_, image| image.id != found.image.id);
            lock(&self.users).remove(&found.image.id);
        }
        Ok(removed)
    }

    /// The configuration of an image as it stands in its blob.
    pub(crate) async fn specification(&self, image: &Image) -> Result<serde_json::Value> {
        let document = self.containerd.read_blob(&image.id).await?;
        serde_json::from_slice(&document)
            .map_err(|error| ImageError::malformed(&image.id, &error.to_string()))
    }

    /// What a manifest or index stands for on this host.
    async fn describe(&self, target: &containerd_client::types::Descriptor) -> Result<Arc<Image>> {
        let digest = Digest::try_from(target.digest.clone())
            .map_err(|problem| ImageError::malformed(&target.digest, &problem))?;
        if let Some(known) = lock(&self.known).get(&digest) {
            return Ok(Arc::clone(known));
        }
        let target = Descriptor::new(&target.media_type, digest, target.size.unsigned_abs());
        let found = resolve(&Stored(&*self.containerd), &target.digest, &target, Host::here()).await?;
        let document = self.containerd.read_blob(&found.manifest.config.digest).await?;
        let image = Arc::new(Image::new(found, &document)?);
        lock(&self.known).insert(target.digest, Arc::clone(&image));
        Ok(image)
    }

    /// Names an image that is complete: its blobs are bound together, then the names come to be.
    async fn publish(&self, names: &[String], target: &Descriptor, image: &Image) -> Result<()> {
        self.bind(image).await?;
        for name in names {
            let mut labels = HashMap::from([(MANAGED_LABEL.to_owned(), "managed".to_owned())]);
            if self.pinned.contains(name) {
                labels.insert(PINNED_LABEL.to_owned(), "pinned".to_owned());
            }
            let image = api::Image {
                name: name.clone(),
                labels,
                target: Some(target.into()),
                ..Default::default()
            };
            self.containerd.put_image(image).await?;
        }
        Ok(())
    }

    /// Labels by which containerd's garbage collection finds from the index to the manifest, from there to the
    /// configuration and the layers, and from the configuration to the snapshots.
    async fn bind(&self, image: &Image) -> Result<()> {
        let content =
            |name: &str, digest: &str| (format!("containerd.io/gc.ref.content.{name}"), digest.to_owned());
        for pair in image.path.windows(2) {
            let labels = HashMap::from([content("m.0", &pair[1].digest)]);
            self.containerd.set_blob_labels(&pair[0].digest, labels).await?;
        }
        let layers = image.layers.iter().enumerate();
        let labels = std::iter::once(content("config", &image.id))
            .chain(layers.map(|(index, layer)| content(&format!("l.{index}"), &layer.digest)))
            .collect();
        if let Some(manifest) = image.path.last() {
            self.containerd.set_blob_labels(&manifest.digest, labels).await?;
        }
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

/// The documents of the content store.
struct Stored<'a>(&'a dyn Containerd);

impl Documents for Stored<'_> {
    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Bytes>> {
        match self.0.read_blob(&descriptor.digest).await {
            Ok(document) => Ok(Some(document)),
            Err(ContainerdError {
                kind: ErrorKind::NotFound,
                ..
            }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
