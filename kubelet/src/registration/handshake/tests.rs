use clone8s_daemon::clock;
use tokio::{io::AsyncReadExt as _, task::JoinSet};

use super::*;
use crate::registration::fixtures::{Ca, Clerk, any_port, serve, silent_port};

async fn server(tasks: &mut JoinSet<()>, ca: Ca) -> (Address, Clerk) {
    let clerk = Clerk::new(ca);
    let at = serve(tasks, &clerk, any_port().await).await;
    (Address::parse(&format!("https://{at}")).unwrap(), clerk)
}

#[tokio::test]
async fn the_pinned_root_is_found_in_what_the_server_presents() {
    let mut tasks = JoinSet::new();
    let (address, clerk) = server(&mut tasks, Ca::new("ours")).await;
    let pin = Fingerprint::of(&clerk.ca.der);
    let root = pinned_root(&address, pin, clock::now()).await.unwrap();
    assert_eq!(&*root, clerk.ca.der.as_slice());
}

#[tokio::test]
async fn another_clusters_root_is_refused_with_both_fingerprints() {
    let mut tasks = JoinSet::new();
    let (address, clerk) = server(&mut tasks, Ca::new("theirs")).await;
    let pin = Fingerprint::of(&Ca::new("ours").der);
    let error = pinned_root(&address, pin, clock::now()).await.unwrap_err();
    assert!(matches!(error, HandshakeError::WrongCa { .. }), "{error}");
    let words = error.to_string();
    assert!(words.contains(&pin.to_string()), "{words}");
    assert!(
        words.contains(&Fingerprint::of(&clerk.ca.der).to_string()),
        "{words}"
    );
    assert!(words.contains("CN=theirs"), "{words}");
}

#[tokio::test]
async fn a_leaf_that_the_pinned_root_did_not_sign_is_refused() {
    let mut tasks = JoinSet::new();
    let (address, clerk) = server(&mut tasks, Ca::new("ours")).await;
    let stranger = Ca::new("stranger");
    let presented = vec![
        CertificateDer::from(stranger.der.clone()),
        CertificateDer::from(clerk.ca.der.clone()),
    ];
    let root = pick_root(&address, &presented, Fingerprint::of(&clerk.ca.der)).unwrap();
    let error = check(&address, &presented, &root, clock::now()).unwrap_err();
    assert!(matches!(error, HandshakeError::BadCertificate { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_with_the_next_step() {
    let mut tasks = JoinSet::new();
    let (address, clerk) = server(&mut tasks, Ca::new("ours")).await;
    let other = Address::parse(&format!("https://127.0.0.2:{}", address.port())).unwrap();
    let presented = presented_chain(&address).await.unwrap();
    let root = CertificateDer::from(clerk.ca.der.clone());
    let error = check(&other, &presented, &root, clock::now())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("127.0.0.2") && error.contains("give the apiserver's certificate this name"),
        "{error}"
    );
}

#[tokio::test]
async fn nothing_but_a_greeting_is_sent_to_a_server_that_is_not_known() {
    let listener = any_port().await;
    let address = Address::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
    let ca = Ca::new("theirs");
    let (chain, key) = ca.server(&["127.0.0.1"]);
    let certificates: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(chain.as_bytes())
        .map(|pem| CertificateDer::from(pem.unwrap().contents))
        .collect();
    let key = <rustls_pki_types::PrivateKeyDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
        key.as_bytes(),
    )
    .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let accepted = tokio_rustls::TlsAcceptor::from(Arc::new(config))
            .accept(stream)
            .await;
        // The client breaks off within the handshake; had it gone on, it would have sent this.
        if let Ok(mut stream) = accepted {
            let mut sent = Vec::new();
            let _ = stream.read_to_end(&mut sent).await;
            assert!(sent.is_empty());
        }
    });
    let pin = Fingerprint::of(&Ca::new("ours").der);
    pinned_root(&address, pin, clock::now()).await.unwrap_err();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_told_apart_from_a_wrong_one() {
    let silent = silent_port();
    let address = Address::parse(&format!("https://{}", silent.local_addr().unwrap())).unwrap();
    let error = pinned_root(&address, Fingerprint::of(b""), clock::now())
        .await
        .unwrap_err();
    assert!(matches!(error, HandshakeError::Unreachable { .. }), "{error}");
}
