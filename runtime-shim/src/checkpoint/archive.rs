//! The file of a checkpoint.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use containerd_client::types::Mount;

/// What goes into the archive.
#[derive(Debug)]
pub(super) struct Content {
    /// Holds `checkpoint/` and CRIU's log.
    pub(super) work: PathBuf,
    pub(super) config: serde_json::Value,
    pub(super) spec: Vec<u8>,
    /// The folder of what the container has written; none for a snapshotter that has no such folder.
    pub(super) written: Option<PathBuf>,
}

/// The upper folder of an overlay.
pub(super) fn upper_dir(mounts: &[Mount]) -> Option<PathBuf> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    let mut upper = options.filter_map(|option| option.strip_prefix("upperdir="));
    upper.next().map(PathBuf::from)
}

/// Whole or not at all: under another name until it is complete. Only its owner reads it, since it holds the memory of
/// processes.
pub(super) fn write(content: &Content, location: &Path) -> io::Result<()> {
    let mut name = location.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = location.with_file_name(name);
    let written = write_to(content, &part).and_then(|()| fs::rename(&part, location));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn write_to(content: &Content, path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut tar = tar::Builder::new(file);
    tar.follow_symlinks(false);
    tar.append_dir_all("checkpoint", content.work.join("checkpoint"))?;
    let log = content.work.join("dump.log");
    if log.exists() {
        tar.append_path_with_name(log, "dump.log")?;
    }
    append(&mut tar, "config.dump", content.config.to_string().as_bytes())?;
    append(&mut tar, "spec.dump", &content.spec)?;
    if let Some(upper) = &content.written {
        // To a file first: the size of an entry stands before it.
        let mut diff = tar::Builder::new(tempfile::tempfile_in(&content.work)?);
        diff.follow_symlinks(false);
        append_layer(&mut diff, upper, Path::new(""))?;
        let mut diff = diff.into_inner()?;
        let mut header = header(diff.metadata()?.len());
        io::Seek::rewind(&mut diff)?;
        tar.append_data(&mut header, "rootfs-diff.tar", diff)?;
    }
    let mut file = tar.into_inner()?;
    file.flush()?;
    file.sync_all()
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header
}

fn append(tar: &mut tar::Builder<File>, name: &str, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(content.len() as u64), name, content)
}

/// A folder of an overlay as an image layer: what was deleted becomes an entry that says so (OCI image spec, "Whiteouts").
fn append_layer(tar: &mut tar::Builder<File>, root: &Path, inside: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root.join(inside))? {
        let entry = entry?;
        let name = inside.join(entry.file_name());
        let found = entry.path().symlink_metadata()?;
        let kind = found.file_type();
        if kind.is_char_device() && found.rdev() == 0 {
            let mut whiteout = std::ffi::OsString::from(".wh.");
            whiteout.push(entry.file_name());
            append_named(tar, &inside.join(whiteout))?;
        } else if kind.is_dir() {
            tar.append_path_with_name(entry.path(), &name)?;
            if is_opaque(&entry.path()) {
                append_named(tar, &name.join(".wh..wh..opq"))?;
            }
            append_layer(tar, root, &name)?;
        } else if !kind.is_socket() {
            tar.append_path_with_name(entry.path(), &name)?;
        }
    }
    Ok(())
}

fn append_named(tar: &mut tar::Builder<File>, path: &Path) -> io::Result<()> {
    tar.append_data(&mut header(0), path, io::empty())
}

/// Whether a folder hides what lies below it.
fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 1];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..]).is_ok_and(|length| length == 1)
        && value == *b"y"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn entries(file: impl io::Read) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(file);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, content)
        });
        entries.collect()
    }

    #[test]
    fn an_archive_holds_images_metadata_and_what_was_written_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        fs::create_dir_all(work.join("checkpoint")).unwrap();
        fs::write(work.join("checkpoint/pages-1.img"), "memory").unwrap();
        fs::write(work.join("dump.log"), "fine").unwrap();
        let upper = dir.path().join("upper");
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/new"), "text").unwrap();
        let device = rustix::fs::makedev(0, 0);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            upper.join("etc/gone"),
            kind,
            rustix::fs::Mode::empty(),
            device,
        )
        .unwrap();
        let content = Content {
            work,
            config: serde_json::json!({"name": "main"}),
            spec: b"{}".to_vec(),
            written: Some(upper),
        };
        let location = dir.path().join("out.tar");
        write(&content, &location).unwrap();
        assert_eq!(fs::metadata(&location).unwrap().mode() & 0o777, 0o600);
        let all = entries(File::open(&location).unwrap());
        assert_eq!(all["checkpoint/pages-1.img"], b"memory");
        assert_eq!(all["config.dump"], br#"{"name":"main"}"#);
        let layer = entries(&all["rootfs-diff.tar"][..]);
        assert_eq!(layer["etc/new"], b"text");
        assert!(layer.contains_key("etc/.wh.gone"), "{:?}", layer.keys());
    }

    #[test]
    fn an_archive_that_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content {
            work: dir.path().join("absent"),
            config: serde_json::Value::Null,
            spec: Vec::new(),
            written: None,
        };
        write(&content, &dir.path().join("out.tar")).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_upper_folder_is_told_by_the_overlays_options() {
        let mount = Mount {
            options: vec!["index=off".into(), "workdir=/w".into(), "upperdir=/u/fs".into()],
            ..Default::default()
        };
        assert_eq!(upper_dir(&[mount]), Some("/u/fs".into()));
        assert_eq!(upper_dir(&[]), None);
    }
}
