//! The handshake: what a join token buys, and each refusal.

use clone8s::v1::*;
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

/// What a node holds once it has joined.
pub(crate) struct NodeIdentity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

struct Request {
    pem: String,
    key: String,
}

fn request() -> Request {
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    Request {
        pem,
        key: key.serialize_pem(),
    }
}

async fn token(server: &Server, node: &str) -> String {
    registration(&server.root())
        .create_join_token(CreateJoinTokenRequest {
            node_name: node.into(),
            ttl_seconds: 0,
        })
        .await
        .unwrap()
        .into_inner()
        .token
}

async fn register(
    channel: &Channel,
    token: &str,
    node: &str,
    certificate_request: &str,
) -> Result<RegisterNodeResponse, Status> {
    let request = RegisterNodeRequest {
        token: token.into(),
        node_name: node.into(),
        certificate_request: certificate_request.into(),
    };
    Ok(registration(channel).register_node(request).await?.into_inner())
}

pub(crate) async fn join(server: &Server, node: &str) -> NodeIdentity {
    let token = token(server, node).await;
    let request = request();
    let stranger = server.tls(None).await;
    let answer = register(&stranger, &token, node, &request.pem).await.unwrap();
    NodeIdentity {
        certificate: answer.certificate,
        key: request.key,
    }
}

#[tokio::test]
async fn a_token_buys_a_certificate_with_which_the_node_is_known() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let ca = server.read("data/pki/ca.crt");
    let (_, block) = x509_parser::pem::parse_x509_pem(ca.as_bytes()).unwrap();
    let pin = token.rsplit('.').next().unwrap();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&block.contents);
    let pinned: Vec<u8> = (0..pin.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&pin[at..at + 2], 16).unwrap())
        .collect();
    assert_eq!(pinned, digest.to_vec());

    let stranger = server.tls(None).await;
    let request = request();
    let answer = register(&stranger, &token, "n1", &request.pem).await.unwrap();
    assert_eq!(answer.ca_certificate, ca);
    let node = server.tls(Some((&answer.certificate, &request.key))).await;
    create_node(&node, "n1").await;
    server.stop().await;
}

#[tokio::test]
async fn a_token_without_its_fingerprint_is_taken_too() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let (short, _) = token.rsplit_once('.').unwrap();
    let channel = server.tls(None).await;
    register(&channel, short, "n1", &request().pem).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_token_works_once() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let channel = server.tls(None).await;
    register(&channel, &token, "n1", &request().pem).await.unwrap();
    let error = register(&channel, &token, "n2", &request().pem)
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::Unauthenticated, "JOIN_TOKEN_UNKNOWN".into()));
    assert!(error.message().contains("used already"), "{}", error.message());
    server.stop().await;
}

#[tokio::test]
async fn a_node_whose_answer_was_lost_gets_it_again_for_the_same_key_alone() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let channel = server.tls(None).await;
    let lost = request();
    register(&channel, &token, "n1", &lost.pem).await.unwrap();

    let answer = register(&channel, &token, "n1", &lost.pem).await.unwrap();
    let node = server.tls(Some((&answer.certificate, &lost.key))).await;
    create_node(&node, "n1").await;

    let other_secret = token.replacen(token.split('.').nth(1).unwrap(), &"0".repeat(64), 1);
    for (token, name, pem) in [
        (&token, "n1", &request().pem),
        (&token, "n2", &lost.pem),
        (&other_secret, "n1", &lost.pem),
    ] {
        let error = register(&channel, token, name, pem).await.unwrap_err();
        assert_eq!(told(&error), (Code::Unauthenticated, "JOIN_TOKEN_UNKNOWN".into()));
    }
    server.stop().await;
}

#[tokio::test]
async fn of_nodes_that_bring_the_same_token_at_once_one_joins() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let channel = server.tls(None).await;
    let joining = (0..8).map(|at| {
        let (channel, token) = (channel.clone(), token.clone());
        async move { register(&channel, &token, &format!("n{at}"), &request().pem).await }
    });
    let joined = futures::future::join_all(joining)
        .await
        .into_iter()
        .flatten()
        .count();
    assert_eq!(joined, 1);
    server.stop().await;
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let server = Server::start().await;
    let token = registration(&server.root())
        .create_join_token(CreateJoinTokenRequest {
            node_name: String::new(),
            ttl_seconds: 1,
        })
        .await
        .unwrap()
        .into_inner()
        .token;
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let channel = server.tls(None).await;
    let error = register(&channel, &token, "n1", &request().pem)
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::Unauthenticated, "JOIN_TOKEN_EXPIRED".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_the_token_stays() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let id = token.split('.').next().unwrap();
    let guess = format!("{id}.{}", "0".repeat(64));
    let channel = server.tls(None).await;
    let error = register(&channel, &guess, "n1", &request().pem)
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::Unauthenticated, "JOIN_TOKEN_UNKNOWN".into()));
    assert!(!error.message().contains("000000"), "{}", error.message());
    register(&channel, &token, "n1", &request().pem).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_token_of_another_cluster_is_refused() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let (short, _) = token.rsplit_once('.').unwrap();
    let other = format!("{short}.{}", "ab".repeat(32));
    let channel = server.tls(None).await;
    let error = register(&channel, &other, "n1", &request().pem)
        .await
        .unwrap_err();
    assert_eq!(
        told(&error),
        (Code::InvalidArgument, "JOIN_TOKEN_OF_OTHER_CLUSTER".into())
    );
    server.stop().await;
}

#[tokio::test]
async fn a_token_for_one_name_registers_no_other() {
    let server = Server::start().await;
    let token = token(&server, "n1").await;
    let channel = server.tls(None).await;
    let error = register(&channel, &token, "n2", &request().pem)
        .await
        .unwrap_err();
    assert_eq!(
        told(&error),
        (Code::PermissionDenied, "JOIN_TOKEN_FOR_OTHER_NODE".into())
    );
    register(&channel, &token, "n1", &request().pem).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_belongs_to_another_node_needs_a_token_of_its_own() {
    let server = Server::start().await;
    join(&server, "n1").await;
    // As a stand-alone kubelet leaves it: without a registration.
    create_node(&server.root(), "n2").await;
    let channel = server.tls(None).await;
    for name in ["n1", "n2"] {
        let open = token(&server, "").await;
        let error = register(&channel, &open, name, &request().pem).await.unwrap_err();
        assert_eq!(told(&error), (Code::AlreadyExists, "NODE_NAME_TAKEN".into()));
        // The refusal has not cost the token.
        register(&channel, &open, &format!("{name}-new"), &request().pem)
            .await
            .unwrap();
        let own = token(&server, name).await;
        register(&channel, &own, name, &request().pem).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_deleted_nodes_name_is_free_again_and_its_certificate_cannot_be_renewed() {
    let server = Server::start().await;
    let node = server.joined("n1").await;
    create_node(&node, "n1").await;
    nodes(&server.root())
        .delete_node(DeleteNodeRequest {
            name: "n1".into(),
            ..DeleteNodeRequest::default()
        })
        .await
        .unwrap();
    let renewal = RenewNodeCertificateRequest {
        certificate_request: request().pem,
    };
    let error = registration(&node)
        .renew_node_certificate(renewal)
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::PermissionDenied, "FORBIDDEN".into()));
    let open = token(&server, "").await;
    let channel = server.tls(None).await;
    register(&channel, &open, "n1", &request().pem).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_signed_does_not_cost_the_token() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let channel = server.tls(None).await;
    let error = register(&channel, &token, "n1", "nonsense").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = register(&channel, &token, "Not A Label", &request().pem)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = register(&channel, "nonsense", "n1", &request().pem)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    register(&channel, &token, "n1", &request().pem).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_node_renews_its_certificate_for_its_own_name() {
    let server = Server::start().await;
    let node = server.joined("n1").await;
    let request = request();
    let answer = registration(&node)
        .renew_node_certificate(RenewNodeCertificateRequest {
            certificate_request: request.pem.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    let renewed = server.tls(Some((&answer.certificate, &request.key))).await;
    create_node(&renewed, "n1").await;
    let error = registration(&server.root())
        .renew_node_certificate(RenewNodeCertificateRequest {
            certificate_request: request.pem,
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    server.stop().await;
}

#[tokio::test]
async fn a_token_lives_a_week_at_most() {
    let server = Server::start().await;
    for ttl_seconds in [-1, 604_801] {
        let error = registration(&server.root())
            .create_join_token(CreateJoinTokenRequest {
                node_name: String::new(),
                ttl_seconds,
            })
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_used_token_leaves_no_secret_on_disk_in_the_clear() {
    let server = Server::start().await;
    let token = token(&server, "").await;
    let secret = token.split('.').nth(1).unwrap().to_owned();
    let dir = server.stop().await;
    let store = std::fs::read(dir.path().join("data/store.db")).unwrap();
    assert!(
        !store
            .windows(secret.len())
            .any(|window| window == secret.as_bytes())
    );
}
