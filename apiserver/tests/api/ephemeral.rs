//! Containers for a look into a pod: they come by one call, and stay.

use clone8s::v1::*;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::harness::*;

fn look(name: &str) -> EphemeralContainer {
    EphemeralContainer {
        name: name.into(),
        image: "busybox:1.36".into(),
        ..EphemeralContainer::default()
    }
}

fn to_web(container: EphemeralContainer) -> AddEphemeralContainerRequest {
    AddEphemeralContainerRequest {
        name: "web".into(),
        container: Some(container),
        ..AddEphemeralContainerRequest::default()
    }
}

async fn add(channel: &Channel, request: AddEphemeralContainerRequest) -> Result<Pod, Status> {
    let added = pods(channel).add_ephemeral_container(request).await?;
    Ok(added.into_inner().pod.unwrap())
}

fn names(pod: &Pod) -> Vec<&str> {
    let spec = pod.spec.as_ref().unwrap();
    let containers = spec.ephemeral_containers.iter();
    containers.map(|container| container.name.as_str()).collect()
}

/// The only bad field that a refusal names, and why.
fn bad_field(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let bad = status.get_details_bad_request().unwrap();
    let [violation] = bad.field_violations.try_into().unwrap();
    (violation.field, violation.description)
}

#[tokio::test]
async fn one_is_added_to_what_there_is_with_its_defaults() {
    let (_server, root, before) = running().await;
    let tried = add(
        &root,
        AddEphemeralContainerRequest {
            validate_only: true,
            ..to_web(look("one"))
        },
    );
    assert_eq!(names(&tried.await.unwrap()), ["one"]);
    let added = add(&root, to_web(look("one"))).await.unwrap();
    let (meta, was) = (added.metadata.as_ref().unwrap(), before.metadata.unwrap());
    assert_eq!(meta.generation, was.generation + 1);
    let one = &added.spec.as_ref().unwrap().ephemeral_containers[0];
    assert_eq!(one.image_pull_policy, "IfNotPresent");

    let repeated = AddEphemeralContainerRequest {
        request_id: "r1".into(),
        ..to_web(look("two"))
    };
    for _ in 0..2 {
        let added = add(&root, repeated.clone()).await.unwrap();
        assert_eq!(names(&added), ["one", "two"]);
    }
    let stale = AddEphemeralContainerRequest {
        resource_version: was.resource_version,
        ..to_web(look("three"))
    };
    assert_eq!(add(&root, stale).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn what_is_wrong_with_an_addition_is_told_with_its_place() {
    let (_server, root, _) = running().await;
    add(&root, to_web(look("one"))).await.unwrap();
    let taken = add(&root, to_web(look("one"))).await.unwrap_err();
    assert_eq!(bad_field(&taken).0, "spec.ephemeralContainers[1].name");
    let aimless = EphemeralContainer {
        target_container_name: "wen".into(),
        ..look("two")
    };
    let (field, why) = bad_field(&add(&root, to_web(aimless)).await.unwrap_err());
    assert_eq!(field, "spec.ephemeralContainers[1].targetContainerName");
    assert!(why.contains("but is \"wen\""), "{why}");
    let missing = AddEphemeralContainerRequest {
        container: None,
        ..to_web(look("two"))
    };
    assert_eq!(bad_field(&add(&root, missing).await.unwrap_err()).0, "container");
    let nowhere = AddEphemeralContainerRequest {
        name: "wen".into(),
        ..to_web(look("two"))
    };
    assert_eq!(add(&root, nowhere).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn no_other_write_adds_changes_or_removes_one() {
    let (_server, root, _) = running().await;
    let mut new = pod_on("other", "n1");
    new.spec.as_mut().unwrap().ephemeral_containers = vec![look("one")];
    let create = CreatePodRequest {
        pod: Some(new.clone()),
        ..CreatePodRequest::default()
    };
    let refused = pods(&root).create_pod(create).await.unwrap_err();
    assert_eq!(bad_field(&refused).0, "spec.ephemeralContainers");
    let apply = |pod: Pod| ApplyPodRequest {
        pod: Some(pod),
        field_manager: "me".into(),
        ..ApplyPodRequest::default()
    };
    let refused = pods(&root).apply_pod(apply(new)).await.unwrap_err();
    assert_eq!(bad_field(&refused).0, "spec.ephemeralContainers");

    let added = add(&root, to_web(look("one"))).await.unwrap();
    let changes: [fn(&mut PodSpec); 3] = [
        |spec| spec.ephemeral_containers.push(look("two")),
        |spec| spec.ephemeral_containers[0].image = "busybox:1.37".into(),
        |spec| spec.ephemeral_containers.clear(),
    ];
    for change in changes {
        let mut changed = added.clone();
        change(changed.spec.as_mut().unwrap());
        let update = UpdatePodRequest {
            pod: Some(changed),
            ..UpdatePodRequest::default()
        };
        let refused = pods(&root).update_pod(update).await.unwrap_err();
        let (field, why) = bad_field(&refused);
        assert_eq!(field, "spec.ephemeralContainers");
        assert!(why.contains("AddEphemeralContainer"), "{why}");
    }

    // Whoever applies what they know of the pod leaves alone what they do not name.
    let applied = pods(&root).apply_pod(apply(pod_on("web", "n1"))).await.unwrap();
    assert_eq!(names(&applied.into_inner().pod.unwrap()), ["one"]);
    let mut more = pod_on("web", "n1");
    more.spec.as_mut().unwrap().ephemeral_containers = vec![look("two")];
    let refused = pods(&root).apply_pod(apply(more)).await.unwrap_err();
    assert_eq!(bad_field(&refused).0, "spec.ephemeralContainers");
}

#[tokio::test]
async fn a_pod_that_is_ending_or_has_ended_takes_none() {
    let (_server, root, mut pod) = running().await;
    pod.status = Some(PodStatus {
        phase: "Succeeded".into(),
        ..PodStatus::default()
    });
    let status = UpdatePodStatusRequest {
        pod: Some(pod),
        ..UpdatePodStatusRequest::default()
    };
    pods(&root).update_pod_status(status).await.unwrap();
    let refused = add(&root, to_web(look("one"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("it has ended (Succeeded)"),
        "{refused}"
    );

    create_pod(&root, pod_on("next", "n1")).await;
    let delete = DeletePodRequest {
        name: "next".into(),
        ..DeletePodRequest::default()
    };
    pods(&root).delete_pod(delete).await.unwrap();
    let ending = AddEphemeralContainerRequest {
        name: "next".into(),
        ..to_web(look("one"))
    };
    let refused = add(&root, ending).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("is being deleted"), "{refused}");
}
