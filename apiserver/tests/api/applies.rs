//! Applying: who has which fields, and what becomes of them.

use clone8s::{
    client::{ApplyOptions, Resource as _},
    v1::*,
};
use pbjson_types::FieldMask;
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

fn by(field_manager: &str) -> ApplyOptions {
    ApplyOptions {
        field_manager: field_manager.into(),
        ..ApplyOptions::default()
    }
}

async fn apply(channel: &Channel, pod: Pod, manager: &str) -> Result<(Pod, ApplyOutcome), Status> {
    Pod::apply(channel, pod, &by(manager)).await
}

fn with_labels(labels: &[(&str, &str)]) -> Pod {
    Pod {
        metadata: labelled("web", labels),
        ..Pod::default()
    }
}

fn labels(pod: &Pod) -> Vec<(&str, &str)> {
    let labels = &pod.metadata.as_ref().unwrap().labels;
    labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

fn managers(pod: &Pod) -> Vec<(&str, &str)> {
    let managed = &pod.metadata.as_ref().unwrap().managed_fields;
    managed
        .iter()
        .map(|it| (it.manager.as_str(), it.operation.as_str()))
        .collect()
}

fn version(pod: &Pod) -> i64 {
    pod.metadata.as_ref().unwrap().resource_version
}

#[tokio::test]
async fn applying_creates_then_changes_then_leaves_alone() {
    let server = Server::start().await;
    let root = server.root();
    let mut desired = pod("web");
    desired.metadata = labelled("web", &[("app", "web"), ("old", "x")]);
    let (created, outcome) = apply(&root, desired.clone(), "c8s").await.unwrap();
    assert_eq!(outcome, ApplyOutcome::Created);
    assert_eq!(managers(&created), [("c8s", "Apply")]);
    let (again, outcome) = apply(&root, desired.clone(), "c8s").await.unwrap();
    assert_eq!(
        (version(&again), outcome),
        (version(&created), ApplyOutcome::Unchanged)
    );

    desired.metadata.as_mut().unwrap().labels.remove("old");
    desired.spec.as_mut().unwrap().containers[0].image = "registry.example/app:2".into();
    let (changed, outcome) = apply(&root, desired, "c8s").await.unwrap();
    assert_eq!(outcome, ApplyOutcome::Configured);
    assert_eq!(labels(&changed), [("app", "web")]);
    let spec = changed.spec.as_ref().unwrap();
    assert_eq!(spec.containers[0].image, "registry.example/app:2");
    // Nobody named the defaults, and they stay.
    assert_eq!(spec.restart_policy, "Always");
    assert_eq!(changed.metadata.as_ref().unwrap().generation, 2);
    assert_eq!(get_pod(&root, "web").await.unwrap(), changed);
    server.stop().await;
}

#[tokio::test]
async fn another_managers_field_is_refused_by_name_until_it_is_forced() {
    let server = Server::start().await;
    let root = server.root();
    apply(&root, pod("web"), "c8s").await.unwrap();
    let mut theirs = pod("web");
    theirs.spec.as_mut().unwrap().containers[0].image = "registry.example/app:9".into();
    let error = apply(&root, theirs.clone(), "deployer").await.unwrap_err();
    assert_eq!(told(&error), (Code::FailedPrecondition, "FIELD_CONFLICT".into()));
    let told = details(&error);
    let metadata = &told.error_info().unwrap().metadata;
    assert_eq!(metadata["field"], "spec.containers[main].image");
    assert_eq!(metadata["manager"], "c8s");
    let violations = &told.precondition_failure().unwrap().violations;
    assert_eq!(violations[0].subject, "spec.containers[main].image");

    let force = ApplyOptions {
        force: true,
        ..by("deployer")
    };
    let (forced, _) = Pod::apply(&root, theirs, &force).await.unwrap();
    assert_eq!(forced.spec.unwrap().containers[0].image, "registry.example/app:9");
    let error = apply(&root, pod("web"), "c8s").await.unwrap_err();
    assert_eq!(
        details(&error).error_info().unwrap().metadata["manager"],
        "deployer"
    );
    server.stop().await;
}

#[tokio::test]
async fn managers_keep_their_own_fields_of_one_object() {
    let server = Server::start().await;
    let root = server.root();
    // By nobody in particular, as plain clients do.
    let mut made = pod("web");
    made.metadata = labelled("web", &[("made", "1")]);
    let made = create_pod(&root, made).await;
    assert_eq!(managers(&made), []);
    apply(&root, with_labels(&[("a", "1")]), "one").await.unwrap();
    apply(&root, with_labels(&[("b", "2")]), "two").await.unwrap();
    let (object, _) = apply(&root, with_labels(&[]), "one").await.unwrap();
    assert_eq!(labels(&object), [("b", "2"), ("made", "1")]);
    assert_eq!(managers(&object), [("two", "Apply")]);
    assert_eq!(object.spec, made.spec);
    server.stop().await;
}

#[tokio::test]
async fn an_update_has_the_fields_that_it_changes() {
    let server = Server::start().await;
    let root = server.root();
    apply(
        &root,
        {
            let mut pod = pod("web");
            pod.metadata = labelled("web", &[("a", "1"), ("b", "1")]);
            pod
        },
        "c8s",
    )
    .await
    .unwrap();
    let request = UpdatePodRequest {
        pod: Some(with_labels(&[("a", "2")])),
        update_mask: Some(FieldMask {
            paths: vec!["metadata.labels.a".into()],
        }),
        field_manager: "tuner".into(),
        ..UpdatePodRequest::default()
    };
    let updated = pods(&root)
        .update_pod(request)
        .await
        .unwrap()
        .into_inner()
        .pod
        .unwrap();
    let managed = &updated.metadata.as_ref().unwrap().managed_fields;
    let tuner = managed.iter().find(|it| it.manager == "tuner").unwrap();
    assert_eq!(
        (tuner.operation.as_str(), tuner.fields.as_str()),
        ("Update", "metadata(labels([a]))")
    );
    let error = apply(&root, with_labels(&[("a", "1")]), "c8s").await.unwrap_err();
    assert_eq!(details(&error).error_info().unwrap().metadata["manager"], "tuner");
    server.stop().await;
}

#[tokio::test]
async fn what_the_scheduler_and_the_node_write_is_left_alone() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    apply(&root, pod("web"), "c8s").await.unwrap();
    let bind = BindPodRequest {
        name: "web".into(),
        node_name: "n1".into(),
        ..BindPodRequest::default()
    };
    pods(&root).bind_pod(bind).await.unwrap();
    let mut running = get_pod(&root, "web").await.unwrap();
    running.status.as_mut().unwrap().phase = "Running".into();
    let status = UpdatePodStatusRequest {
        pod: Some(running),
        ..UpdatePodStatusRequest::default()
    };
    pods(&root).update_pod_status(status).await.unwrap();
    let mut next = pod("web");
    next.metadata = labelled("web", &[("a", "1")]);
    let (object, _) = apply(&root, next, "c8s").await.unwrap();
    assert_eq!(object.spec.unwrap().node_name, "n1");
    assert_eq!(object.status.unwrap().phase, "Running");
    server.stop().await;
}

#[tokio::test]
async fn a_manifest_is_applied_again_after_what_a_get_has_shown_was() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let (created, _) = apply(&root, pod("web"), "c8s").await.unwrap();
    let bind = BindPodRequest {
        name: "web".into(),
        node_name: "n1".into(),
        ..BindPodRequest::default()
    };
    pods(&root).bind_pod(bind).await.unwrap();
    let look = AddEphemeralContainerRequest {
        name: "web".into(),
        container: Some(EphemeralContainer {
            name: "look".into(),
            image: "busybox:1.36".into(),
            ..EphemeralContainer::default()
        }),
        ..AddEphemeralContainerRequest::default()
    };
    pods(&root).add_ephemeral_container(look).await.unwrap();

    let mut shown = get_pod(&root, "web").await.unwrap();
    shown.metadata.as_mut().unwrap().managed_fields.clear();
    let (_, outcome) = apply(&root, shown.clone(), "c8s").await.unwrap();
    assert_eq!(outcome, ApplyOutcome::Unchanged);
    let (object, outcome) = apply(&root, pod("web"), "c8s").await.unwrap();
    assert_eq!((object.spec, outcome), (shown.spec, ApplyOutcome::Unchanged));
    let fields = |pod: &Pod| pod.metadata.as_ref().unwrap().managed_fields[0].fields.clone();
    assert_eq!(fields(&get_pod(&root, "web").await.unwrap()), fields(&created));
    server.stop().await;
}

#[tokio::test]
async fn an_apply_is_tried_repeated_and_held_to_the_rules() {
    let server = Server::start().await;
    let root = server.root();
    let trial = ApplyOptions {
        validate_only: true,
        ..by("c8s")
    };
    let (_, outcome) = Pod::apply(&root, pod("web"), &trial).await.unwrap();
    assert_eq!(outcome, ApplyOutcome::Created);
    assert_eq!(get_pod(&root, "web").await.unwrap_err().code(), Code::NotFound);

    let request = |labels| ApplyPodRequest {
        pod: Some({
            let mut pod = pod("web");
            pod.metadata = labelled("web", labels);
            pod
        }),
        request_id: "first".into(),
        field_manager: "c8s".into(),
        ..ApplyPodRequest::default()
    };
    let made = pods(&root).apply_pod(request(&[])).await.unwrap().into_inner();
    assert_eq!(made.outcome(), ApplyOutcome::Created);
    let again = pods(&root)
        .apply_pod(request(&[("a", "1")]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (again.pod, again.outcome),
        (made.pod.clone(), ApplyOutcome::Unchanged.into())
    );

    let error = apply(&root, pod("web"), "").await.unwrap_err();
    assert_eq!(
        details(&error).bad_request().unwrap().field_violations[0].field,
        "field_manager"
    );
    let mut bad = pod("web");
    bad.spec.as_mut().unwrap().containers[0].image = "No Image".into();
    let error = apply(&root, bad, "c8s").await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    let mut stale = made.pod.unwrap();
    stale.metadata.as_mut().unwrap().resource_version -= 1;
    let error = apply(&root, stale, "c8s").await.unwrap_err();
    assert_eq!(told(&error), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_secret_written_as_text_loses_what_its_manifest_drops() {
    let server = Server::start().await;
    let root = server.root();
    let secret = |keys: &[&str]| Secret {
        metadata: meta("keys"),
        string_data: keys.iter().map(|key| ((*key).into(), "hunter2".into())).collect(),
        ..Secret::default()
    };
    Secret::apply(&root, secret(&["a", "b"]), &by("c8s"))
        .await
        .unwrap();
    let (left, _) = Secret::apply(&root, secret(&["b"]), &by("c8s")).await.unwrap();
    assert_eq!(left.data.keys().collect::<Vec<_>>(), ["b"]);
    let mut theirs = secret(&[]);
    theirs.string_data.insert("b".into(), "hunter3".into());
    let error = Secret::apply(&root, theirs, &by("other")).await.unwrap_err();
    assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn appliers_at_once_all_come_through() {
    let server = Server::start().await;
    let root = server.root();
    let names: Vec<_> = (0..8).map(|at| format!("m{at}")).collect();
    let appliers = names.iter().map(|name| {
        let mut desired = pod("web");
        desired.metadata = labelled("web", &[(name, "set")]);
        let root = root.clone();
        async move { apply(&root, desired, name).await }
    });
    for applied in futures::future::join_all(appliers).await {
        applied.unwrap();
    }
    let stored = get_pod(&root, "web").await.unwrap();
    assert_eq!(labels(&stored).len(), names.len());
    assert_eq!(managers(&stored).len(), names.len());
    server.stop().await;
}
