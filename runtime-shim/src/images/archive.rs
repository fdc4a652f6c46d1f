//! Images from tar archives: an OCI layout (OCI image spec, image-layout.md), or what `docker save` writes.

mod docker;
mod tar_file;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};

use self::tar_file::{Extent, ExtentReader};
use super::{
    ImageError, ImageName, Images, Result,
    config::{Descriptor, Index, MAX_DOCUMENT},
    platform::Host,
    pull::new_blob,
    resolve::{Documents, resolve},
    unpack::Unpacking,
};
use crate::{ids::LeaseId, steps::timed};

const CHUNK: usize = 256 << 10;

/// An opened archive: a plain tar file, and what is in it.
#[derive(Debug)]
struct Archive {
    path: PathBuf,
    /// The file, or a nameless copy without its compression.
    tar: File,
    entries: HashMap<String, Extent>,
}

/// A blob of an image to be written: from the archive, or made here.
#[derive(Debug, Clone)]
enum Source {
    Extent(Extent),
    Bytes(Bytes),
}

/// One image of an archive.
#[derive(Debug)]
struct Contents {
    names: Vec<String>,
    target: Descriptor,
    blobs: Vec<(Descriptor, Source)>,
}

impl Images {
    /// Imports every image of an archive; their names. Whole or not at all, image by image.
    pub(crate) async fn import(&self, path: &Path) -> Result<Vec<ImageName>> {
        let (owned, limit) = (path.to_owned(), self.size_limit);
        let opened = tokio::task::spawn_blocking(move || {
            let archive = Archive::open(&owned, limit)?;
            let contents = archive.contents()?;
            Ok::<_, ImageError>((Arc::new(archive), contents))
        });
        let (archive, contents) =
            timed("open archive", opened)
                .await
                .map_err(|error| ImageError::Archive {
                    path: path.to_owned(),
                    problem: error.to_string(),
                })??;
        let mut names = Vec::new();
        for image in contents {
            let lease = timed("lease", self.new_lease("import")).await?;
            let imported = self.import_one(&archive, &image, &lease).await;
            self.drop_lease(lease).await?;
            imported?;
            names.extend(image.names.iter().map(|name| ImageName::of_stored(name)));
        }
        Ok(names)
    }

    async fn import_one(&self, archive: &Arc<Archive>, image: &Contents, lease: &LeaseId) -> Result<()> {
        for (descriptor, source) in &image.blobs {
            let ingest = format!("archive-{}", descriptor.digest);
            let flight = self.flight(&ingest);
            let _alone = flight.lock().await;
            if self.held(&descriptor.digest, lease).await? {
                continue;
            }
            // What an earlier, broken-off import has left is not worth resuming from a local file.
            self.containerd.abort_blob(&ingest).await?;
            let data = match source {
                Source::Bytes(bytes) => stream::iter([Ok(bytes.clone())]).boxed(),
                Source::Extent(extent) => archive.stream(*extent).boxed(),
            };
            let blob = new_blob(&ingest, descriptor, 0, lease);
            let written = timed("write blob", self.containerd.write_blob(blob, data)).await;
            if let Err(error) = written {
                self.containerd.abort_blob(&ingest).await?;
                return Err(error.into());
            }
        }
        let described = self.describe(&(&image.target).into()).await?;
        let unpacked = self
            .unpack(Unpacking {
                name: &archive.stem(),
                image: &described,
                lease,
                arrivals: None,
                progress: None,
            })
            .await;
        if let Err(error) = unpacked {
            self.discard_unpacking(lease).await?;
            return Err(error);
        }
        self.publish(&image.names, &image.target, &described).await
    }
}

impl Archive {
    fn open(path: &Path, limit: u64) -> Result<Self> {
        let failed = |cause| ImageError::ReadArchive {
            path: path.to_owned(),
            cause,
        };
        let tar = tar_file::open_plain(path, limit).map_err(failed)?;
        let entries = tar_file::index(&tar).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            tar,
            entries,
        })
    }

    fn contents(&self) -> Result<Vec<Contents>> {
        let contents = if self.entries.contains_key("index.json") {
            self.oci()?
        } else if self.entries.contains_key("manifest.json") {
            self.docker()?
        } else {
            return Err(self.problem(
                "neither an OCI layout (index.json) nor a docker archive (manifest.json); make one with `skopeo \
                 copy … oci-archive:FILE` or `docker save`",
            ));
        };
        if contents.is_empty() {
            return Err(self.problem("has no image"));
        }
        Ok(contents)
    }

    fn oci(&self) -> Result<Vec<Contents>> {
        let index: Index = self.document("index.json")?;
        index
            .manifests
            .into_iter()
            .map(|target| self.oci_image(target))
            .collect()
    }

    fn oci_image(&self, target: Descriptor) -> Result<Contents> {
        let named = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| target.annotations.get(*key).filter(|name| !name.is_empty()));
        let name = match named {
            // A layout may give a bare tag, its folder being the repository.
            Some(name) if !name.contains(['/', ':']) => format!("{}:{name}", self.stem()),
            Some(name) => name.clone(),
            None => self.stem(),
        };
        let target = Descriptor {
            platform: None,
            annotations: BTreeMap::new(),
            ..target
        };
        // A file is read without waiting for anything.
        let found = futures::executor::block_on(resolve(self, &name, &target, Host::here()))?;
        let documents = found.path.iter();
        let blobs = documents
            .chain([&found.manifest.config])
            .chain(&found.manifest.layers)
            .map(|blob| {
                let extent = self.extent(&blob_path(&blob.digest))?;
                Ok((blob.clone(), Source::Extent(extent)))
            })
            .collect::<Result<Vec<_>>>()?;
        // With the media type that it was found to have.
        let target = found.path.into_iter().next().unwrap_or(target);
        Ok(Contents {
            names: vec![full_name(&name)?],
            target,
            blobs,
        })
    }

    fn extent(&self, path: &str) -> Result<Extent> {
        let found = self.entries.get(path.trim_start_matches("./")).copied();
        found.ok_or_else(|| self.problem(&format!("has no entry {path}, which it refers to")))
    }

    fn document<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let bytes = self.small(path, self.extent(path)?)?;
        serde_json::from_slice(&bytes).map_err(|error| self.problem(&format!("{path}: {error}")))
    }

    fn small(&self, path: &str, extent: Extent) -> Result<Vec<u8>> {
        if extent.size > MAX_DOCUMENT {
            return Err(self.problem(&format!("{path} is larger than 8 MiB")));
        }
        let mut bytes = Vec::new();
        BufReader::new(self.reader(extent))
            .read_to_end(&mut bytes)
            .map_err(|cause| self.unreadable(cause))?;
        Ok(bytes)
    }

    fn reader(&self, extent: Extent) -> ExtentReader<'_> {
        ExtentReader {
            file: &self.tar,
            at: extent.offset,
            end: extent.end().unwrap_or(extent.offset),
        }
    }

    /// An entry's bytes, read on the way.
    fn stream(self: &Arc<Self>, extent: Extent) -> impl futures::Stream<Item = io::Result<Bytes>> + use<> {
        let archive = Arc::clone(self);
        let end = extent.end().unwrap_or(extent.offset);
        stream::try_unfold(extent.offset, move |at| {
            let archive = Arc::clone(&archive);
            async move {
                if at >= end {
                    return Ok(None);
                }
                let read = tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; CHUNK];
                    let length = ExtentReader {
                        file: &archive.tar,
                        at,
                        end,
                    }
                    .read(&mut buffer)?;
                    buffer.truncate(length);
                    Ok::<_, io::Error>(Bytes::from(buffer))
                });
                let part = read.await.map_err(io::Error::other)??;
                if part.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let next = at + part.len() as u64;
                Ok(Some((part, next)))
            }
        })
    }

    /// The archive's file name without its endings: a last resort for an image's name.
    fn stem(&self) -> String {
        let name = self
            .path
            .file_name()
            .map(|name| name.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        name.split('.').next().unwrap_or_default().to_owned()
    }

    fn problem(&self, problem: &str) -> ImageError {
        ImageError::Archive {
            path: self.path.clone(),
            problem: problem.to_owned(),
        }
    }

    fn unreadable(&self, cause: io::Error) -> ImageError {
        ImageError::ReadArchive {
            path: self.path.clone(),
            cause,
        }
    }
}

impl Documents for Archive {
    async fn document(&self, descriptor: &Descriptor) -> Result<Option<Bytes>> {
        let path = blob_path(&descriptor.digest);
        match self.entries.get(&path) {
            Some(extent) => Ok(Some(self.small(&path, *extent)?.into())),
            None => Ok(None),
        }
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn full_name(name: &str) -> Result<String> {
    Ok(ImageName::parse(name)?.to_string())
}

#[cfg(test)]
mod tests;
