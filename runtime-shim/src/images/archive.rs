//! Images from tar archives: an OCI layout (OCI image spec, image-layout.md), or what `docker save` writes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    ImageError, ImageName, Images, Result,
    config::{self, Descriptor, Index, Manifest},
    digest_text, sha256,
};
use crate::{containerd::NewBlob, ids::LeaseId, steps::timed};

/// Documents larger than this are not documents.
const MAX_DOCUMENT: u64 = 8 << 20;
const CHUNK: usize = 256 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where an entry's bytes are in the plain tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    offset: u64,
    size: u64,
}

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

/// An entry of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Images {
    /// Imports every image of an archive; their names. Whole or not at all, image by image.
    pub(crate) async fn import(&self, path: &Path) -> Result<Vec<ImageName>> {
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let archive = Archive::open(&owned)?;
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
            let lease = timed("lease", self.containerd.create_lease()).await?;
            let imported = self.import_one(&archive, &image, &lease).await;
            self.containerd.delete_lease(&lease).await?;
            imported?;
            names.extend(image.names.iter().map(|name| ImageName::of_stored(name)));
        }
        Ok(names)
    }

    async fn import_one(&self, archive: &Arc<Archive>, image: &Contents, lease: &LeaseId) -> Result<()> {
        for (descriptor, source) in &image.blobs {
            let flight = self.flight(&descriptor.digest);
            let _alone = flight.lock().await;
            let blob = NewBlob {
                digest: &descriptor.digest,
                size: descriptor.size,
                offset: 0,
                labels: HashMap::new(),
                lease,
            };
            // What an earlier, broken-off import has left is not worth resuming from a local file.
            self.containerd.abort_blob(&descriptor.digest).await?;
            let data = match source {
                Source::Bytes(bytes) => stream::iter([Ok(bytes.clone())]).boxed(),
                Source::Extent(extent) => archive.stream(*extent).boxed(),
            };
            timed("write blob", self.containerd.write_blob(blob, data)).await?;
        }
        self.publish(&image.names, &image.target, lease).await?;
        Ok(())
    }
}

impl Archive {
    fn open(path: &Path) -> Result<Self> {
        let failed = |cause| ImageError::ReadArchive {
            path: path.to_owned(),
            cause,
        };
        let mut tar = File::open(path).map_err(failed)?;
        let mut magic = [0; 2];
        let is_gzip = tar.read(&mut magic).map_err(failed)? == 2 && magic == GZIP;
        tar.seek(SeekFrom::Start(0)).map_err(failed)?;
        if is_gzip {
            let mut plain = tempfile::tempfile().map_err(failed)?;
            let mut decoder = flate2::read::MultiGzDecoder::new(BufReader::new(tar));
            io::copy(&mut decoder, &mut plain).map_err(failed)?;
            plain.seek(SeekFrom::Start(0)).map_err(failed)?;
            tar = plain;
        }
        let entries = index(&tar).map_err(failed)?;
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
        let mut all = Vec::new();
        for target in index.manifests {
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
            let mut blobs = vec![self.blob(&target)?];
            let manifest = if [config::OCI_INDEX, config::DOCKER_LIST].contains(&target.media_type.as_str()) {
                let nested: Index = self.document(&blob_path(&target.digest))?;
                let ours = nested
                    .for_host()
                    .ok_or_else(|| ImageError::no_platform(&name))?
                    .clone();
                blobs.push(self.blob(&ours)?);
                ours
            } else {
                target.clone()
            };
            let manifest: Manifest = self.document(&blob_path(&manifest.digest))?;
            for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
                blobs.push(self.blob(descriptor)?);
            }
            all.push(Contents {
                names: vec![full_name(&name)?],
                target,
                blobs,
            });
        }
        Ok(all)
    }

    fn docker(&self) -> Result<Vec<Contents>> {
        let entries: Vec<DockerEntry> = self.document("manifest.json")?;
        entries.iter().map(|entry| self.docker_image(entry)).collect()
    }

    fn docker_image(&self, entry: &DockerEntry) -> Result<Contents> {
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
        let target = Descriptor::new(config::OCI_MANIFEST, sha256(&document), document.len() as u64);
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

    /// An entry of a docker archive as a blob; a layer may be compressed.
    fn digested(&self, path: &str, media_type: &str) -> Result<(Descriptor, Source)> {
        let extent = self.extent(path)?;
        let mut hash = Sha256::new();
        let mut magic = [0; 2];
        let mut reader = self.reader(extent);
        let mut buffer = vec![0; CHUNK];
        let mut first = true;
        loop {
            let length = reader.read(&mut buffer).map_err(|cause| self.unreadable(cause))?;
            if length == 0 {
                break;
            }
            if first && length >= 2 {
                magic = [buffer[0], buffer[1]];
                first = false;
            }
            hash.update(&buffer[..length]);
        }
        let media_type = if magic == GZIP && media_type == config::OCI_LAYER {
            format!("{media_type}+gzip")
        } else {
            media_type.to_owned()
        };
        let descriptor = Descriptor::new(&media_type, digest_text(&hash.finalize()), extent.size);
        Ok((descriptor, Source::Extent(extent)))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<(Descriptor, Source)> {
        let extent = self.extent(&blob_path(&descriptor.digest))?;
        Ok((descriptor.clone(), Source::Extent(extent)))
    }

    fn extent(&self, path: &str) -> Result<Extent> {
        let found = self.entries.get(path.trim_start_matches("./")).copied();
        found.ok_or_else(|| self.problem(&format!("has no entry {path}, which it refers to")))
    }

    fn document<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let extent = self.extent(path)?;
        if extent.size > MAX_DOCUMENT {
            return Err(self.problem(&format!("{path} is larger than 8 MiB")));
        }
        let reader = BufReader::new(self.reader(extent));
        serde_json::from_reader(reader).map_err(|error| self.problem(&format!("{path}: {error}")))
    }

    fn reader(&self, extent: Extent) -> ExtentReader<'_> {
        ExtentReader {
            file: &self.tar,
            at: extent.offset,
            end: extent.offset + extent.size,
        }
    }

    /// An entry's bytes, read on the way.
    fn stream(self: &Arc<Self>, extent: Extent) -> impl futures::Stream<Item = io::Result<Bytes>> + use<> {
        let archive = Arc::clone(self);
        let end = extent.offset + extent.size;
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

/// Reads a part of a file at its own position, so that several can read at once.
struct ExtentReader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let length = std::os::unix::fs::FileExt::read_at(self.file, &mut buffer[..wanted], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Files, and links to files, by their path.
fn index(tar: &File) -> io::Result<HashMap<String, Extent>> {
    let mut entries = HashMap::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(BufReader::new(tar));
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = entry
            .path()?
            .to_string_lossy()
            .trim_start_matches("./")
            .to_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            entries.insert(
                path,
                Extent {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                },
            );
        } else if kind.is_symlink() || kind.is_hard_link() {
            // docker saves a layer that two images share once and links to it.
            let Some(target) = entry.link_name()? else {
                continue;
            };
            let target = if kind.is_symlink() {
                resolve(Path::new(&path).parent().unwrap_or(Path::new("")), &target)
            } else {
                resolve(Path::new(""), &target)
            };
            links.push((path, target));
        }
    }
    for (path, target) in links {
        if let Some(extent) = entries.get(&target).copied() {
            entries.insert(path, extent);
        }
    }
    Ok(entries)
}

/// A path relative to a folder of the archive, without `.` and `..`.
fn resolve(dir: &Path, target: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in dir.join(target).components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn full_name(name: &str) -> Result<String> {
    Ok(ImageName::parse(name)?.to_string())
}
