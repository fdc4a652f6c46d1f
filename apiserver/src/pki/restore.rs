//! The root CA of a backup, back in an apiserver's folder: the nodes that trust it find their cluster again.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::{Authority, KeyPairPem, PkiError, files, pair};
use crate::{backup::Existing, config::KeyPairFiles};

/// A root CA for a folder, of which nothing was written yet.
pub struct RootCa {
    pem: KeyPairPem,
    folder: PathBuf,
    files: KeyPairFiles,
}

impl fmt::Debug for RootCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootCa")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl RootCa {
    /// Certificate and key in PEM, for an apiserver's data folder; refused where that has another.
    pub fn check(
        certificate: &str,
        key: &str,
        data_dir: &Path,
        existing: Existing,
    ) -> Result<Self, PkiError> {
        let pem = KeyPairPem {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        Authority::check(&pem)?;
        let folder = data_dir.join("pki");
        let files = pair(&folder, "ca");
        let present = match files::read_pair(&files) {
            Ok(present) => Some(present),
            Err(PkiError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let is_another = present.is_some_and(|present| present.certificate.trim() != certificate.trim());
        if is_another && existing == Existing::Refuse {
            return Err(PkiError::AnotherCa {
                path: files.certificate,
            });
        }
        Ok(Self { pem, folder, files })
    }

    /// Certificates of another CA are made anew at the next start.
    pub fn write(&self) -> Result<(), PkiError> {
        files::make_private_folder(&self.folder)?;
        files::write_pair(&self.files, &self.pem)
    }
}
