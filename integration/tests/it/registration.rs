//! What a join token buys, and every way in which it buys nothing.

use std::time::Duration;

use clone8s::{
    client::Resource as _,
    v1::{
        self, CreateJoinTokenRequest, RegisterNodeRequest, RegisterNodeResponse,
        registration_service_client::RegistrationServiceClient,
    },
};
use clone8s_integration::{ControlPlane, Sandbox, pki::Ca};
use rcgen::{CertificateParams, KeyPair};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;

/// TLS to the apiserver, trusting one CA, with a client identity or without.
fn tls_channel(plane: &ControlPlane, ca: &str, identity: Option<Identity>) -> Channel {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name("localhost");
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    Endpoint::from_shared(plane.url())
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect_lazy()
}

/// The call that a kubelet makes, with a key of its own; gives the answer and the key.
async fn register(
    plane: &ControlPlane,
    token: &str,
    name: &str,
) -> Result<(RegisterNodeResponse, KeyPair), Status> {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(Vec::new())
        .unwrap()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    let channel = tls_channel(plane, plane.ca().certificate(), None);
    let answer = RegistrationServiceClient::new(channel)
        .register_node(RegisterNodeRequest {
            token: token.to_owned(),
            node_name: name.to_owned(),
            certificate_request: request,
        })
        .await?;
    Ok((answer.into_inner(), key))
}

#[tokio::test]
async fn tokens_that_are_used_expired_forged_or_for_another_name_buy_nothing() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;

    let reason = |refused: &Status| {
        refused
            .get_details_error_info()
            .map(|info| info.reason)
            .unwrap_or_default()
    };
    let token = plane.join_token("first", 60).await;
    let other_name = register(&plane, &token, "second").await.unwrap_err();
    assert_eq!(other_name.code(), Code::PermissionDenied, "{other_name:?}");
    assert_eq!(reason(&other_name), "JOIN_TOKEN_FOR_OTHER_NODE");
    // Whose token it is, is no business of whoever found it.
    assert!(!other_name.message().contains("first"), "{other_name:?}");
    register(&plane, &token, "first").await.unwrap();
    let used = register(&plane, &token, "first").await.unwrap_err();
    assert_eq!(used.code(), Code::Unauthenticated, "{used:?}");
    assert!(used.message().contains("used"), "{used:?}");

    // The name is taken now for a token that names no name.
    let any = plane.join_token("", 60).await;
    let taken = register(&plane, &any, "first").await.unwrap_err();
    assert_eq!(reason(&taken), "NODE_NAME_TAKEN", "{taken:?}");
    assert!(taken.message().contains("first"), "{taken:?}");
    let bad_name = register(&plane, &any, "Not A Name").await.unwrap_err();
    assert_eq!(bad_name.code(), Code::InvalidArgument, "{bad_name:?}");

    for forged in ["", "x", "abcdef.0123456789abcdef", &token[..token.len() - 70]] {
        let refused = register(&plane, forged, "forger").await.unwrap_err();
        assert!(
            matches!(
                refused.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
            ),
            "{forged:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_by_its_expiry() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let token = plane.join_token("late", 1).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let refused = register(&plane, &token, "late").await.unwrap_err();
    assert!(refused.message().contains("expired"), "{refused:?}");
}

#[tokio::test]
async fn a_certificate_opens_what_its_owner_may_do_and_no_more() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let ca = plane.ca().certificate();
    let (answer, key) = register(&plane, &plane.join_token("node-a", 60).await, "node-a")
        .await
        .unwrap();
    register(&plane, &plane.join_token("node-b", 60).await, "node-b")
        .await
        .unwrap();
    assert_eq!(answer.ca_certificate.trim(), ca.trim());
    let identity = Identity::from_pem(&answer.certificate, key.serialize_pem());
    let node_a = tls_channel(&plane, ca, Some(identity));

    let named = |name: &str| v1::Node {
        metadata: Some(v1::ObjectMeta {
            name: name.to_owned(),
            ..v1::ObjectMeta::default()
        }),
        ..v1::Node::default()
    };
    let refused = v1::Node::create(&node_a, named("node-b")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    v1::Node::create(&plane.channel(), named("node-b")).await.unwrap();
    let mut own = v1::Node::create(&node_a, named("node-a")).await.unwrap();
    own.status
        .get_or_insert_default()
        .capacity
        .insert("cpu".into(), "2".into());
    v1::node_service_client::NodeServiceClient::new(node_a.clone())
        .update_node_status(v1::UpdateNodeStatusRequest {
            node: Some(own.clone()),
            ..Default::default()
        })
        .await
        .unwrap();
    own.metadata.as_mut().unwrap().name = "node-b".into();
    own.metadata.as_mut().unwrap().uid = String::new();
    own.metadata.as_mut().unwrap().resource_version = 0;
    let refused = v1::node_service_client::NodeServiceClient::new(node_a.clone())
        .update_node_status(v1::UpdateNodeStatusRequest {
            node: Some(own),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let refused = RegistrationServiceClient::new(node_a)
        .create_join_token(CreateJoinTokenRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");

    // Nobody: no certificate, or one of another CA.
    let anonymous = v1::Pod::get(&tls_channel(&plane, ca, None), "default", "any")
        .await
        .unwrap_err();
    assert_eq!(anonymous.code(), Code::Unauthenticated, "{anonymous:?}");
    let stranger = Ca::new(&sandbox.make_dir("strange"), "cluster root").unwrap();
    let pair = stranger.issue_for("admin", Some("system:masters")).unwrap();
    let identity = Identity::from_pem(&pair.certificate, &pair.key);
    let refused = v1::Pod::get(&tls_channel(&plane, ca, Some(identity)), "default", "any")
        .await
        .unwrap_err();
    assert_ne!(refused.code(), Code::NotFound, "a stranger was let in");
    plane.pod("any").await.unwrap_err();
}
