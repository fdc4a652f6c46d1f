//! Reads the folder as it is.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::{Content, FileName, touches::Unsettled};

/// More than any manifest needs: a larger file is not one.
const LARGEST_FILE: u64 = 1 << 20;

/// Tells a folder from another that takes its path.
pub(super) type FolderId = (u64, u64);

pub(super) fn folder_id(dir: &Path) -> Option<FolderId> {
    let found = fs::metadata(dir).ok().filter(fs::Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

/// Every manifest file of the folder; fails when the folder itself cannot be read.
pub(super) fn scan(dir: &Path, unsettled: &Unsettled) -> io::Result<BTreeMap<FileName, Content>> {
    let mut contents = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if !is_manifest(&name) {
            continue;
        }
        if unsettled.contains(&name) {
            contents.insert(name, Content::Unsettled);
            continue;
        }
        match read(&dir.join(&name)) {
            Ok(Some(bytes)) => drop(contents.insert(name, Content::Bytes(bytes))),
            // A folder, a pipe, or gone since the listing.
            Ok(None) => {}
            Err(error) => drop(contents.insert(name, Content::Unreadable(error.to_string()))),
        }
    }
    Ok(contents)
}

/// Hidden files and the leavings of editors and copy tools do not end like a manifest, or start with a dot.
pub(super) fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Opening a pipe must not wait for its writer.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(nonblock).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!("larger than {LARGEST_FILE} bytes")));
    }
    Ok(Some(bytes))
}
