//! The node's certificate and key on disk.
//!
//! ```text
//! <data dir>/pki/ca.crt        the cluster's root CA
//!                node.pem      key and certificate in one file, so that a renewal replaces both at once
//!                pending.key   the key of a certificate that was asked for and has not come yet
//! ```

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use x509_parser::pem::Pem;

/// A node's name as its certificate has it.
const SUBJECT_PREFIX: &str = "system:node:";

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Keyring {
    dir: PathBuf,
}

/// What proves to the apiserver who this node is, and to this node who the apiserver is. All in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) ca: String,
    pub(super) node: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// After two thirds of its life a certificate is renewed.
    pub(super) fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 3 * 2
    }

    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.not_after <= now
    }
}

/// A certificate request and the key that it is for.
pub(super) struct Request {
    pub(super) pem: String,
    key: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read or write {path}", path = .path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{path}: {what}; remove the file and join again with a new token", path = .path.display())]
    Unusable { path: PathBuf, what: String },
    #[error("cannot make a key and a certificate request: {0}")]
    Request(#[from] rcgen::Error),
}

impl Keyring {
    /// Makes the folder where it is missing, for its owner alone.
    pub(super) fn open(dir: PathBuf) -> Result<Self, IdentityError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|cause| IdentityError::Io {
                path: dir.clone(),
                cause,
            })?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// None before the node has joined.
    pub(super) fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let (own, ca) = (self.dir.join("node.pem"), self.dir.join("ca.crt"));
        let (Some(text), Some(ca)) = (read(&own)?, read(&ca)?) else {
            return Ok(None);
        };
        let unusable = |what: &str| IdentityError::Unusable {
            path: own.clone(),
            what: what.to_owned(),
        };
        let start = text
            .find("-----BEGIN CERTIFICATE-----")
            .ok_or_else(|| unusable("holds no certificate"))?;
        let (key, certificate) = text.split_at(start);
        KeyPair::from_pem(key).map_err(|_| unusable("holds no private key"))?;
        identity(certificate.to_owned(), key.to_owned(), ca)
            .map(Some)
            .map_err(|what| unusable(&what))
    }

    /// A request with a key that is on disk before anybody sees the request, so that an answer is never without its
    /// key; after a crash the same key is asked for again.
    pub(super) fn request(&self, node: &str) -> Result<Request, IdentityError> {
        let path = self.dir.join("pending.key");
        let pending = read(&path)?.and_then(|pem| KeyPair::from_pem(&pem).ok());
        let key = if let Some(key) = pending {
            key
        } else {
            let key = KeyPair::generate()?;
            write(&path, &key.serialize_pem(), 0o600)?;
            key
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("{SUBJECT_PREFIX}{node}"));
        Ok(Request {
            pem: params.serialize_request(&key)?.pem()?,
            key: key.serialize_pem(),
        })
    }

    /// Puts an answer on disk; the answer to the next request is for another key.
    pub(super) fn store(
        &self,
        request: Request,
        certificate: String,
        ca: String,
    ) -> Result<Identity, IdentityError> {
        let path = self.dir.join("node.pem");
        let unusable = |what: String| IdentityError::Unusable {
            path: path.clone(),
            what,
        };
        let both = format!("{}{certificate}", request.key);
        let identity = identity(certificate, request.key, ca).map_err(unusable)?;
        write(&self.dir.join("ca.crt"), &identity.ca, 0o644)?;
        write(&path, &both, 0o600)?;
        let pending = self.dir.join("pending.key");
        fs::remove_file(&pending).map_err(|cause| IdentityError::Io { path: pending, cause })?;
        Ok(identity)
    }
}

fn identity(certificate: String, key: String, ca: String) -> Result<Identity, String> {
    let (node, not_before, not_after) = read_certificate(&certificate)?;
    Ok(Identity {
        certificate,
        key,
        ca,
        node,
        not_before,
        not_after,
    })
}

fn read_certificate(pem: &str) -> Result<(String, SystemTime, SystemTime), String> {
    let block = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .and_then(Result::ok)
        .ok_or("holds no certificate in PEM")?;
    let certificate = block.parse_x509().map_err(|_| "holds no X.509 certificate")?;
    let node = certificate
        .subject()
        .iter_common_name()
        .find_map(|name| name.as_str().ok()?.strip_prefix(SUBJECT_PREFIX))
        .ok_or_else(|| {
            format!(
                "holds a certificate that is not for a node ({})",
                certificate.subject()
            )
        })?
        .to_owned();
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    let validity = certificate.validity();
    Ok((
        node,
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    ))
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(IdentityError::Io {
            path: path.to_owned(),
            cause,
        }),
    }
}

/// Whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let beside = path.with_extension("new");
    let attempt = || -> io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    attempt().map_err(|cause| IdentityError::Io {
        path: path.to_owned(),
        cause,
    })
}

#[cfg(test)]
mod tests;
