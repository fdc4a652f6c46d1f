use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::registration::fixtures::Ca;

const HOUR: Duration = Duration::from_hours(1);

fn answer(ca: &Ca, node: &str, request: &Request, life: Duration) -> String {
    let key = rcgen::CertificateSigningRequestParams::from_pem(&request.pem).unwrap();
    ca.sign(node, &key.public_key, life)
}

#[test]
fn a_stored_identity_is_there_after_a_restart_and_its_key_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new("ours");
    let keyring = Keyring::open(dir.path().join("pki")).unwrap();
    assert_eq!(keyring.load().unwrap(), None);
    let request = keyring.request("node-1").unwrap();
    let mode = |file: &str| {
        fs::metadata(dir.path().join("pki").join(file))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        mode("pending.key"),
        0o600,
        "the key is on disk before the request is seen"
    );
    let certificate = answer(&ca, "node-1", &request, HOUR);
    let identity = keyring.store(request, certificate, ca.pem.clone()).unwrap();
    assert_eq!(mode("node.pem"), 0o600);
    assert!(!dir.path().join("pki/pending.key").exists());
    assert_eq!(keyring.load().unwrap(), Some(identity.clone()));
    assert_eq!(identity.node, "node-1");
    assert!(!format!("{identity:?}").contains("KEY"));
}

#[test]
fn a_request_after_a_crash_has_the_same_key_and_a_renewal_another() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new("ours");
    let keyring = Keyring::open(dir.path().to_owned()).unwrap();
    let first = keyring.request("node-1").unwrap();
    let second = keyring.request("node-1").unwrap();
    assert_eq!(first.key, second.key);
    let certificate = answer(&ca, "node-1", &second, HOUR);
    let identity = keyring.store(second, certificate, ca.pem.clone()).unwrap();
    assert_ne!(keyring.request("node-1").unwrap().key, identity.key);
}

#[test]
fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new("ours");
    let keyring = Keyring::open(dir.path().to_owned()).unwrap();
    let request = keyring.request("node-1").unwrap();
    let certificate = answer(&ca, "node-1", &request, HOUR * 3);
    let identity = keyring.store(request, certificate, ca.pem).unwrap();
    let at = identity.renew_at().duration_since(identity.not_before).unwrap();
    assert!(at.abs_diff(HOUR * 2) <= Duration::from_secs(2), "{at:?}");
    assert!(!identity.is_expired(identity.renew_at()));
    assert!(identity.is_expired(identity.not_after));
}

#[test]
fn a_file_that_is_no_identity_is_named_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = Keyring::open(dir.path().to_owned()).unwrap();
    fs::write(dir.path().join("ca.crt"), "x").unwrap();
    fs::write(dir.path().join("node.pem"), "garbage").unwrap();
    let error = keyring.load().unwrap_err().to_string();
    assert!(
        error.contains("node.pem") && error.contains("join again"),
        "{error}"
    );
}
