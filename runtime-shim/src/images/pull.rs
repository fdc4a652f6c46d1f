//! Pulling from registries, into containerd's content store.
//!
//! ```text
//! manifest (of an index: the host's) ─► configuration and layers, some at a time
//!                                             └─► each layer unpacked as soon as it and those below are here ─► named
//! ```

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use clone8s::cri;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    Image, ImageError, ImageName, Images, NamedImage, Result,
    config::{Descriptor, Document},
    digest::Digest,
    name::{Reference, Version},
    platform::Host,
    progress::{Layer, Pull},
    registry::Repository,
    resolve::{Documents, Found, resolve},
    unpack::{Arrivals, Unpacking},
};
use crate::{
    containerd::{ContainerdError, ErrorKind, NewBlob},
    ids::LeaseId,
    steps::timed,
    table::lock,
};

/// How long another writer of the same blob is waited for: one that was cut off lets go at once.
const WRITER_LIMIT: Duration = Duration::from_secs(10);
const WRITER_PAUSE: Duration = Duration::from_millis(100);

/// One pull under way.
#[derive(Clone, Copy)]
struct Work<'a> {
    images: &'a Images,
    repository: &'a Arc<Repository>,
    reference: &'a Reference,
    lease: &'a LeaseId,
    progress: &'a Pull,
    arrivals: &'a Arrivals,
}

impl Images {
    /// Pulls an image and names it by its tag and by its digest; `cancelled` breaks it off, and what has come is kept.
    pub(crate) async fn pull(
        &self,
        reference: &str,
        auth: Option<&cri::AuthConfig>,
        cancelled: &CancellationToken,
    ) -> Result<NamedImage> {
        let reference = Reference::parse(reference)?;
        let name = ImageName::from(&reference).to_string();
        let repository = self.registries.open(&reference, auth)?;
        let progress = self.pulls.begin(&name);
        let cut_off = || ImageError::Cancelled { image: name.clone() };
        tokio::select! {
            () = cancelled.cancelled() => return Err(cut_off()),
            current = self.up_to_date(&repository, &reference) => {
                if let Some(current) = current? {
                    return Ok(current);
                }
            }
        }
        let top = tokio::select! {
            top = top(&repository, &reference) => top,
            () = cancelled.cancelled() => Err(cut_off()),
            () = progress.report() => Err(cut_off()),
        };
        let (target, document) = match top {
            Ok(top) => top,
            Err(error) => {
                if !error.is_passing() {
                    // There is no next pull that would go on with it.
                    self.drop_left_over(&name).await?;
                }
                return Err(error);
            }
        };
        let lease = self.begin_lease(&name).await?;
        let work = Work {
            images: self,
            repository: &repository,
            reference: &reference,
            lease: &lease,
            progress: &progress,
            arrivals: &Arrivals::default(),
        };
        let pulled = tokio::select! {
            pulled = work.run(&target, document) => pulled,
            () = cancelled.cancelled() => Err(cut_off()),
            () = progress.report() => Err(cut_off()),
        };
        let ended = self.end_lease(&name, lease, pulled.as_ref().err()).await;
        // Why the pull failed says more than what followed from it.
        let pulled = pulled?;
        ended?;
        Ok(pulled)
    }

    /// The image, if it is here and the registry has no other under its name.
    async fn up_to_date(&self, repository: &Repository, reference: &Reference) -> Result<Option<NamedImage>> {
        let name = ImageName::from(reference).to_string();
        let Some(named) = self.find(&name).await? else {
            return Ok(None);
        };
        let Some(target) = named.image.path.first() else {
            return Ok(None);
        };
        let here = ImageName::from(reference).with_digest(&target.digest);
        // Asked for a digest too: whether the caller may have the image is the registry's to say.
        let current = timed("head", repository.digest(&reference.version)).await;
        if current.as_ref() != Some(&target.digest) || here.is_none_or(|here| !named.digests.contains(&here))
        {
            return Ok(None);
        }
        let top = named.image.top();
        let unpacked = top.is_empty() || self.containerd.snapshot_exists(&self.snapshotter, &top).await?;
        Ok(unpacked.then_some(named))
    }

    async fn write_document(&self, descriptor: &Descriptor, document: Bytes, lease: &LeaseId) -> Result<()> {
        let flight = self.flight(&descriptor.digest);
        let _alone = flight.lock().await;
        if self.held(&descriptor.digest, lease).await? {
            return Ok(());
        }
        let ingest = format!("document-{}", descriptor.digest);
        self.containerd.abort_blob(&ingest).await?;
        let data = stream::iter([Ok(document)]).boxed();
        let blob = new_blob(&ingest, descriptor, 0, lease);
        Ok(self.containerd.write_blob(blob, data).await?)
    }

    /// Whether a blob is here already; if so, the lease keeps it.
    pub(super) async fn held(&self, digest: &Digest, lease: &LeaseId) -> Result<bool> {
        if !self.containerd.blob_exists(digest).await? {
            return Ok(false);
        }
        self.containerd.hold_blob(lease, digest).await?;
        Ok(true)
    }
}

/// What the registry has under the reference, refused before any of it is kept.
async fn top(repository: &Repository, reference: &Reference) -> Result<(Descriptor, Bytes)> {
    let (digest, document) = timed("manifest", repository.manifest(&reference.version)).await?;
    let (_, media_type) = Document::read(&repository.image, &document)?;
    let target = Descriptor::new(&media_type, digest, document.len() as u64);
    Ok((target, document))
}

impl Work<'_> {
    async fn run(self, target: &Descriptor, document: Bytes) -> Result<NamedImage> {
        let name = ImageName::from(self.reference);
        self.images.write_document(target, document, self.lease).await?;
        let found = resolve(&self, &self.repository.image, target, Host::here()).await?;
        if found.manifest.size() > self.images.size_limit {
            return Err(ImageError::TooLarge {
                image: self.repository.image.clone(),
                what: format!("has layers of {} bytes,", found.manifest.size()),
                limit: self.images.size_limit,
            });
        }
        let both = async { tokio::try_join!(self.download(&found), self.unpack(found.clone())) };
        let ((), image) = timed("layers", both).await?;

        let by_digest = name.with_digest(&target.digest);
        let names: Vec<_> = name
            .is_tagged()
            .then(|| name.to_string())
            .into_iter()
            .chain(by_digest)
            .collect();
        self.images.publish(&names, target, &image).await?;
        let found = self.images.find(&image.id).await?;
        found.ok_or_else(|| ImageError::malformed(&name.to_string(), "was removed while it was pulled"))
    }

    /// The configuration, then the layers from the lowest up, since in this order they are needed.
    async fn download(&self, found: &Found) -> Result<()> {
        let mut blobs: Vec<&Descriptor> = Vec::new();
        for blob in std::iter::once(&found.manifest.config).chain(&found.manifest.layers) {
            // The same layer may be there twice, an empty one mostly.
            if !blobs.iter().any(|known| known.digest == blob.digest) {
                blobs.push(blob);
            }
        }
        let fetches: Vec<_> = blobs
            .into_iter()
            .map(|blob| self.fetch(blob, self.progress.add(blob)))
            .collect();
        stream::iter(fetches)
            .buffer_unordered(self.images.downloads)
            .try_collect()
            .await
    }

    async fn unpack(&self, found: Found) -> Result<Arc<Image>> {
        let config = &found.manifest.config.digest;
        self.arrivals.wait(config).await;
        let document = self.images.containerd.read_blob(config).await?;
        let image = Image::new(found, &document)?;
        let unpacking = Unpacking {
            name: &self.repository.image,
            image: &image,
            lease: self.lease,
            arrivals: Some(self.arrivals),
            progress: Some(self.progress),
        };
        self.images.unpack(unpacking).await?;
        Ok(Arc::new(image))
    }

    /// A configuration or layer, going on where a broken-off pull stopped.
    async fn fetch(&self, blob: &Descriptor, layer: Arc<Layer>) -> Result<()> {
        let ingest = format!("{}-{}", self.reference.registry, blob.digest);
        let flight = self.images.flight(&ingest);
        let _alone = flight.lock().await;
        if !self.images.held(&blob.digest, self.lease).await? {
            // Never closed.
            let _slot = self.repository.slots.acquire().await;
            timed("blob", self.fetch_alone(blob, &ingest, &layer)).await?;
            // Another writer may have been first, under a lease of its own.
            self.images.containerd.hold_blob(self.lease, &blob.digest).await?;
        }
        layer.complete();
        self.arrivals.tell(&blob.digest);
        Ok(())
    }

    async fn fetch_alone(&self, blob: &Descriptor, ingest: &str, layer: &Arc<Layer>) -> Result<()> {
        let containerd = &self.images.containerd;
        let mut waited = Duration::ZERO;
        // Places that have sent other bytes than they should.
        let mut liars = Vec::new();
        // Where a write that ended early had begun, and why it ended.
        let mut broken: Option<(u64, ContainerdError)> = None;
        loop {
            let partial = containerd.partial_blob(ingest).await?;
            if let Some((began, error)) = broken.take()
                && partial <= began
            {
                return Err(error.into());
            }
            if partial > blob.size {
                containerd.abort_blob(ingest).await?;
                continue;
            }
            let (data, tale) = self.repository.blob(blob, partial, &liars, layer);
            let error = match containerd
                .write_blob(new_blob(ingest, blob, partial, self.lease), data)
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let told = std::mem::take(&mut *lock(&tale));
            if let Some(error) = told.error {
                return Err(error);
            }
            match error.kind {
                _ if is_anothers(&error) && waited < WRITER_LIMIT => {
                    waited += WRITER_PAUSE;
                    tokio::time::sleep(WRITER_PAUSE).await;
                }
                // A slow registry may need more than one call's time.
                ErrorKind::Unavailable if !is_anothers(&error) => broken = Some((partial, error)),
                // The digest is another: nothing of it can be used.
                ErrorKind::WrongState => {
                    containerd.abort_blob(ingest).await?;
                    // What an earlier pull left may be the reason, and not who sent the rest.
                    if partial == 0 {
                        liars.extend(told.served_by);
                    }
                    if partial == 0 && !self.repository.has_others(&liars) {
                        return Err(ImageError::WrongBytes {
                            image: self.repository.image.clone(),
                            registry: self.repository.host(liars.last().copied().unwrap_or(usize::MAX)),
                            digest: blob.digest.to_string(),
                        });
                    }
                    tracing::warn!(image = self.repository.image, blob = %blob.digest, "wrong bytes, fetching again");
                }
                _ => return Err(error.into()),
            }
        }
    }
}

/// Manifests beneath an index, taken from the content store where they are there.
impl Documents for Work<'_> {
    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Bytes>> {
        if self.images.held(&descriptor.digest, self.lease).await? {
            return Ok(Some(self.images.containerd.read_blob(&descriptor.digest).await?));
        }
        let version = Version::Digest(descriptor.digest.clone());
        let (_, document) = self.repository.manifest(&version).await?;
        // In the content store under its true size; a reference that tells another is refused.
        if document.len() as u64 == descriptor.size {
            self.images
                .write_document(descriptor, document.clone(), self.lease)
                .await?;
        }
        Ok(Some(document))
    }
}

/// Someone else is writing the blob, which containerd says in words, or did until a moment ago and has got further than
/// was seen. One that was cut off goes on for as long.
fn is_anothers(error: &ContainerdError) -> bool {
    match error.kind {
        ErrorKind::Unavailable => error.message.contains("locked"),
        kind => kind == ErrorKind::OutOfRange,
    }
}

pub(super) fn new_blob<'a>(
    ingest: &'a str,
    descriptor: &'a Descriptor,
    offset: u64,
    lease: &'a LeaseId,
) -> NewBlob<'a> {
    NewBlob {
        ingest,
        digest: &descriptor.digest,
        size: descriptor.size,
        offset,
        labels: HashMap::new(),
        lease,
    }
}
