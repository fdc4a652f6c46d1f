//! Images in memory, made by hand, as a registry serves them.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{collections::HashMap, fmt::Write as _};

use clone8s_integration::image::{architecture, digest};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::faulty::{Answer, Seen};

/// Blobs and tags.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    blobs: HashMap<String, Vec<u8>>,
    /// The digests of manifests by `repository:tag`.
    tags: HashMap<String, String>,
}

/// A layer: a tar, and how it is packed.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) tar: Vec<u8>,
    pub(crate) media_type: &'static str,
}

impl Layer {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Self { tar, media_type }
    }

    pub(crate) fn gzip(tar: Vec<u8>) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        Self { tar, media_type }
    }

    pub(crate) fn of_type(tar: Vec<u8>, media_type: &'static str) -> Self {
        Self { tar, media_type }
    }

    fn packed(&self) -> Vec<u8> {
        if self.media_type.ends_with("gzip") {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::Write::write_all(&mut gzip, &self.tar).expect("memory");
            return gzip.finish().expect("memory");
        }
        if self.media_type.ends_with("zstd") {
            return zstd::encode_all(&*self.tar, 3).expect("memory");
        }
        self.tar.clone()
    }
}

impl Store {
    pub(crate) fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
        self.blobs.insert(digest(&bytes), bytes);
        descriptor
    }

    /// An image of these layers that runs `/bin/sh`.
    pub(crate) fn image(&mut self, layers: &[Layer]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(&layer.tar)).collect();
        self.image_with(layers, &diff_ids)
    }

    pub(crate) fn image_with(&mut self, layers: &[Layer], diff_ids: &[String]) -> Value {
        let config = json!({
            "architecture": architecture().expect("a known architecture"),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.add(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().into_bytes(),
        );
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| self.add(layer.media_type, layer.packed()))
            .collect();
        self.manifest(&config, &layers)
    }

    pub(crate) fn manifest(&mut self, config: &Value, layers: &[Value]) -> Value {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        self.add(media_type, manifest.to_string().into_bytes())
    }

    pub(crate) fn index(&mut self, manifests: &[Value]) -> Value {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.add(media_type, index.to_string().into_bytes())
    }

    pub(crate) fn tag(&mut self, name_and_tag: &str, target: &Value) {
        let digest = target["digest"].as_str().expect("a digest").to_owned();
        self.tags.insert(name_and_tag.to_owned(), digest);
    }

    /// What a registry that works answers.
    pub(crate) fn answer(&self, seen: &Seen) -> Answer {
        let path = seen.path.split('?').next().unwrap_or_default();
        let path = path.strip_prefix("/v2/").unwrap_or_default();
        if let Some((repository, version)) = path.split_once("/manifests/") {
            let tagged = self.tags.get(&format!("{repository}:{version}"));
            let digest = tagged.map_or(version, String::as_str);
            return match self.blobs.get(digest) {
                Some(document) => Answer::ok(document.clone()).header("docker-content-digest", digest),
                None => Answer::new(404),
            };
        }
        let blob = path
            .split_once("/blobs/")
            .and_then(|(_, digest)| self.blobs.get(digest));
        blob.map_or_else(|| Answer::new(404), |blob| Answer::part(seen, blob))
    }
}

/// The digest of a descriptor.
pub(crate) fn digest_of(descriptor: &Value) -> &str {
    descriptor["digest"].as_str().expect("a digest")
}

/// Bytes that do not compress, always the same for a seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// One entry of a layer, with a name that is written as it is.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: tar::EntryType,
    /// Of a link.
    pub(crate) target: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

impl Entry {
    pub(crate) fn file(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.to_owned(),
            kind: tar::EntryType::Regular,
            target: String::new(),
            bytes: bytes.into(),
            mode: 0o755,
        }
    }

    pub(crate) fn link(name: &str, target: &str) -> Self {
        Self {
            kind: tar::EntryType::Symlink,
            target: target.to_owned(),
            ..Self::file(name, "")
        }
    }

    pub(crate) fn of_kind(self, kind: tar::EntryType) -> Self {
        Self { kind, ..self }
    }
}

/// A tar that no tar program would write.
pub(crate) fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let fields = header.as_gnu_mut().expect("GNU's form");
        // Cut off by what does not fit: the tests' names are short enough.
        fields.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        fields.linkname[..entry.target.len()].copy_from_slice(entry.target.as_bytes());
        header.set_size(entry.bytes.len() as u64);
        header.set_mode(entry.mode);
        header.set_entry_type(entry.kind);
        header.set_device_major(1).expect("GNU's form");
        header.set_device_minor(5).expect("GNU's form");
        header.set_cksum();
        builder.append(&header, &*entry.bytes).expect("memory");
    }
    builder.into_inner().expect("memory")
}

/// busybox as a shell with a few applets.
pub(crate) fn shell() -> Vec<Entry> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox is on this machine");
    let mut entries = vec![Entry::file("bin/busybox", busybox)];
    for applet in ["sh", "cat", "ls", "sleep", "echo", "find"] {
        entries.push(Entry::link(&format!("bin/{applet}"), "busybox"));
    }
    entries
}

/// All of it as text, for messages.
pub(crate) fn told(seen: &[Seen]) -> String {
    seen.iter().fold(String::new(), |mut text, seen| {
        let _ = writeln!(text, "{} {} {:?}", seen.method, seen.path, seen.header("range"));
        text
    })
}
