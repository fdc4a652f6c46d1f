//! Where things are in a tar file. Nothing of it is ever written to a path that the archive names.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom},
    path::{Component, Path},
};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// An archive has a handful of documents and a file for each layer of its images.
const MAX_ENTRIES: usize = 100_000;

/// Where an entry's bytes are in the plain tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Extent {
    /// None past what a file can have.
    pub(super) fn end(self) -> Option<u64> {
        self.offset.checked_add(self.size)
    }
}

/// The file as it is, or a nameless copy without its compression, refused over `limit` bytes.
pub(super) fn open_plain(path: &Path, limit: u64) -> io::Result<File> {
    let mut tar = File::open(path)?;
    let mut magic = Vec::new();
    (&mut tar).take(ZSTD.len() as u64).read_to_end(&mut magic)?;
    tar.seek(SeekFrom::Start(0))?;
    let unpacked: Box<dyn Read> = if magic.starts_with(&GZIP) {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(tar)))
    } else if magic == ZSTD {
        Box::new(zstd::Decoder::new(tar)?)
    } else {
        return Ok(tar);
    };
    let mut plain = tempfile::tempfile()?;
    if io::copy(&mut unpacked.take(limit.saturating_add(1)), &mut plain)? > limit {
        return Err(io::Error::other(format!("unpacks to more than {limit} bytes")));
    }
    plain.seek(SeekFrom::Start(0))?;
    Ok(plain)
}

/// Reads a part of a file at its own position, so that several can read at once.
pub(super) struct ExtentReader<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let length = std::os::unix::fs::FileExt::read_at(self.file, &mut buffer[..wanted], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Files, and links to files, by their path.
pub(super) fn index(tar: &File) -> io::Result<HashMap<String, Extent>> {
    let length = tar.metadata()?.len();
    let mut entries = HashMap::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(BufReader::new(tar));
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entries.len() + links.len() >= MAX_ENTRIES {
            return Err(io::Error::other(format!("has more than {MAX_ENTRIES} entries")));
        }
        let path = entry
            .path()?
            .to_string_lossy()
            .trim_start_matches("./")
            .to_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let extent = Extent {
                offset: entry.raw_file_position(),
                size: entry.size(),
            };
            if extent.end().is_none_or(|end| end > length) {
                return Err(io::Error::other(format!("ends within {path}: it is cut off")));
            }
            entries.insert(path, extent);
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
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}
