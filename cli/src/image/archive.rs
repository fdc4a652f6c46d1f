//! An image archive: an OCI image layout (image-spec 1.1, §image-layout) in a tar file.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};
use tempfile::NamedTempFile;

use super::layer::{self, Entry};

/// What an image says about itself.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) arch: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) workdir: String,
    pub(super) user: String,
}

/// A blob of the layout.
struct Blob {
    digest: String,
    size: u64,
}

impl Image {
    /// Writes the archive and returns the manifest's digest. A half-written archive is never left.
    pub(super) fn write(&self, entries: &[Entry], output: &Path) -> Result<String> {
        let folder = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let unwritable = || format!("cannot write {}", output.display());
        let mut layer = tempfile::tempfile_in(folder).with_context(unwritable)?;
        layer::write(entries, &mut layer)?;
        let packed = NamedTempFile::new_in(folder).with_context(unwritable)?;
        let digest = self.write_layout(&mut layer, packed.as_file())?;
        packed.persist(output).with_context(unwritable)?;
        Ok(digest)
    }

    fn write_layout(&self, layer: &mut File, out: &File) -> Result<String> {
        let mut archive = Builder::new(out);
        append(
            &mut archive,
            "oci-layout",
            &serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?,
        )?;

        layer.seek(SeekFrom::Start(0))?;
        let layer_blob = Blob::of(&mut *layer)?;
        layer.seek(SeekFrom::Start(0))?;
        append_from(&mut archive, &layer_blob.path(), layer_blob.size, layer)?;

        let config_blob = append_json(&mut archive, &self.config(&layer_blob))?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config_blob.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer_blob.descriptor("application/vnd.oci.image.layer.v1.tar")],
        });
        let manifest_blob = append_json(&mut archive, &manifest)?;
        let mut described = manifest_blob.descriptor("application/vnd.oci.image.manifest.v1+json");
        described["platform"] = json!({"os": "linux", "architecture": self.arch});
        described["annotations"] = json!({
            // The first is containerd's, whole; the second is the specification's, for other tools.
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described],
        });
        append(&mut archive, "index.json", &serde_json::to_vec(&index)?)?;
        archive.finish()?;
        Ok(manifest_blob.digest)
    }

    fn config(&self, layer: &Blob) -> Value {
        json!({
            "architecture": self.arch,
            "os": "linux",
            "config": {
                "User": self.user,
                "Env": self.env,
                "Entrypoint": self.entrypoint,
                "WorkingDir": self.workdir,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        })
    }
}

impl Blob {
    fn of(mut content: impl Read) -> Result<Self> {
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            size += read as u64;
        }
        let mut digest = "sha256:".to_owned();
        for byte in hash.finalize() {
            write!(digest, "{byte:02x}")?;
        }
        Ok(Self { digest, size })
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.size})
    }
}

fn append_json(archive: &mut Builder<impl io::Write>, value: &Value) -> Result<Blob> {
    let bytes = serde_json::to_vec(value)?;
    let blob = Blob::of(bytes.as_slice())?;
    append(archive, &blob.path(), &bytes)?;
    Ok(blob)
}

fn append(archive: &mut Builder<impl io::Write>, path: &str, bytes: &[u8]) -> Result<()> {
    append_from(archive, path, bytes.len() as u64, bytes)
}

fn append_from(
    archive: &mut Builder<impl io::Write>,
    path: &str,
    size: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_mode(0o644);
    header.set_size(size);
    Ok(archive.append_data(&mut header, path, content)?)
}
