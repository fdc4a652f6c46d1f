//! Writes that are sent again because their answer was lost, and writes that only ask what would happen.

use clone8s::v1::*;
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

const ID: &str = "5a2bb0a7-9a6c-4a31-8f6e-0f5d4d8f9b5d";

async fn create(channel: &Channel, pod: Pod, request_id: &str) -> Result<Pod, Status> {
    let request = CreatePodRequest {
        pod: Some(pod),
        request_id: request_id.into(),
        ..CreatePodRequest::default()
    };
    Ok(pods(channel).create_pod(request).await?.into_inner().pod.unwrap())
}

async fn update(channel: &Channel, pod: Pod, request_id: &str) -> Result<Pod, Status> {
    let request = UpdatePodRequest {
        pod: Some(pod),
        request_id: request_id.into(),
        ..UpdatePodRequest::default()
    };
    Ok(pods(channel).update_pod(request).await?.into_inner().pod.unwrap())
}

async fn delete(channel: &Channel, name: &str, request_id: &str) -> Result<Pod, Status> {
    let request = DeletePodRequest {
        name: name.into(),
        request_id: request_id.into(),
        ..DeletePodRequest::default()
    };
    Ok(pods(channel).delete_pod(request).await?.into_inner().pod.unwrap())
}

fn uid(pod: &Pod) -> &str {
    &pod.metadata.as_ref().unwrap().uid
}

#[tokio::test]
async fn a_creation_that_is_repeated_makes_one_object() {
    let server = Server::start().await;
    let root = server.root();
    let first = create(&root, pod("web"), ID).await.unwrap();
    assert_eq!(create(&root, pod("web"), ID).await.unwrap(), first);
    // Another request, and one that says nothing, are others.
    for id in ["another", ""] {
        let error = create(&root, pod("web"), id).await.unwrap_err();
        assert_eq!(told(&error), (Code::AlreadyExists, "ALREADY_EXISTS".into()));
    }

    // A name that is made is made again.
    let mut unnamed = pod("");
    unnamed.metadata.as_mut().unwrap().generate_name = "job-".into();
    let first = create(&root, unnamed.clone(), ID).await.unwrap();
    assert_eq!(create(&root, unnamed.clone(), ID).await.unwrap(), first);
    let other = create(&root, unnamed, "another").await.unwrap();
    assert_ne!(uid(&other), uid(&first));
    server.stop().await;
}

#[tokio::test]
async fn creations_that_are_sent_at_once_make_one_object() {
    let server = Server::start().await;
    let root = server.root();
    let sent = (0..8).map(|_| create(&root, pod("web"), ID));
    let made: Vec<_> = futures::future::join_all(sent)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(made.iter().all(|pod| uid(pod) == uid(&made[0])));
    server.stop().await;
}

#[tokio::test]
async fn an_update_that_is_repeated_is_done_once_even_after_a_restart() {
    let server = Server::start().await;
    let root = server.root();
    let seen = create_pod(&root, pod("web")).await;
    let mut changed = seen.clone();
    changed
        .metadata
        .as_mut()
        .unwrap()
        .labels
        .insert("a".into(), "1".into());
    let first = update(&root, changed.clone(), ID).await.unwrap();
    // Somebody else has written meanwhile.
    let mut theirs = first.clone();
    theirs
        .metadata
        .as_mut()
        .unwrap()
        .labels
        .insert("a".into(), "2".into());
    let theirs = update(&root, theirs, "theirs").await.unwrap();

    let server = Server::start_in(server.stop().await).await;
    let root = server.root();
    assert_eq!(update(&root, changed.clone(), ID).await.unwrap(), theirs);
    let error = update(&root, changed, "new").await.unwrap_err();
    assert_eq!(told(&error), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
    let error = create(&root, pod("web"), ID).await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_that_is_repeated_leaves_the_next_object_of_that_name() {
    let server = Server::start().await;
    let root = server.root();
    let old = create_pod(&root, pod("web")).await;
    let deleted = delete(&root, "web", ID).await.unwrap();
    assert_eq!(uid(&deleted), uid(&old));
    let again = delete(&root, "web", ID).await.unwrap();
    assert_eq!(uid(&again), uid(&old));
    assert_eq!(again.spec, None, "what it held is gone");

    let new = create_pod(&root, pod("web")).await;
    let server = Server::start_in(server.stop().await).await;
    let root = server.root();
    assert_eq!(uid(&delete(&root, "web", ID).await.unwrap()), uid(&old));
    assert_eq!(get_pod(&root, "web").await.unwrap(), new);
    let error = delete(&root, "never", ID).await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_of_what_somebody_else_removed_finds_nothing() {
    let server = Server::start().await;
    let root = server.root();
    create_pod(&root, pod("web")).await;
    delete(&root, "web", "theirs").await.unwrap();
    // It is not known whether it was sent before: it has removed nothing.
    for _ in 0..2 {
        let error = delete(&root, "web", ID).await.unwrap_err();
        assert_eq!(told(&error), (Code::NotFound, "NOT_FOUND".into()));
    }
    server.stop().await;
}

#[tokio::test]
async fn deletions_that_are_sent_at_once_remove_one_object() {
    let server = Server::start().await;
    let root = server.root();
    let old = create_pod(&root, pod("web")).await;
    // Each makes sure of a new object of that name as soon as it is answered.
    let sent = (0..8).map(|_| async {
        let deleted = delete(&root, "web", ID).await.unwrap();
        let _ = create(&root, pod("web"), "").await;
        deleted
    });
    for deleted in futures::future::join_all(sent).await {
        assert_eq!(uid(&deleted), uid(&old));
    }
    get_pod(&root, "web").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn every_write_can_be_tried_without_being_done() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let created = create_pod(&root, pod("web")).await;
    let bind = BindPodRequest {
        name: "web".into(),
        node_name: "n1".into(),
        validate_only: true,
        ..BindPodRequest::default()
    };
    let bound = pods(&root)
        .bind_pod(bind)
        .await
        .unwrap()
        .into_inner()
        .pod
        .unwrap();
    assert_eq!(bound.spec.unwrap().node_name, "n1");
    let mut running = created.clone();
    running.status.get_or_insert_default().phase = "Running".into();
    let status = UpdatePodStatusRequest {
        pod: Some(running),
        validate_only: true,
        ..UpdatePodStatusRequest::default()
    };
    pods(&root).update_pod_status(status).await.unwrap();
    let delete = DeletePodRequest {
        name: "web".into(),
        validate_only: true,
        ..DeletePodRequest::default()
    };
    pods(&root).delete_pod(delete).await.unwrap();
    assert_eq!(get_pod(&root, "web").await.unwrap(), created);
    server.stop().await;
}
