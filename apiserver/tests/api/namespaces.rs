//! Namespaces: nothing is created outside of one, and one is emptied before it goes.

use std::time::Duration;

use clone8s::v1::*;
use tokio::time::{sleep, timeout};
use tonic::{Code, transport::Channel};

use crate::harness::*;

async fn create(channel: &Channel, name: &str) -> Namespace {
    namespaces(channel)
        .create_namespace(CreateNamespaceRequest {
            namespace: Some(Namespace {
                metadata: meta(name),
                status: None,
            }),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .namespace
        .unwrap()
}

async fn get(channel: &Channel, name: &str) -> Option<Namespace> {
    match namespaces(channel)
        .get_namespace(GetNamespaceRequest { name: name.into() })
        .await
    {
        Ok(found) => found.into_inner().namespace,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound);
            None
        }
    }
}

fn pod_in(namespace: &str, name: &str) -> Pod {
    let mut pod = pod(name);
    pod.metadata.as_mut().unwrap().namespace = namespace.into();
    pod
}

#[tokio::test]
async fn the_default_namespace_is_there_from_the_start_and_stays() {
    let server = Server::start().await;
    let root = server.root();
    let default = get(&root, "default").await.unwrap();
    assert_eq!(default.status.unwrap().phase, "Active");
    let error = namespaces(&root)
        .delete_namespace(DeleteNamespaceRequest {
            name: "default".into(),
            ..DeleteNamespaceRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "UNDELETABLE".into()));
    server.stop().await;
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_missing() {
    let server = Server::start().await;
    let error = try_create_pod(&server.root(), pod_in("nowhere", "web"))
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::NotFound, "NOT_FOUND".into()));
    assert_eq!(error.message(), "Namespace nowhere not found");
    server.stop().await;
}

#[tokio::test]
async fn a_namespace_is_emptied_before_it_goes() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    create(&root, "team").await;
    create_pod(&root, pod_in("team", "unbound")).await;
    let mut running = pod_in("team", "running");
    running.spec.as_mut().unwrap().node_name = "n1".into();
    create_pod(&root, running).await;
    let mut secret = Secret {
        metadata: meta("key"),
        ..Secret::default()
    };
    secret.metadata.as_mut().unwrap().namespace = "team".into();
    secrets(&root)
        .create_secret(CreateSecretRequest {
            secret: Some(secret),
            ..Default::default()
        })
        .await
        .unwrap();
    let ending = namespaces(&root)
        .delete_namespace(DeleteNamespaceRequest {
            name: "team".into(),
            ..DeleteNamespaceRequest::default()
        })
        .await
        .unwrap()
        .into_inner()
        .namespace
        .unwrap();
    assert_eq!(ending.status.unwrap().phase, "Terminating");

    let error = try_create_pod(&root, pod_in("team", "late")).await.unwrap_err();
    assert_eq!(
        told(&error),
        (Code::FailedPrecondition, "NAMESPACE_TERMINATING".into())
    );
    assert!(error.message().contains("team"), "{}", error.message());

    // The running pod is asked to end, and holds the namespace until its node has stopped it.
    let asked = async {
        loop {
            let request = GetPodRequest {
                namespace: "team".into(),
                name: "running".into(),
            };
            let pod = pods(&root)
                .get_pod(request)
                .await
                .unwrap()
                .into_inner()
                .pod
                .unwrap();
            if pod.metadata.unwrap().deletion_timestamp.is_some() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap();
    assert!(get(&root, "team").await.is_some());
    pods(&root)
        .delete_pod(DeletePodRequest {
            namespace: "team".into(),
            name: "running".into(),
            grace_period_seconds: Some(0),
            ..DeletePodRequest::default()
        })
        .await
        .unwrap();
    let gone = async {
        while get(&root, "team").await.is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let left = pods(&root)
        .list_pods(ListPodsRequest {
            namespace: "team".into(),
            ..ListPodsRequest::default()
        })
        .await
        .unwrap()
        .into_inner()
        .pods;
    assert!(left.is_empty());
    // The name is free again.
    create(&root, "team").await;
    server.stop().await;
}

#[tokio::test]
async fn an_ending_namespace_goes_on_ending_after_a_restart() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    create(&root, "team").await;
    let mut running = pod_in("team", "running");
    running.spec.as_mut().unwrap().node_name = "n1".into();
    create_pod(&root, running).await;
    namespaces(&root)
        .delete_namespace(DeleteNamespaceRequest {
            name: "team".into(),
            ..DeleteNamespaceRequest::default()
        })
        .await
        .unwrap();
    let server = Server::start_in(server.stop().await).await;
    let root = server.root();
    pods(&root)
        .delete_pod(DeletePodRequest {
            namespace: "team".into(),
            name: "running".into(),
            grace_period_seconds: Some(0),
            ..DeletePodRequest::default()
        })
        .await
        .unwrap();
    let gone = async {
        while get(&root, "team").await.is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    server.stop().await;
}
