//! TLS: who is let in, as whom, and what a bad configuration says.

use std::sync::Arc;

use clone8s::v1::*;
use clone8s_apiserver::{Apiserver, KeyPairFiles};
use clone8s_bus::local::LocalBus;
use clone8s_daemon::Shutdown;
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn an_administrators_certificate_opens_everything() {
    let server = Server::start().await;
    let admin = server.admin().await;
    create_pod(&admin, pod("web")).await;
    server.stop().await;
}

#[tokio::test]
async fn without_a_certificate_only_joining_and_health_are_open() {
    let server = Server::start().await;
    let stranger = server.tls(None).await;
    let error = get_pod(&stranger, "web").await.unwrap_err();
    assert_eq!(
        told(&error),
        (Code::Unauthenticated, "NO_CLIENT_CERTIFICATE".into())
    );
    let mut health = tonic_health::pb::health_client::HealthClient::new(stranger.clone());
    let answer = health
        .check(tonic_health::pb::HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answer.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    let error = registration(&stranger)
        .register_node(RegisterNodeRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "the call itself is open");
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_another_ca_signed_is_not_let_in() {
    let server = Server::start().await;
    let other = Server::start().await;
    let (certificate, key) = (other.read("data/pki/admin.crt"), other.read("data/pki/admin.key"));
    let ca = server.read("data/pki/ca.crt");
    // With TLS 1.3 the client learns it with its first call at the latest.
    if let Ok(channel) = server.try_tls(&ca, Some((&certificate, &key))).await {
        get_pod(&channel, "web").await.unwrap_err();
        let error = get_pod(&channel, "web").await.unwrap_err();
        assert_ne!(error.code(), Code::NotFound, "{error:?}");
    }
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_client_with_another_root_ca_turns_away() {
    let server = Server::start().await;
    let other = Server::start().await;
    let ca = other.read("data/pki/ca.crt");
    assert!(server.try_tls(&ca, None).await.is_err());
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_disturbs_nobody() {
    use tokio::io::AsyncWriteExt as _;
    let server = Server::start().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut peer = tokio::net::TcpStream::connect(server.tls_address).await.unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        silent.push(tokio::net::TcpStream::connect(server.tls_address).await.unwrap());
    }
    let admin = server.admin().await;
    create_pod(&admin, pod("web")).await;
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    config.tls.as_mut().unwrap().address = server.tls_address;
    let error = Apiserver::start(config, Arc::new(LocalBus::new()), Shutdown::new())
        .await
        .unwrap_err();
    let text = clone8s_daemon::supervisor::chain(&error);
    assert!(
        text.contains(&format!("cannot listen on {}", server.tls_address)),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_missing_certificate_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    config.tls.as_mut().unwrap().server = Some(KeyPairFiles {
        certificate: "/nowhere/server.crt".into(),
        key: "/nowhere/server.key".into(),
    });
    let error = Apiserver::start(config, Arc::new(LocalBus::new()), Shutdown::new())
        .await
        .unwrap_err();
    let text = clone8s_daemon::supervisor::chain(&error);
    assert!(text.contains("/nowhere/server.crt"), "{text}");
}

#[tokio::test]
async fn a_socket_and_a_store_in_use_are_named() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let start = |config| Apiserver::start(config, Arc::new(LocalBus::new()), Shutdown::new());
    let mut same_socket = config(&dir);
    same_socket.socket = server.file("run/api.sock");
    let error = start(same_socket).await.unwrap_err();
    let text = clone8s_daemon::supervisor::chain(&error);
    assert!(text.contains("api.sock: another process is serving"), "{text}");
    let error = start(config(&server.dir)).await.unwrap_err();
    let text = clone8s_daemon::supervisor::chain(&error);
    assert!(
        text.contains("store.db: another process has this store open"),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test]
async fn compressed_calls_are_answered_compressed() {
    let server = Server::start().await;
    create_pod(&server.root(), pod("web")).await;
    for encoding in [
        tonic::codec::CompressionEncoding::Gzip,
        tonic::codec::CompressionEncoding::Zstd,
    ] {
        let answer = pods(&server.root())
            .send_compressed(encoding)
            .accept_compressed(encoding)
            .get_pod(GetPodRequest {
                name: "web".into(),
                ..GetPodRequest::default()
            })
            .await
            .unwrap();
        assert!(answer.metadata().contains_key("grpc-encoding"), "{encoding:?}");
    }
    server.stop().await;
}
