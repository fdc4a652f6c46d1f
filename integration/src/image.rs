//! Container images made here, without any build tool: files packed into one layer, with a configuration.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{Registry, command};

/// A file to be, a folder to copy, or a link.
#[derive(Debug, Clone)]
enum Entry {
    Bytes {
        path: String,
        mode: u32,
        bytes: Vec<u8>,
    },
    /// A file of this machine, with its mode.
    Copy {
        path: String,
        from: PathBuf,
    },
    Link {
        path: String,
        target: String,
    },
    Folder {
        path: String,
        mode: u32,
    },
}

/// An image in the making.
#[derive(Debug, Clone, Default)]
pub struct Image {
    entries: Vec<Entry>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    working_dir: String,
    user: String,
}

impl Image {
    /// An image with nothing in it.
    pub fn empty() -> Self {
        Self::default()
    }

    /// busybox with its applets in /bin, doing nothing for ever unless told otherwise.
    pub fn busybox() -> Self {
        let applets = [
            "sh", "sleep", "cat", "echo", "true", "false", "httpd", "wget", "hostname", "id", "env", "ls",
            "ip", "nc", "date", "head", "tail", "mkdir", "rm", "kill", "test", "grep", "sed", "seq", "stat",
            "touch", "cut", "mount", "paste", "ps", "readlink", "sort", "tr", "uniq", "unshare", "wc",
        ];
        let mut image = Self::empty()
            .copy("/bin/busybox", "/bin/busybox")
            .folder("/tmp", 0o1777)
            .folder("/etc", 0o755)
            .folder("/root", 0o700);
        for applet in applets {
            image = image.link(&format!("/bin/{applet}"), "busybox");
        }
        image
            .file(
                "/etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n\
                 web:x:1000:1001:web:/srv:/bin/false\n",
            )
            .file(
                "/etc/group",
                0o644,
                "root:x:0:\nadm:x:4:web\nweb:x:1001:\nnogroup:x:65534:\n",
            )
            .env("PATH", "/bin")
            .cmd(["/bin/sleep", "2147483647"])
    }

    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        let bytes = content.as_ref().to_vec();
        self.entries.push(Entry::Bytes {
            path: path.to_owned(),
            mode,
            bytes,
        });
        self
    }

    /// A file of this machine at another place in the image.
    #[must_use]
    pub fn copy(mut self, path: &str, from: impl Into<PathBuf>) -> Self {
        self.entries.push(Entry::Copy {
            path: path.to_owned(),
            from: from.into(),
        });
        self
    }

    /// A program of this machine with every library that it loads.
    pub fn program(self, path: &str, from: &Path) -> anyhow::Result<Self> {
        let mut image = self.copy(path, from);
        for library in libraries(from)? {
            image = image.copy(&library, &library);
        }
        Ok(image)
    }

    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.entries.push(Entry::Link {
            path: path.to_owned(),
            target: target.to_owned(),
        });
        self
    }

    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32) -> Self {
        self.entries.push(Entry::Folder {
            path: path.to_owned(),
            mode,
        });
        self
    }

    #[must_use]
    pub fn entrypoint<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.entrypoint = words.map(str::to_owned).to_vec();
        self
    }

    #[must_use]
    pub fn cmd<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.cmd = words.map(str::to_owned).to_vec();
        self
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push(format!("{key}={value}"));
        self
    }

    #[must_use]
    pub fn working_dir(mut self, path: &str) -> Self {
        path.clone_into(&mut self.working_dir);
        self
    }

    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Writes the image as an OCI archive (OCI image layout 1.0 in a tar file) that carries `reference`.
    pub fn write_archive(&self, path: &Path, reference: &str) -> anyhow::Result<()> {
        let layer_tar = self.layer()?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&layer_tar)?;
        let layer = gzip.finish()?;
        let config = json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.cmd,
                "Env": self.env,
                "WorkingDir": self.working_dir,
                "User": self.user,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer_tar)] },
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        })
        .to_string();
        let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        listed["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string();

        let mut archive =
            tar::Builder::new(File::create(path).with_context(|| format!("create {}", path.display()))?);
        append(
            &mut archive,
            "oci-layout",
            0o644,
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        append(&mut archive, "index.json", 0o644, index.as_bytes())?;
        for blob in [config.as_bytes(), manifest.as_bytes(), &layer] {
            let path = format!("blobs/{}", digest(blob).replace(':', "/"));
            append(&mut archive, &path, 0o644, blob)?;
        }
        archive.finish()?;
        Ok(())
    }

    /// Puts the image into the registry as `<name>:<tag>` and gives its whole reference.
    pub fn push(&self, registry: &Registry, name_and_tag: &str) -> anyhow::Result<String> {
        let reference = format!("{}/{name_and_tag}", registry.address());
        let archive = registry
            .scratch()
            .join(format!("{}.tar", name_and_tag.replace(['/', ':'], "-")));
        self.write_archive(&archive, &reference)?;
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            // The archive's own name holds a colon, which skopeo takes for the end of the path.
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{reference}"));
        if let Some((user, password)) = registry.credentials() {
            skopeo.arg("--dest-creds").arg(format!("{user}:{password}"));
        }
        if let Some(certificates) = registry.client_certificates() {
            skopeo.arg("--dest-cert-dir").arg(certificates);
        }
        command::run(&mut skopeo)?;
        fs::remove_file(&archive)?;
        Ok(reference)
    }

    fn layer(&self) -> anyhow::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            match entry {
                Entry::Bytes { path, mode, bytes } => append(&mut layer, relative(path), *mode, bytes)?,
                Entry::Copy { path, from } => {
                    let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
                    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(from)?.permissions());
                    append(&mut layer, relative(path), mode & 0o7777, &bytes)?;
                }
                Entry::Link { path, target } => {
                    let mut header = header(0, 0o777, tar::EntryType::Symlink);
                    layer.append_link(&mut header, relative(path), target)?;
                }
                Entry::Folder { path, mode } => {
                    let mut header = header(0, *mode, tar::EntryType::Directory);
                    layer.append_data(&mut header, format!("{}/", relative(path)), std::io::empty())?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }
}

fn append<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let mut header = header(bytes.len() as u64, mode, tar::EntryType::Regular);
    archive
        .append_data(&mut header, path, bytes)
        .with_context(|| format!("pack {path}"))
}

fn header(size: u64, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    // The same files always make the same image.
    header.set_mtime(0);
    header
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// The digest of some bytes, as images write it.
pub fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!("sha256:{hex}")
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// The machine's architecture in Go's words, which are those of image configurations.
pub fn architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("no name for the architecture {other} in an image"),
    }
}

/// What the dynamic linker loads for a program; nothing for a static one.
fn libraries(program: &Path) -> anyhow::Result<Vec<String>> {
    let output = command::output(Command::new("ldd").arg(program))?;
    let is_static =
        output.stdout.contains("statically linked") || output.stderr.contains("not a dynamic executable");
    ensure!(
        output.success || is_static,
        "ldd {}: {}",
        program.display(),
        output.stderr
    );
    Ok(output
        .stdout
        .lines()
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)".
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect())
}
