//! A layer: files as a tar archive (OCI image layer), the same bytes for the same content.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tar::{Builder, EntryType, Header};

/// Something at a path in the image.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Relative to the root, as in a tar archive.
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    File { from: PathBuf, mode: u32 },
    Folder { mode: u32 },
    Link { target: PathBuf },
}

impl Entry {
    pub(super) fn link(path: &str, target: &str) -> Self {
        Self {
            path: relative(path),
            content: Content::Link {
                target: target.into(),
            },
        }
    }
}

/// A file, or a folder with everything in it, as entries at `to`.
pub(super) fn collect(from: &Path, to: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let path = relative(to);
    // What is named is followed if it is a link; what is found inside a folder is kept as it is.
    let found = fs::metadata(from)?;
    if found.is_dir() {
        add_folder(&mut entries, from, &path)?;
    } else {
        entries.push(Entry {
            path,
            content: Content::File {
                from: from.to_owned(),
                mode: found.permissions().mode() & 0o7777,
            },
        });
    }
    Ok(entries)
}

fn add_folder(entries: &mut Vec<Entry>, from: &Path, to: &Path) -> Result<()> {
    let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
    entries.push(Entry {
        path: to.to_owned(),
        content: Content::Folder { mode },
    });
    for child in fs::read_dir(from)? {
        let child = child?;
        let (from, to) = (child.path(), to.join(child.file_name()));
        let kind = child.file_type()?;
        let content = if kind.is_dir() {
            add_folder(entries, &from, &to)?;
            continue;
        } else if kind.is_symlink() {
            Content::Link {
                target: fs::read_link(&from)?,
            }
        } else if kind.is_file() {
            Content::File {
                mode: child.metadata()?.permissions().mode() & 0o7777,
                from,
            }
        } else {
            bail!("{}: neither a file, a folder nor a link", from.display());
        };
        entries.push(Entry { path: to, content });
    }
    Ok(())
}

/// Writes the entries in the order of their paths, each folder before what is in it; a later entry takes the place
/// of an earlier one at the same path.
pub(super) fn write(entries: &[Entry], out: impl Write) -> Result<()> {
    let mut by_path: BTreeMap<&Path, &Content> = BTreeMap::new();
    for entry in entries {
        for parent in entry
            .path
            .ancestors()
            .skip(1)
            .filter(|path| !path.as_os_str().is_empty())
        {
            by_path.entry(parent).or_insert(&Content::Folder { mode: 0o755 });
        }
        by_path.insert(&entry.path, &entry.content);
    }
    let mut archive = Builder::new(out);
    for (path, content) in by_path
        .into_iter()
        .filter(|(path, _)| !path.as_os_str().is_empty())
    {
        append(&mut archive, path, content).with_context(|| format!("/{}", path.display()))?;
    }
    archive.finish()?;
    Ok(())
}

fn append(archive: &mut Builder<impl Write>, path: &Path, content: &Content) -> Result<()> {
    // Times and owners stay at zero.
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    match content {
        Content::Folder { mode } => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(*mode);
            header.set_size(0);
            archive.append_data(&mut header, path, io::empty())?;
        }
        Content::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, path, target)?;
        }
        Content::File { from, mode } => {
            let file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(file.metadata()?.len());
            archive.append_data(&mut header, path, file)?;
        }
    }
    Ok(())
}

fn relative(path: &str) -> PathBuf {
    PathBuf::from(path.trim_matches('/'))
}
