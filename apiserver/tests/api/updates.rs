//! Updates: what they may change, and who wins.

use clone8s::v1::*;
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

async fn update(channel: &Channel, pod: Pod) -> Result<Pod, Status> {
    let request = UpdatePodRequest {
        pod: Some(pod),
        ..Default::default()
    };
    Ok(pods(channel).update_pod(request).await?.into_inner().pod.unwrap())
}

async fn update_status(channel: &Channel, pod: Pod) -> Result<Pod, Status> {
    let request = UpdatePodStatusRequest {
        pod: Some(pod),
        ..Default::default()
    };
    Ok(pods(channel)
        .update_pod_status(request)
        .await?
        .into_inner()
        .pod
        .unwrap())
}

fn with_image(pod: &Pod, image: &str) -> Pod {
    let mut pod = pod.clone();
    pod.spec.as_mut().unwrap().containers[0].image = image.into();
    pod
}

fn running(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.status = Some(PodStatus {
        phase: "Running".into(),
        ..PodStatus::default()
    });
    pod
}

fn version(pod: &Pod) -> i64 {
    pod.metadata.as_ref().unwrap().resource_version
}

fn generation(pod: &Pod) -> i64 {
    pod.metadata.as_ref().unwrap().generation
}

#[tokio::test]
async fn of_two_writers_who_have_seen_the_same_one_wins() {
    let server = Server::start().await;
    let root = server.root();
    let seen = create_pod(&root, pod("web")).await;
    let first = update(&root, with_image(&seen, "registry.example/app:2"))
        .await
        .unwrap();
    assert_eq!(generation(&first), 2);
    let error = update(&root, with_image(&seen, "registry.example/app:3"))
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
    assert_eq!(get_pod(&root, "web").await.unwrap(), first);
    server.stop().await;
}

#[tokio::test]
async fn writers_who_do_not_say_what_they_have_seen_all_come_through() {
    let server = Server::start().await;
    let root = server.root();
    create_pod(&root, pod("web")).await;
    let writers = (0..8).map(|writer| {
        let mut pod = pod("web");
        pod.metadata = labelled("web", &[("writer", &writer.to_string())]);
        update(&root, pod)
    });
    for written in futures::future::join_all(writers).await {
        written.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let server = Server::start().await;
    let root = server.root();
    let created = create_pod(&root, pod("web")).await;
    let updated = update(&root, created.clone()).await.unwrap();
    assert_eq!(version(&updated), version(&created));
    let status = update_status(&root, created.clone()).await.unwrap();
    assert_eq!(version(&status), version(&created));
    server.stop().await;
}

#[tokio::test]
async fn an_update_leaves_the_status_and_a_status_update_leaves_the_rest() {
    let server = Server::start().await;
    let root = server.root();
    let created = create_pod(&root, pod("web")).await;
    let mut asked = running(&with_image(&created, "registry.example/app:2"));
    let updated = update(&root, asked.clone()).await.unwrap();
    assert_eq!(updated.status.as_ref().unwrap().phase, "Pending");
    assert_eq!(
        updated.spec.as_ref().unwrap().containers[0].image,
        "registry.example/app:2"
    );
    let meta = asked.metadata.as_mut().unwrap();
    meta.resource_version = version(&updated);
    meta.labels.insert("sneaked".into(), "in".into());
    let mut asked = with_image(&asked, "registry.example/app:9");
    let reported = update_status(&root, asked.clone()).await.unwrap();
    assert_eq!(reported.status.as_ref().unwrap().phase, "Running");
    assert_eq!(
        reported.spec.as_ref().unwrap().containers[0].image,
        "registry.example/app:2"
    );
    assert!(reported.metadata.as_ref().unwrap().labels.is_empty());
    assert_eq!(generation(&reported), 2, "a status is not counted");
    asked.metadata.as_mut().unwrap().uid = "another".into();
    asked.metadata.as_mut().unwrap().resource_version = 0;
    let error = update_status(&root, asked).await.unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "UID_MISMATCH".into()));
    server.stop().await;
}

#[tokio::test]
async fn conditions_of_readiness_gates_are_not_the_nodes_to_write() {
    const GATE: &str = "example.com/in-rotation";
    let condition = |kind: &str, status: &str| Condition {
        r#type: kind.into(),
        status: status.into(),
        ..Condition::default()
    };
    let server = Server::start().await;
    let root = server.root();
    let mut gated = pod("web");
    gated.spec.as_mut().unwrap().readiness_gates = vec![PodReadinessGate {
        condition_type: GATE.into(),
    }];
    let mut written = create_pod(&root, gated).await;

    // Whoever sets the gate changes nothing else.
    written.metadata.as_mut().unwrap().resource_version = 0;
    written.status = Some(PodStatus {
        phase: "Failed".into(),
        conditions: vec![condition(GATE, "True"), condition("Ready", "True")],
        ..PodStatus::default()
    });
    let request = UpdatePodStatusRequest {
        pod: Some(written.clone()),
        condition_types: vec![GATE.into()],
        ..Default::default()
    };
    let opened = pods(&root)
        .update_pod_status(request)
        .await
        .unwrap()
        .into_inner()
        .pod;
    let status = opened.unwrap().status.unwrap();
    assert_eq!(status.phase, "Pending");
    assert_eq!(status.conditions, [condition(GATE, "True")]);

    // The node, which does not know of the gate yet, leaves it open.
    let status = PodStatus {
        phase: "Running".into(),
        conditions: vec![condition("Ready", "False"), condition(GATE, "False")],
        ..PodStatus::default()
    };
    written.status = Some(status);
    let status = update_status(&root, written).await.unwrap().status.unwrap();
    assert_eq!(status.phase, "Running");
    assert_eq!(
        status.conditions,
        [condition("Ready", "False"), condition(GATE, "True")]
    );
    server.stop().await;
}

#[tokio::test]
async fn identity_and_bookkeeping_cannot_be_changed() {
    let server = Server::start().await;
    let root = server.root();
    let created = create_pod(&root, pod("web")).await;
    let mut asked = created.clone();
    let meta = asked.metadata.as_mut().unwrap();
    meta.generation = 99;
    meta.creation_timestamp = None;
    meta.deletion_timestamp = meta.creation_timestamp;
    meta.deletion_grace_period_seconds = Some(1);
    assert_eq!(update(&root, asked).await.unwrap(), created);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_cannot_be_updated() {
    let server = Server::start().await;
    let error = update(&server.root(), pod("web")).await.unwrap_err();
    assert_eq!(told(&error), (Code::NotFound, "NOT_FOUND".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_validated_update_is_not_stored() {
    let server = Server::start().await;
    let root = server.root();
    let created = create_pod(&root, pod("web")).await;
    let request = UpdatePodRequest {
        pod: Some(with_image(&created, "registry.example/app:2")),
        validate_only: true,
        ..Default::default()
    };
    let validated = pods(&root).update_pod(request).await.unwrap().into_inner().pod;
    assert_eq!(generation(&validated.unwrap()), 2);
    assert_eq!(get_pod(&root, "web").await.unwrap(), created);
    server.stop().await;
}

async fn bind(channel: &Channel, pod: &Pod, node: &str) -> Result<Pod, Status> {
    let meta = pod.metadata.clone().unwrap();
    let request = BindPodRequest {
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        resource_version: meta.resource_version,
        node_name: node.into(),
        ..Default::default()
    };
    Ok(pods(channel).bind_pod(request).await?.into_inner().pod.unwrap())
}

#[tokio::test]
async fn a_pod_is_bound_once_to_a_node_that_exists() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    create_node(&root, "n2").await;
    let waiting = create_pod(&root, pod("web")).await;
    let error = bind(&root, &waiting, "ghost").await.unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "NO_SUCH_NODE".into()));
    let bound = bind(&root, &waiting, "n1").await.unwrap();
    assert_eq!(bound.spec.as_ref().unwrap().node_name, "n1");
    let scheduled = &bound.status.as_ref().unwrap().conditions[0];
    assert_eq!(
        (scheduled.r#type.as_str(), scheduled.status.as_str()),
        ("PodScheduled", "True")
    );
    let stale = bind(&root, &waiting, "n2").await.unwrap_err();
    assert_eq!(told(&stale), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
    let error = bind(&root, &bound, "n2").await.unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "ALREADY_BOUND".into()));
    server.stop().await;
}
