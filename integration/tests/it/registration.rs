//! How a node joins, and every way in which it is refused.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use clone8s::{
    client::Resource as _,
    v1::{
        self, CreateJoinTokenRequest, RegisterNodeRequest, RegisterNodeResponse,
        registration_service_client::RegistrationServiceClient,
    },
};
use clone8s_integration::{ControlPlane, Etcd, Node, Sandbox, pki::Ca, wait};
use rcgen::{CertificateParams, KeyPair};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

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
async fn a_node_joins_with_a_token_and_comes_back_with_its_certificate() {
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "joins").await;
    node.join(&plane, None).await;
    let joined = plane.node_ready("joins").await;
    let status = joined.status.unwrap();
    assert!(
        status.capacity.contains_key("cpu") && status.capacity.contains_key("memory"),
        "{status:?}"
    );

    // No key of the node is for others to read.
    let mut keys = 0;
    let mut folders = vec![node.dir().join("kubelet")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("PRIVATE KEY")) {
                assert_eq!(
                    entry.metadata().unwrap().permissions().mode() & 0o777,
                    0o600,
                    "{:?}",
                    entry.path()
                );
                keys += 1;
            }
        }
    }
    assert!(keys > 0, "the kubelet keeps no key");

    // The token is used up; the certificate is enough for every later start. The heartbeat goes on.
    node.kubelet.kill();
    plane.apiserver.kill();
    plane.start_apiserver().await;
    let heartbeat = |node: &v1::Node| {
        let conditions = node.status.clone().unwrap_or_default().conditions;
        conditions
            .into_iter()
            .find(|it| it.r#type == "Ready")
            .and_then(|it| it.last_heartbeat_time)
    };
    let before = heartbeat(&v1::Node::get(&plane.channel(), "", "joins").await.unwrap());
    node.kubelet.start().unwrap();
    wait::until("the heartbeat is newer", || async {
        let now = heartbeat(&v1::Node::get(&plane.channel(), "", "joins").await?);
        anyhow::ensure!(now.is_some() && now != before, "{now:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn tokens_that_are_used_expired_forged_or_for_another_name_buy_nothing() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;

    let token = plane.join_token("first", 60).await;
    let other_name = register(&plane, &token, "second").await.unwrap_err();
    assert_eq!(other_name.code(), Code::PermissionDenied, "{other_name:?}");
    // Whose token it is, is no business of whoever found it.
    assert!(
        other_name.message().contains("another name") && !other_name.message().contains("first"),
        "{other_name:?}"
    );
    register(&plane, &token, "first").await.unwrap();
    let used = register(&plane, &token, "first").await.unwrap_err();
    assert!(
        matches!(used.code(), Code::Unauthenticated | Code::PermissionDenied),
        "{used:?}"
    );
    assert!(used.message().contains("used"), "{used:?}");

    // The name is taken now, also for a token that names no name.
    let any = plane.join_token("", 60).await;
    let taken = register(&plane, &any, "first").await.unwrap_err();
    assert!(
        matches!(taken.code(), Code::PermissionDenied | Code::AlreadyExists),
        "{taken:?}"
    );
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

    let node = v1::Node {
        metadata: Some(v1::ObjectMeta {
            name: "node-a".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut own = v1::Node::create(&node_a, node).await.unwrap();
    own.status
        .get_or_insert_default()
        .capacity
        .insert("cpu".into(), "2".into());
    v1::node_service_client::NodeServiceClient::new(node_a.clone())
        .update_node_status(v1::UpdateNodeStatusRequest {
            node: Some(own.clone()),
        })
        .await
        .unwrap();
    own.metadata.as_mut().unwrap().name = "node-b".into();
    own.metadata.as_mut().unwrap().uid = String::new();
    own.metadata.as_mut().unwrap().resource_version = 0;
    let refused = v1::node_service_client::NodeServiceClient::new(node_a.clone())
        .update_node_status(v1::UpdateNodeStatusRequest { node: Some(own) })
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

#[tokio::test]
async fn a_kubelet_with_a_token_that_pins_another_ca_does_not_talk_to_the_apiserver() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let token = plane.join_token("deceived", 600).await;
    let (secret, hash) = token.rsplit_once('.').unwrap();
    let wrong = format!("{secret}.{}", hash.chars().rev().collect::<String>());
    let mut node = Node::start(&sandbox, "deceived").await;
    node.join_with(&plane, &wrong, None);
    wait::until("the kubelet says what is wrong with the CA", || async {
        let log = node.kubelet.log();
        anyhow::ensure!(log.contains("CA"), "{log}");
        Ok(())
    })
    .await;
    let absent = v1::Node::get(&plane.channel(), "", "deceived").await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    assert!(
        !node.kubelet.log().contains(secret),
        "the token's secret is in the log"
    );
    // The real token still works: it was shown to nobody.
    register(&plane, &token, "deceived").await.unwrap();
}

#[tokio::test]
async fn a_stand_alone_kubelet_puts_its_node_into_an_etcd_that_it_verifies() {
    let sandbox = Sandbox::new();
    let etcd = Etcd::start(&sandbox).await;
    let mut node = Node::start(&sandbox, "alone").await;
    let strange_ca = Ca::new(&sandbox.make_dir("strange"), "etcd test root").unwrap();
    let etcd_args = |ca: &Ca| {
        vec![
            "--etcd".to_owned(),
            etcd.endpoint().to_owned(),
            "--etcd-ca".to_owned(),
            ca.certificate_file().display().to_string(),
            "--etcd-cert".to_owned(),
            etcd.client_pair().certificate_file.display().to_string(),
            "--etcd-key".to_owned(),
            etcd.client_pair().key_file.display().to_string(),
        ]
    };
    let plain = node.kubelet.args_mut().clone();
    node.start_kubelet(etcd_args(&strange_ca));
    wait::until("the kubelet says that it does not trust this etcd", || async {
        let log = node.kubelet.log();
        anyhow::ensure!(log.contains("etcd") && log.contains("certificate"), "{log}");
        Ok(())
    })
    .await;
    let key = "/clone8s/objects/nodes/alone";
    let stored = etcd.client().await.unwrap().get(key, None).await.unwrap();
    assert!(stored.kvs().is_empty());
    node.kubelet.check_running().unwrap();

    node.kubelet.kill();
    *node.kubelet.args_mut() = plain;
    node.start_kubelet(etcd_args(etcd.ca()));
    wait::until("the node is in etcd and ready", || async {
        let stored = etcd.client().await?.get(key, None).await?;
        let bytes = stored
            .kvs()
            .first()
            .ok_or_else(|| anyhow::anyhow!("no {key}"))?
            .value()
            .to_vec();
        let node = <v1::Node as prost::Message>::decode(bytes.as_slice())?;
        let conditions = node.status.unwrap_or_default().conditions;
        anyhow::ensure!(
            conditions
                .iter()
                .any(|it| it.r#type == "Ready" && it.status == "True"),
            "{conditions:?}"
        );
        Ok(())
    })
    .await;
}
