//! Updates that name what they change.

use clone8s::v1::*;
use pbjson_types::FieldMask;
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

async fn update(channel: &Channel, pod: Pod, paths: &[&str]) -> Result<Pod, Status> {
    let request = UpdatePodRequest {
        pod: Some(pod),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
        ..UpdatePodRequest::default()
    };
    Ok(pods(channel).update_pod(request).await?.into_inner().pod.unwrap())
}

fn labels(pod: &Pod) -> Vec<(&str, &str)> {
    let labels = &pod.metadata.as_ref().unwrap().labels;
    labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

#[tokio::test]
async fn a_masked_update_changes_what_it_names() {
    let server = Server::start().await;
    let root = server.root();
    let mut created = pod("web");
    created.metadata = labelled("web", &[("app", "a"), ("team", "x")]);
    let created = create_pod(&root, created).await;

    let given = Pod {
        metadata: labelled("web", &[("app", "b")]),
        spec: None,
        status: None,
    };
    let updated = update(&root, given.clone(), &["metadata.labels.app"])
        .await
        .unwrap();
    assert_eq!(labels(&updated), [("app", "b"), ("team", "x")]);
    assert_eq!(updated.spec, created.spec);

    let updated = update(&root, given, &["metadata.labels"]).await.unwrap();
    assert_eq!(labels(&updated), [("app", "b")]);
    let meta = updated.metadata.as_ref().unwrap();
    assert_eq!(meta.uid, created.metadata.as_ref().unwrap().uid);
    assert_eq!(meta.generation, 1, "labels are not counted");
    server.stop().await;
}

#[tokio::test]
async fn writers_of_different_fields_do_not_get_in_each_others_way() {
    let server = Server::start().await;
    let root = server.root();
    create_pod(&root, pod("web")).await;
    let keys: Vec<_> = (0..8).map(|at| format!("key{at}")).collect();
    let writers = keys.iter().map(|key| {
        let mut given = pod("web");
        given.metadata = labelled("web", &[(key, "set")]);
        let root = root.clone();
        async move { update(&root, given, &[&format!("metadata.labels.{key}")]).await }
    });
    for written in futures::future::join_all(writers).await {
        written.unwrap();
    }
    let stored = get_pod(&root, "web").await.unwrap();
    assert_eq!(labels(&stored).len(), keys.len());
    server.stop().await;
}

#[tokio::test]
async fn a_masked_update_is_held_to_the_rules_and_to_the_revision_that_it_names() {
    let server = Server::start().await;
    let root = server.root();
    let created = create_pod(&root, pod("web")).await;
    // What the mask names and the object lacks becomes unset, which is not always valid.
    let bare = Pod {
        metadata: meta("web"),
        ..Pod::default()
    };
    let error = update(&root, bare.clone(), &["spec.containers"])
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));

    let error = update(&root, bare, &["spec.contianers"]).await.unwrap_err();
    let violations = details(&error).bad_request().unwrap().field_violations.clone();
    assert_eq!(violations[0].field, "update_mask");
    assert!(
        violations[0].description.contains("\"spec.contianers\"")
            && violations[0].description.contains("did you mean \"containers\"?"),
        "{violations:?}"
    );

    let mut seen = created.clone();
    seen.metadata
        .as_mut()
        .unwrap()
        .labels
        .insert("a".into(), "1".into());
    update(&root, seen.clone(), &["metadata.labels"]).await.unwrap();
    let error = update(&root, seen, &["metadata.labels"]).await.unwrap_err();
    assert_eq!(told(&error), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
    server.stop().await;
}
