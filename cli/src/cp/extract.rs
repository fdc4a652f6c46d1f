//! What comes from a container: an archive that is not trusted.
//!
//! Nothing is written but below the target: a path that leads out of it is an error, and nothing is written through a
//! link, whether it came with the archive or was there before. A link that points out of the target is left out.

use std::{
    fs::{self, Permissions},
    io::{self, Read},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes};
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

/// Writes the archive's only file or folder, `name`, as `target`. It blocks while the container is slow.
pub(super) fn all(parts: mpsc::Receiver<Bytes>, name: &str, target: &Path) -> Result<()> {
    let mut parts = Parts {
        parts,
        rest: Bytes::new(),
    };
    let tree = Tree { name, target };
    let mut folders = Vec::new();
    let mut archive = Archive::new(&mut parts);
    for entry in archive.entries().context("the container's archive")? {
        let mut entry = entry.context("the container's archive")?;
        if let Some(folder) = tree.write(&mut entry)? {
            folders.push(folder);
        }
    }
    // Last, and the deepest first: a folder may forbid to write into it.
    for (folder, mode) in folders.into_iter().rev() {
        let mode = Permissions::from_mode(mode & 0o777);
        fs::set_permissions(&folder, mode).with_context(|| folder.display().to_string())?;
    }
    // The padding; tar in the container waits until somebody takes it.
    io::copy(&mut parts, &mut io::sink())?;
    Ok(())
}

/// What is written, and where it comes from.
struct Tree<'a> {
    /// In the archive.
    name: &'a str,
    target: &'a Path,
}

impl Tree<'_> {
    /// The mode of a folder that it has made is for later.
    fn write(&self, entry: &mut Entry<'_, impl Read>) -> Result<Option<(PathBuf, u32)>> {
        let path = entry.path()?.into_owned();
        let relative = self.relative(&path)?;
        let target = self.place(&relative)?;
        let failed = || format!("cannot write {}", target.display());
        match entry.header().entry_type() {
            EntryType::Directory => {
                if has_folder(&relative, &target) {
                    return Ok(None);
                }
                fs::create_dir(&target).with_context(failed)?;
                return Ok(Some((target, entry.header().mode()?)));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                entry.unpack(&target).with_context(failed)?;
            }
            EntryType::Symlink => {
                let to = entry
                    .link_name()?
                    .context("a link without a target")?
                    .into_owned();
                if !stays_inside(&relative, &to) {
                    eprintln!(
                        "left out: {} points to {}, out of what is copied",
                        target.display(),
                        to.display()
                    );
                    return Ok(None);
                }
                remove_file(&target).with_context(failed)?;
                symlink(&to, &target).with_context(failed)?;
            }
            EntryType::Link => {
                let to = entry.link_name()?.context("a link without a target")?;
                let original = self.place(&self.relative(&to)?)?;
                remove_file(&target).with_context(failed)?;
                fs::hard_link(&original, &target).with_context(failed)?;
            }
            other => eprintln!(
                "left out: {} is neither file, folder nor link ({other:?})",
                target.display()
            ),
        }
        Ok(None)
    }

    /// An entry's path below the target.
    fn relative(&self, path: &Path) -> Result<PathBuf> {
        let mut relative = PathBuf::new();
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(part) => relative.push(part),
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    bail!(
                        "refused: the container's archive has a path that leads out of it: {}",
                        path.display()
                    )
                }
            }
        }
        if self.name == "." {
            return Ok(relative);
        }
        let below = relative.strip_prefix(self.name);
        let below = below.with_context(|| {
            format!(
                "refused: the container's archive has {}, which was not asked for",
                path.display()
            )
        })?;
        Ok(below.to_owned())
    }

    /// Where an entry goes; not through a link.
    fn place(&self, relative: &Path) -> Result<PathBuf> {
        let mut place = self.target.to_owned();
        let mut parts = relative.components().peekable();
        while let Some(part) = parts.next() {
            place.push(part);
            let is_last = parts.peek().is_none();
            let is_link = fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink());
            ensure!(
                is_last || !is_link,
                "refused: the container's archive goes through the link {}",
                place.display()
            );
        }
        Ok(place)
    }
}

/// The target itself may be a link of whoever asked; nothing below it.
fn has_folder(relative: &Path, target: &Path) -> bool {
    if relative.as_os_str().is_empty() {
        return target.is_dir();
    }
    fs::symlink_metadata(target).is_ok_and(|found| found.is_dir())
}

/// Whether a link at `relative` points to something of the copy. It may go up only at first: after a name, which may be
/// a link's, nobody knows where "up" is.
fn stays_inside(relative: &Path, to: &Path) -> bool {
    let Some(folder) = relative.parent() else {
        return false;
    };
    let ups = to
        .components()
        .take_while(|part| *part == Component::ParentDir)
        .count();
    ups <= folder.components().count()
        && to
            .components()
            .skip(ups)
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What has come of the archive.
struct Parts {
    parts: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.rest = part,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
