//! Mirrors: what a node shows of its own pods, and what it cannot do by that.

use std::time::Duration;

use clone8s::{
    client::{DeleteOptions, Resource as _},
    mirror::{MIRROR, SOURCE},
    object::Object as _,
    v1::*,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, transport::Channel};

use crate::harness::*;

fn forbidden() -> (Code, String) {
    (Code::PermissionDenied, "FORBIDDEN".into())
}

fn read_only() -> (Code, String) {
    (Code::FailedPrecondition, "READ_ONLY".into())
}

fn mirror(name: &str, node: &Node) -> Pod {
    let mut pod = pod_on(&format!("{name}-{}", node.name()), node.name());
    let meta = pod.metadata_mut();
    for (annotation, value) in [(MIRROR, "u1"), (SOURCE, "folder")] {
        meta.annotations.insert(annotation.to_owned(), value.to_owned());
    }
    meta.owner_references = vec![OwnerReference {
        kind: "Node".into(),
        name: node.name().to_owned(),
        uid: node.uid().to_owned(),
        ..OwnerReference::default()
    }];
    pod
}

/// A server, its root, and node n1 with its own certificate.
async fn joined() -> (Server, Channel, Channel, Node) {
    let server = Server::start().await;
    let root = server.root();
    let own = server.joined("n1").await;
    let node = create_node(&own, "n1").await;
    (server, root, own, node)
}

#[tokio::test]
async fn a_node_makes_mirrors_of_its_own_pods_and_no_other_pod() {
    let (server, root, own, node) = joined().await;
    let other = create_node(&root, "n2").await;
    let made = Pod::create(&own, mirror("web", &node)).await.unwrap();
    assert_eq!(made.status.unwrap().phase, "Pending");
    for pod in [pod_on("web", "n1"), pod("free"), mirror("web", &other)] {
        let error = Pod::create(&own, pod).await.unwrap_err();
        assert_eq!(told(&error), forbidden());
    }
    // Nothing in it may hold what is others', nor take a name that is no mirror's.
    let wrong: [fn(&mut ObjectMeta); 3] = [
        |meta| meta.name = "db".into(),
        |meta| meta.finalizers.push("example.com/held".into()),
        |meta| meta.owner_references[0].block_owner_deletion = true,
    ];
    for change in wrong {
        let mut pod = mirror("db", &node);
        change(pod.metadata_mut());
        let error = Pod::create(&own, pod).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_a_mirror_refers_to_stays_closed_to_its_node() {
    let (server, root, own, node) = joined().await;
    let secret = Secret {
        metadata: meta("hushed"),
        data: [("key".to_owned(), "hush".into())].into(),
        ..Secret::default()
    };
    Secret::create(&root, secret).await.unwrap();
    let mut pod = mirror("web", &node);
    pod.spec.as_mut().unwrap().containers[0].env_from = vec![EnvFromSource {
        secret_ref: Some(SecretEnvSource {
            name: "hushed".into(),
            ..SecretEnvSource::default()
        }),
        ..EnvFromSource::default()
    }];
    let made = Pod::create(&own, pod).await.unwrap();
    let error = Secret::get(&own, "default", "hushed").await.unwrap_err();
    assert_eq!(told(&error), forbidden());

    // Nor does it become a pod that would count, by the node or by anybody.
    let mut plain = made.clone();
    plain.metadata_mut().annotations.clear();
    let error = Pod::update(&own, plain.clone()).await.unwrap_err();
    assert_eq!(told(&error), forbidden());
    let error = Pod::update(&root, plain).await.unwrap_err();
    assert_eq!(told(&error), read_only());
    server.stop().await;
}

#[tokio::test]
async fn a_mirror_is_not_changed_nor_evicted_and_goes_at_once() {
    let (server, root, own, node) = joined().await;
    let mut made = Pod::create(&own, mirror("web", &node)).await.unwrap();
    made.metadata_mut().labels.insert("a".into(), "b".into());
    let error = Pod::update(&root, made.clone()).await.unwrap_err();
    assert_eq!(told(&error), read_only());
    let evict = EvictPodRequest {
        name: "web-n1".into(),
        ..EvictPodRequest::default()
    };
    let error = pods(&root).evict_pod(evict).await.unwrap_err();
    assert_eq!(told(&error), read_only());
    // Its node tells how it is.
    made.status.as_mut().unwrap().phase = "Running".into();
    let request = UpdatePodStatusRequest {
        pod: Some(made),
        ..UpdatePodStatusRequest::default()
    };
    pods(&own).update_pod_status(request).await.unwrap();
    assert_eq!(
        get_pod(&root, "web-n1").await.unwrap().status.unwrap().phase,
        "Running"
    );
    // Nobody has to stop anything for it.
    Pod::delete(&root, "default", "web-n1", &DeleteOptions::default())
        .await
        .unwrap();
    assert_eq!(get_pod(&root, "web-n1").await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_mirror_takes_no_room_and_goes_with_its_node() {
    let (server, root, own, node) = joined().await;
    let quota = ResourceQuota {
        metadata: meta("none"),
        spec: Some(ResourceQuotaSpec {
            hard: [
                ("pods".to_owned(), "0".to_owned()),
                ("count/pods".to_owned(), "0".to_owned()),
            ]
            .into(),
        }),
        status: None,
    };
    ResourceQuota::create(&root, quota).await.unwrap();
    Pod::create(&own, mirror("web", &node)).await.unwrap();
    Node::delete(&root, "", "n1", &DeleteOptions::default())
        .await
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while get_pod(&root, "web-n1").await.is_ok() {
        assert!(Instant::now() < deadline, "the mirror stays without its node");
        sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}
