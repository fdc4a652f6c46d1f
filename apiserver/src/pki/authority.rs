//! The root CA and what it signs.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    extensions::GeneralName,
    pem::parse_x509_pem,
    prelude::{FromDer as _, X509Certificate},
};

use super::{PkiError, files};
use crate::{
    access::identity::{ADMINS, NODE_PREFIX, NODES},
    config::KeyPairFiles,
};

const DAY: Duration = Duration::from_hours(24);
const CA_LIFETIME: Duration = DAY.saturating_mul(3_650);
/// Of every other certificate.
const LIFETIME: Duration = DAY.saturating_mul(365);
/// A certificate with less than this to go is made anew.
const RENEW_BEFORE: Duration = DAY.saturating_mul(60);
/// Certificates are valid from a little before they are made, for peers whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// A certificate request is a few hundred bytes; far more is not one.
const LARGEST_REQUEST: usize = 16 * 1024;

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct KeyPairPem {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl fmt::Debug for KeyPairPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPairPem").finish_non_exhaustive()
    }
}

/// Why a certificate request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateRequestError {
    #[error("is {0} bytes, far more than a certificate request has")]
    TooLong(usize),
    #[error("is not a PKCS #10 certificate request in PEM with a valid signature: {0}")]
    Unreadable(rcgen::Error),
}

/// Of a pair.
#[derive(Debug, Clone, Copy)]
enum Part {
    Certificate,
    Key,
}

/// The root CA.
pub(crate) struct Authority {
    certificate: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new root CA.
    pub(super) fn make(now: SystemTime) -> Result<KeyPairPem, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(None, "clone8s root CA", now, CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        Ok(KeyPairPem {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    pub(super) fn load(pair: &KeyPairFiles) -> Result<Self, PkiError> {
        Self::parse(files::read_pair(pair)?).map_err(|(part, what)| PkiError::Unusable {
            path: match part {
                Part::Certificate => pair.certificate.clone(),
                Part::Key => pair.key.clone(),
            },
            what,
        })
    }

    /// Whether they could be a root CA and its key.
    pub(super) fn check(pem: &KeyPairPem) -> Result<(), PkiError> {
        Self::parse(pem.clone())
            .map(drop)
            .map_err(|(_, what)| PkiError::BadCa { what })
    }

    /// An error says which of the two is wrong, and how.
    fn parse(pem: KeyPairPem) -> Result<Self, (Part, String)> {
        let key = KeyPair::from_pem(&pem.key)
            .map_err(|error| (Part::Key, format!("not a private key in PEM: {error}")))?;
        let not_a_certificate = || (Part::Certificate, "not a certificate in PEM".to_owned());
        let (_, block) = parse_x509_pem(pem.certificate.as_bytes()).map_err(|_| not_a_certificate())?;
        let certificate = block.parse_x509().map_err(|_| not_a_certificate())?;
        if !certificate.is_ca() {
            return Err((Part::Certificate, "not the certificate of a CA".into()));
        }
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err((Part::Key, "not the key of the CA's certificate".into()));
        }
        let der = block.contents.clone();
        let issuer = Issuer::from_ca_cert_der(&der.as_slice().into(), key)
            .map_err(|error| (Part::Certificate, error.to_string()))?;
        Ok(Self {
            certificate: pem.certificate,
            der,
            issuer,
        })
    }

    /// Whoever has it can make certificates of any name.
    pub(crate) fn pair(&self) -> KeyPairPem {
        KeyPairPem {
            certificate: self.certificate.clone(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    /// In PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the certificate's DER in hex: what a join token pins.
    pub(crate) fn fingerprint(&self) -> String {
        hex(&Sha256::digest(&self.der))
    }

    pub(super) fn sign_server(&self, names: &[String], now: SystemTime) -> Result<KeyPairPem, PkiError> {
        let mut params = params(None, "clone8s apiserver", now, LIFETIME);
        for name in names {
            let alone = CertificateParams::new(vec![name.clone()])
                .map_err(|_| PkiError::Name { name: name.clone() })?;
            params.subject_alt_names.extend(alone.subject_alt_names);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign_new(&params)
    }

    pub(super) fn sign_admin(&self, name: &str, now: SystemTime) -> Result<KeyPairPem, PkiError> {
        let mut params = params(Some(ADMINS), name, now, LIFETIME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_new(&params)
    }

    /// A client certificate for a node and the key in its request; nothing else in the request counts.
    pub(crate) fn sign_node(
        &self,
        request: &str,
        node: &str,
        now: SystemTime,
    ) -> Result<String, CertificateRequestError> {
        if request.len() > LARGEST_REQUEST {
            return Err(CertificateRequestError::TooLong(request.len()));
        }
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(CertificateRequestError::Unreadable)?;
        let mut params = params(Some(NODES), &format!("{NODE_PREFIX}{node}"), now, LIFETIME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(CertificateRequestError::Unreadable)?;
        Ok(signed.pem())
    }

    /// SHA-256 of the public key that a certificate request is for.
    pub(crate) fn requested_key(request: &str) -> Result<Vec<u8>, CertificateRequestError> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(CertificateRequestError::Unreadable)?;
        Ok(Sha256::digest(request.public_key.subject_public_key_info()).to_vec())
    }

    /// Whether a certificate of ours goes on for long enough and has all of these names.
    pub(super) fn vouches_for(&self, pem: &str, names: &[String], now: SystemTime) -> bool {
        let Ok((_, block)) = parse_x509_pem(pem.as_bytes()) else {
            return false;
        };
        let (Ok(certificate), Ok((_, ca))) = (block.parse_x509(), X509Certificate::from_der(&self.der))
        else {
            return false;
        };
        let not_after = certificate.validity().not_after.timestamp();
        let needed = (now + RENEW_BEFORE)
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let lasts = i64::try_from(needed.as_secs()).is_ok_and(|needed| not_after > needed);
        lasts
            && certificate.verify_signature(Some(ca.public_key())).is_ok()
            && names.iter().all(|name| carries(&certificate, name))
    }

    fn sign_new(&self, params: &CertificateParams) -> Result<KeyPairPem, PkiError> {
        let key = KeyPair::generate()?;
        Ok(KeyPairPem {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn params(
    organization: Option<&str>,
    common_name: &str,
    now: SystemTime,
    lifetime: Duration,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    let text = |text: &str| DnValue::Utf8String(text.to_owned());
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params
            .distinguished_name
            .push(DnType::OrganizationName, text(organization));
    }
    params
        .distinguished_name
        .push(DnType::CommonName, text(common_name));
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
    // 16 random bytes, positive: a certificate made again for the same key is another certificate.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn carries(certificate: &X509Certificate<'_>, name: &str) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let address = name
        .parse::<std::net::IpAddr>()
        .ok()
        .map(|address| match address {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        });
    names
        .value
        .general_names
        .iter()
        .any(|held| match (held, &address) {
            (GeneralName::DNSName(held), None) => *held == name,
            (GeneralName::IPAddress(held), Some(address)) => *held == address.as_slice(),
            _ => false,
        })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
