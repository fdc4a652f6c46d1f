//! Certificates for tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::process::write_private;

/// A root CA that signs what it is asked to.
#[derive(Debug)]
pub struct Ca {
    dir: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM, in files and in memory.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    pub certificate: String,
    pub key: String,
}

impl Ca {
    /// A new CA that keeps its files in `dir`.
    pub fn new(dir: &Path, common_name: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        fs::write(dir.join("ca.pem"), &certificate)?;
        write_private(&dir.join("ca-key.pem"), &key.serialize_pem())?;
        Ok(Self {
            dir: dir.to_owned(),
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// The root certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn certificate_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub fn key_file(&self) -> PathBuf {
        self.dir.join("ca-key.pem")
    }

    /// A certificate for servers and clients alike, for localhost and the loopback addresses.
    pub fn issue(&self, common_name: &str) -> anyhow::Result<Pair> {
        self.issue_for(common_name, None)
    }

    /// [`Self::issue`] with an organization, which names a group.
    pub fn issue_for(&self, common_name: &str, organization: Option<&str>) -> anyhow::Result<Pair> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        if let Some(organization) = organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign")?.pem();
        let file = common_name.replace([':', '/', ' '], "-");
        let pair = Pair {
            certificate_file: self.dir.join(format!("{file}.pem")),
            key_file: self.dir.join(format!("{file}-key.pem")),
            certificate,
            key: key.serialize_pem(),
        };
        fs::write(&pair.certificate_file, &pair.certificate)?;
        write_private(&pair.key_file, &pair.key)?;
        Ok(pair)
    }
}
