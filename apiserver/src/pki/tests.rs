use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use x509_parser::prelude::*;

use super::*;
use crate::access::Identity;

const DAY: Duration = Duration::from_hours(24);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000
}

fn config(names: &[&str]) -> TlsConfig {
    TlsConfig {
        address: ([127, 0, 0, 1], 0).into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        server: None,
        ca: None,
    }
}

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .unwrap()
        .1
        .contents
}

/// A request that asks for everything it should not get.
fn greedy_request() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["apiserver.example".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:masters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    (request, key)
}

#[test]
fn the_first_start_makes_every_file_with_keys_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    pki.server(now()).unwrap();
    for (name, mode) in [
        ("ca.crt", 0o644),
        ("ca.key", 0o600),
        ("apiserver.crt", 0o644),
        ("apiserver.key", 0o600),
        ("admin.crt", 0o644),
        ("admin.key", 0o600),
    ] {
        let meta = fs::metadata(dir.path().join("pki").join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{name}");
    }
    let left = fs::read_dir(dir.path().join("pki")).unwrap().count();
    assert_eq!(left, 6, "nothing else is left");
}

#[test]
fn a_second_start_keeps_the_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), None, now()).unwrap();
    let server = first.server(now()).unwrap().certificate;
    let second = Pki::open(dir.path(), None, now() + DAY).unwrap();
    assert_eq!(first.authority.fingerprint(), second.authority.fingerprint());
    assert_eq!(second.server(now() + DAY).unwrap().certificate, server);
}

#[test]
fn the_server_certificate_is_made_anew_before_it_ends_and_for_a_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    let first = pki.server(now()).unwrap().certificate;
    let later = pki.server(now() + DAY * 310).unwrap().certificate;
    assert_ne!(first, later, "renewed in time");
    let named = Pki::open(dir.path(), Some(&config(&["api.example", "10.1.2.3"])), now()).unwrap();
    let certificate = named.server(now() + DAY * 310).unwrap().certificate;
    assert_ne!(later, certificate, "made for the new name");
    let der = der(&certificate);
    let names = X509Certificate::from_der(&der)
        .unwrap()
        .1
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names
        .len();
    assert_eq!(names, 5);
}

#[test]
fn half_a_ca_is_refused_by_its_missing_file() {
    let dir = tempfile::tempdir().unwrap();
    drop(Pki::open(dir.path(), None, now()).unwrap());
    fs::remove_file(dir.path().join("pki/ca.key")).unwrap();
    let error = Pki::open(dir.path(), None, now()).unwrap_err();
    assert!(error.to_string().contains("ca.key is not"), "{error}");
}

#[test]
fn a_ca_with_the_key_of_another_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(Pki::open(one.path(), None, now()).unwrap());
    drop(Pki::open(other.path(), None, now()).unwrap());
    fs::copy(other.path().join("pki/ca.key"), one.path().join("pki/ca.key")).unwrap();
    let error = Pki::open(one.path(), None, now()).unwrap_err();
    assert!(error.to_string().contains("not the key of"), "{error}");
}

#[test]
fn a_server_certificate_cannot_be_given_as_the_ca() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    pki.server(now()).unwrap();
    let mut config = config(&[]);
    config.ca = Some(pair(&dir.path().join("pki"), "apiserver"));
    let error = Pki::open(dir.path(), Some(&config), now()).unwrap_err();
    assert!(
        error.to_string().contains("not the certificate of a CA"),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&[]);
    config.ca = Some(pair(Path::new("/nowhere"), "ca"));
    let error = Pki::open(dir.path(), Some(&config), now()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /nowhere/ca.crt");
}

#[test]
fn a_name_that_no_certificate_can_carry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), Some(&config(&["größe"])), now()).unwrap();
    let error = pki.server(now()).unwrap_err();
    assert!(error.to_string().contains("größe"), "{error}");
}

#[test]
fn a_node_gets_a_client_certificate_for_its_name_whatever_it_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    let (request, key) = greedy_request();
    let pem = pki.authority.sign_node(&request, "n1", now()).unwrap();
    let der = der(&pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(Identity::of_certificate(&der), Identity::Node("n1".into()));
    assert_eq!(
        certificate.subject().to_string(),
        "O=system:nodes, CN=system:node:n1"
    );
    assert!(!certificate.is_ca());
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert_eq!(
        certificate.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
    let ca = X509Certificate::from_der(pki.authority.der()).unwrap().1;
    certificate.verify_signature(Some(ca.public_key())).unwrap();
}

#[test]
fn the_same_key_signed_twice_gives_two_serial_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    let (request, _) = greedy_request();
    let serial = || {
        let der = der(&pki.authority.sign_node(&request, "n1", now()).unwrap());
        X509Certificate::from_der(&der).unwrap().1.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[rstest::rstest]
#[case::empty("")]
#[case::words("not a request")]
#[case::long(&"x".repeat(100_000))]
#[case::a_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
fn what_is_not_a_request_is_refused(#[case] request: &str) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    assert!(pki.authority.sign_node(request, "n1", now()).is_err());
}

#[test]
fn a_request_with_a_broken_signature_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let mut der = request.der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let pem = pem_of(&der);
    assert!(pki.authority.sign_node(&pem, "n1", now()).is_err());
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    )
}

#[test]
fn the_administrators_certificate_is_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(Pki::open(dir.path(), None, now()).unwrap());
    let pem = fs::read_to_string(dir.path().join("pki/admin.crt")).unwrap();
    assert_eq!(
        Identity::of_certificate(&der(&pem)),
        Identity::Admin { name: "admin".into() }
    );
}

#[test]
fn keys_are_not_shown_when_printed() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), None, now()).unwrap();
    let shown = format!("{pki:?} {:?}", pki.server(now()).unwrap());
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
