//! Deletion: at once, gracefully, and held up by finalizers.

use clone8s::v1::*;
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

async fn delete(channel: &Channel, name: &str, grace: Option<i32>) -> Result<Pod, Status> {
    let request = DeletePodRequest {
        name: name.into(),
        grace_period_seconds: grace,
        ..DeletePodRequest::default()
    };
    Ok(pods(channel).delete_pod(request).await?.into_inner().pod.unwrap())
}

async fn is_gone(channel: &Channel, name: &str) -> bool {
    matches!(get_pod(channel, name).await, Err(status) if status.code() == Code::NotFound)
}

fn grace(pod: &Pod) -> Option<i32> {
    pod.metadata.as_ref().unwrap().deletion_grace_period_seconds
}

#[tokio::test]
async fn a_pod_that_no_node_runs_goes_at_once() {
    let server = Server::start().await;
    let root = server.root();
    create_pod(&root, pod("unbound")).await;
    create_pod(&root, pod_on("orphan", "ghost")).await;
    for name in ["unbound", "orphan"] {
        delete(&root, name, None).await.unwrap();
        assert!(is_gone(&root, name).await, "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_running_pod_stays_until_its_node_has_stopped_it() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    create_pod(&root, pod_on("web", "n1")).await;
    let marked = delete(&root, "web", None).await.unwrap();
    assert_eq!(grace(&marked), Some(30));
    let asked_at = marked.metadata.as_ref().unwrap().deletion_timestamp;
    assert!(asked_at.is_some());
    // Asked again it can only become shorter.
    assert_eq!(grace(&delete(&root, "web", Some(60)).await.unwrap()), Some(30));
    let shorter = delete(&root, "web", Some(5)).await.unwrap();
    assert_eq!(grace(&shorter), Some(5));
    assert_eq!(shorter.metadata.as_ref().unwrap().deletion_timestamp, asked_at);
    assert!(!is_gone(&root, "web").await);
    delete(&root, "web", Some(0)).await.unwrap();
    assert!(is_gone(&root, "web").await);
    server.stop().await;
}

#[tokio::test]
async fn a_pods_own_grace_period_counts() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let mut slow = pod_on("slow", "n1");
    slow.spec.as_mut().unwrap().termination_grace_period_seconds = Some(90);
    create_pod(&root, slow).await;
    assert_eq!(grace(&delete(&root, "slow", None).await.unwrap()), Some(90));
    let error = delete(&root, "slow", Some(-1)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn preconditions_keep_another_object_of_the_name() {
    let server = Server::start().await;
    let root = server.root();
    let created = create_pod(&root, pod("web")).await;
    let meta = created.metadata.unwrap();
    let mut client = pods(&root);
    let mut request = DeletePodRequest {
        name: "web".into(),
        uid: "another".into(),
        ..DeletePodRequest::default()
    };
    let error = client.delete_pod(request.clone()).await.unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "UID_MISMATCH".into()));
    request.uid = meta.uid;
    request.resource_version = meta.resource_version + 1;
    let error = client.delete_pod(request.clone()).await.unwrap_err();
    assert_eq!(told(&error), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
    request.resource_version = meta.resource_version;
    client.delete_pod(request).await.unwrap();
    assert!(is_gone(&root, "web").await);
    server.stop().await;
}

#[tokio::test]
async fn an_object_with_finalizers_goes_with_the_last_of_them() {
    let server = Server::start().await;
    let root = server.root();
    let mut held = pod("held");
    held.metadata.as_mut().unwrap().finalizers = vec!["example.io/a".into(), "example.io/b".into()];
    create_pod(&root, held).await;
    let mut marked = delete(&root, "held", None).await.unwrap();
    assert!(!is_gone(&root, "held").await);
    let update = |pod: Pod| {
        let mut client = pods(&root);
        async move {
            client
                .update_pod(UpdatePodRequest {
                    pod: Some(pod),
                    ..Default::default()
                })
                .await
        }
    };
    let mut more = marked.clone();
    let finalizers = &mut more.metadata.as_mut().unwrap().finalizers;
    finalizers.push("example.io/c".into());
    assert_eq!(update(more).await.unwrap_err().code(), Code::InvalidArgument);
    marked.metadata.as_mut().unwrap().finalizers.remove(0);
    let mut marked = update(marked).await.unwrap().into_inner().pod.unwrap();
    assert!(!is_gone(&root, "held").await);
    marked.metadata.as_mut().unwrap().finalizers.clear();
    update(marked).await.unwrap();
    assert!(is_gone(&root, "held").await);
    server.stop().await;
}

#[tokio::test]
async fn a_bound_pod_waits_for_its_node_and_for_its_finalizers() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let mut held = pod_on("held", "n1");
    held.metadata.as_mut().unwrap().finalizers = vec!["example.io/a".into()];
    create_pod(&root, held).await;
    delete(&root, "held", None).await.unwrap();
    let mut stopped = delete(&root, "held", Some(0)).await.unwrap();
    assert!(!is_gone(&root, "held").await, "the finalizer holds it");
    stopped.metadata.as_mut().unwrap().finalizers.clear();
    pods(&root)
        .update_pod(UpdatePodRequest {
            pod: Some(stopped),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(is_gone(&root, "held").await);
    server.stop().await;
}

#[tokio::test]
async fn a_new_pod_of_the_same_name_is_another_pod() {
    let server = Server::start().await;
    let root = server.root();
    let first = create_pod(&root, pod("web")).await;
    delete(&root, "web", None).await.unwrap();
    let second = create_pod(&root, pod("web")).await;
    assert_ne!(first.metadata.unwrap().uid, second.metadata.unwrap().uid);
    server.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_being_deleted_is_not_bound() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let mut held = pod("held");
    held.metadata.as_mut().unwrap().finalizers = vec!["example.io/a".into()];
    create_pod(&root, held).await;
    delete(&root, "held", None).await.unwrap();
    let error = pods(&root)
        .bind_pod(BindPodRequest {
            name: "held".into(),
            node_name: "n1".into(),
            ..BindPodRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "BEING_DELETED".into()));
    server.stop().await;
}
