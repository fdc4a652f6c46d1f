//! How a kubelet becomes a node: by its token, by its certificate, or straight into an etcd.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use clone8s::{
    client::{DeleteOptions, Resource as _},
    rules::NODE_LEASE_NAMESPACE,
    v1,
};
use clone8s_daemon::etcd::value;
use clone8s_integration::{ControlPlane, Etcd, Node, Sandbox, pki::Ca, wait};
use prost::Message as _;
use tonic::Code;

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
    let renewed = async || {
        let lease = v1::Lease::get(&plane.channel(), NODE_LEASE_NAMESPACE, "joins").await;
        lease.ok()?.spec?.renew_time
    };
    let before = renewed().await;
    node.kubelet.start().unwrap();
    wait::until("the heartbeat is newer", || async {
        let now = renewed().await;
        anyhow::ensure!(now.is_some() && now != before, "{now:?}");
        Ok(())
    })
    .await;

    // A kubelet goes on after its Node was deleted, with which its lease goes.
    v1::Node::delete(&plane.channel(), "", "joins", &DeleteOptions::default())
        .await
        .unwrap();
    plane.node_ready("joins").await;
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
    node.kubelet.kill();
    let plain = node.kubelet.args_mut().len() - 4;
    node.kubelet.args_mut().truncate(plain);
    node.join_with(&plane, &token, None);
    plane.node_ready("deceived").await;
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
    let first = ready_in(&etcd, key).await;
    assert!(!first.spec.unwrap_or_default().unschedulable);

    // As an apiserver writes it where others follow in its transaction.
    let mut cordoned = first;
    cordoned.spec.get_or_insert_default().unschedulable = true;
    cordoned.status = None;
    let stored = value::stored(&cordoned.encode_to_vec(), 3);
    let mut client = etcd.client().await.unwrap();
    client.put(key, stored, None).await.unwrap();
    node.kubelet.kill();
    node.kubelet.start().unwrap();
    let found = ready_in(&etcd, key).await;
    assert!(found.spec.unwrap_or_default().unschedulable);
}

/// A node in etcd, once it is ready.
async fn ready_in(etcd: &Etcd, key: &str) -> v1::Node {
    wait::until("the node is in etcd and ready", || async {
        let stored = etcd.client().await?.get(key, None).await?;
        let stored = stored.kvs().first().with_context(|| format!("no {key}"))?;
        let node = v1::Node::decode(value::read(stored.value()).0)?;
        let conditions = node.status.iter().flat_map(|status| &status.conditions);
        let is_ready = conditions
            .clone()
            .any(|it| it.r#type == "Ready" && it.status == "True");
        anyhow::ensure!(is_ready, "{:?}", conditions.collect::<Vec<_>>());
        Ok(node)
    })
    .await
}
