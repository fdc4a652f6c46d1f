//! The cluster's certificates: one root CA, which signs the server's, the administrator's and the nodes'.
//!
//! ```text
//! <data folder>/pki/ca.crt, ca.key                made once; every join token pins its fingerprint
//!                   apiserver.crt, apiserver.key  signed by it, renewed before its end and when names are added
//!                   admin.crt, admin.key          signed by it, for people and programs that administer over TLS
//! ```

mod authority;
mod files;
mod restore;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

pub(crate) use self::authority::{Authority, CertificateRequestError, KeyPairPem, hex};
pub use self::restore::RootCa;
use crate::config::{KeyPairFiles, TlsConfig};

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read {path}", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("cannot write {path}", path = .path.display())]
    Write {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{path}: {what}", path = .path.display())]
    Unusable { path: PathBuf, what: String },
    #[error(
        "{present} is there but {missing} is not: put the pair back, or remove both and let every node join again",
        present = .present.display(), missing = .missing.display()
    )]
    HalfAPair { present: PathBuf, missing: PathBuf },
    #[error("{name:?} is neither a DNS name nor an IP address that a certificate can carry")]
    Name { name: String },
    #[error(
        "{path}: another root CA than the backup's, which the nodes of this folder trust: choose another folder, or \
         take the backup's with --replace", path = .path.display()
    )]
    AnotherCa { path: PathBuf },
    #[error("the backup's root CA cannot be used: {what}")]
    BadCa { what: String },
    #[error("cannot make a key or sign a certificate")]
    Sign(#[from] rcgen::Error),
}

/// Where the certificates are, and what signs them.
#[derive(Debug)]
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    folder: PathBuf,
    /// In the server's certificate.
    names: Vec<String>,
    /// A server certificate made elsewhere.
    given_server: Option<KeyPairFiles>,
}

impl Pki {
    /// Loads the certificates, making those that are missing.
    pub(crate) fn open(
        data_dir: &Path,
        config: Option<&TlsConfig>,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let folder = data_dir.join("pki");
        files::make_private_folder(&folder)?;
        let authority = match config.and_then(|config| config.ca.as_ref()) {
            Some(given) => Authority::load(given)?,
            None => Self::own_authority(&folder, now)?,
        };
        let pki = Self {
            authority,
            folder,
            names: server_names(config.map_or(&[], |config| &config.names)),
            given_server: config.and_then(|config| config.server.clone()),
        };
        pki.refresh_admin(now)?;
        Ok(pki)
    }

    fn own_authority(folder: &Path, now: SystemTime) -> Result<Authority, PkiError> {
        let pair = pair(folder, "ca");
        match (pair.certificate.exists(), pair.key.exists()) {
            (true, true) => Authority::load(&pair),
            (false, false) => {
                let made = Authority::make(now)?;
                files::write_pair(&pair, &made)?;
                Authority::load(&pair)
            }
            (true, false) => Err(PkiError::HalfAPair {
                present: pair.certificate,
                missing: pair.key,
            }),
            (false, true) => Err(PkiError::HalfAPair {
                present: pair.key,
                missing: pair.certificate,
            }),
        }
    }

    /// The server's certificate and key as they should be now: given, kept, or made anew because there is none,
    /// because it ends soon, because another CA signed it, or because it lacks a name. The root CA follows it.
    pub(crate) fn server(&self, now: SystemTime) -> Result<KeyPairPem, PkiError> {
        let mut pair = self.server_pair(now)?;
        // A node that joins looks for the root that its token pins among what the server presents.
        if !pair.certificate.ends_with('\n') {
            pair.certificate.push('\n');
        }
        pair.certificate.push_str(self.authority.certificate());
        Ok(pair)
    }

    fn server_pair(&self, now: SystemTime) -> Result<KeyPairPem, PkiError> {
        if let Some(given) = &self.given_server {
            return files::read_pair(given);
        }
        let pair = pair(&self.folder, "apiserver");
        if let Ok(kept) = files::read_pair(&pair)
            && self.authority.vouches_for(&kept.certificate, &self.names, now)
        {
            return Ok(kept);
        }
        let made = self.authority.sign_server(&self.names, now)?;
        files::write_pair(&pair, &made)?;
        Ok(made)
    }

    /// Makes the administrator's certificate where it is missing or ends soon.
    pub(crate) fn refresh_admin(&self, now: SystemTime) -> Result<(), PkiError> {
        let pair = pair(&self.folder, "admin");
        if let Ok(kept) = files::read_pair(&pair)
            && self.authority.vouches_for(&kept.certificate, &[], now)
        {
            return Ok(());
        }
        files::write_pair(&pair, &self.authority.sign_admin("admin", now)?)
    }
}

fn pair(folder: &Path, name: &str) -> KeyPairFiles {
    KeyPairFiles {
        certificate: folder.join(format!("{name}.crt")),
        key: folder.join(format!("{name}.key")),
    }
}

/// The given names and those that always lead to this machine.
fn server_names(given: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for name in given {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests;
