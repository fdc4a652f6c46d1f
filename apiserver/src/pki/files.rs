//! Certificates and keys on disk: whole or not at all, keys for their owner alone.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::{KeyPairPem, PkiError};
use crate::config::KeyPairFiles;

pub(super) fn make_private_folder(folder: &Path) -> Result<(), PkiError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|cause| PkiError::Write {
            path: folder.to_owned(),
            cause,
        })
}

pub(super) fn read_pair(pair: &KeyPairFiles) -> Result<KeyPairPem, PkiError> {
    Ok(KeyPairPem {
        certificate: read(&pair.certificate)?,
        key: read(&pair.key)?,
    })
}

/// The key first: a certificate without its key would look like half a pair that someone took apart.
pub(super) fn write_pair(pair: &KeyPairFiles, pem: &KeyPairPem) -> Result<(), PkiError> {
    write(&pair.key, &pem.key, 0o600)?;
    write(&pair.certificate, &pem.certificate, 0o644)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|cause| PkiError::Read {
        path: path.to_owned(),
        cause,
    })
}

/// Beside the file first, then in its place, so that no reader ever sees a part of it.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |cause| PkiError::Write {
        path: path.to_owned(),
        cause,
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // What a crash left may have another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .map_err(failed)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed),
        None => Ok(()),
    }
}
