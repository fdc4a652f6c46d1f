//! Deletion of what selectors choose.

use clone8s::v1::*;
use tonic::{Code, transport::Channel};

use crate::harness::*;

async fn create_labelled(channel: &Channel, name: &str, app: &str) -> Pod {
    let mut pod = pod(name);
    pod.metadata = labelled(name, &[("app", app)]);
    create_pod(channel, pod).await
}

fn of_app(app: &str) -> DeletePodsRequest {
    DeletePodsRequest {
        label_selector: format!("app={app}"),
        ..DeletePodsRequest::default()
    }
}

async fn delete(channel: &Channel, request: DeletePodsRequest) -> DeletePodsResponse {
    pods(channel).delete_pods(request).await.unwrap().into_inner()
}

async fn left(channel: &Channel) -> Vec<String> {
    let listed = pods(channel).list_pods(ListPodsRequest::default()).await.unwrap();
    let pods = listed.into_inner().pods;
    pods.into_iter().map(|pod| pod.metadata.unwrap().name).collect()
}

#[tokio::test]
async fn what_a_selector_chooses_goes_and_the_rest_stays() {
    let server = Server::start().await;
    let root = server.root();
    for (name, app) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        create_labelled(&root, name, app).await;
    }
    let trial = delete(
        &root,
        DeletePodsRequest {
            validate_only: true,
            ..of_app("a")
        },
    )
    .await;
    assert_eq!((trial.deleted_count, left(&root).await.len()), (2, 3));

    let done = delete(&root, of_app("a")).await;
    let names: Vec<_> = done
        .deletions
        .iter()
        .map(|it| (it.name.as_str(), it.gone))
        .collect();
    assert_eq!(names, [("a1", true), ("a2", true)]);
    assert_eq!(
        (done.deleted_count, done.ending_count, done.failed_count),
        (2, 0, 0)
    );
    assert_eq!(left(&root).await, ["b1"]);
    server.stop().await;
}

#[tokio::test]
async fn everything_is_chosen_only_by_saying_so() {
    let server = Server::start().await;
    let root = server.root();
    create_labelled(&root, "a1", "a").await;
    let error = pods(&root)
        .delete_pods(DeletePodsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    assert_eq!(
        details(&error).bad_request().unwrap().field_violations[0].field,
        "all"
    );
    let all = DeletePodsRequest {
        all: true,
        ..DeletePodsRequest::default()
    };
    assert_eq!(delete(&root, all).await.deleted_count, 1);
    assert!(left(&root).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_large_selection_goes_page_by_page() {
    let server = Server::start().await;
    let root = server.root();
    for at in 0..5 {
        create_labelled(&root, &format!("a{at}"), "a").await;
    }
    let mut request = DeletePodsRequest {
        page_size: 2,
        ..of_app("a")
    };
    let mut pages = Vec::new();
    loop {
        let page = delete(&root, request.clone()).await;
        pages.push(page.deletions.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [2, 2, 1]);
    assert!(left(&root).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_that_is_repeated_deletes_what_it_chose_the_first_time_and_nothing_else() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let mut bound = pod_on("bound", "n1");
    bound.metadata = labelled("bound", &[("app", "a")]);
    let bound = create_pod(&root, bound).await;
    create_labelled(&root, "a1", "a").await;
    let request = DeletePodsRequest {
        request_id: "once".into(),
        // What has changed since is left: an end that was asked for by this very call is no such change.
        resource_version: bound.metadata.unwrap().resource_version + 1,
        ..of_app("a")
    };
    let first = delete(&root, request.clone()).await;
    assert_eq!(
        (first.deleted_count, first.ending_count, first.failed_count),
        (1, 1, 0)
    );

    // Another of that name, and one that fits the selector only now.
    create_labelled(&root, "a1", "a").await;
    create_labelled(&root, "a2", "a").await;
    let server = Server::start_in(server.stop().await).await;
    let root = server.root();
    assert_eq!(delete(&root, request.clone()).await, first);
    assert_eq!(left(&root).await, ["a1", "a2", "bound"]);

    let other = DeletePodsRequest {
        page_size: 1,
        ..request
    };
    let error = pods(&root).delete_pods(other).await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    server.stop().await;
}

#[tokio::test]
async fn one_that_ends_or_fails_holds_up_no_other() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let mut bound = pod_on("bound", "n1");
    bound.metadata = labelled("bound", &[("app", "a")]);
    create_pod(&root, bound).await;
    create_labelled(&root, "free", "a").await;
    let done = delete(&root, of_app("a")).await;
    assert_eq!((done.deleted_count, done.ending_count), (1, 1));
    assert_eq!(left(&root).await, ["bound"]);
    let now = DeletePodsRequest {
        grace_period_seconds: Some(0),
        ..of_app("a")
    };
    assert_eq!(delete(&root, now).await.deleted_count, 1);

    namespaces(&root)
        .create_namespace(CreateNamespaceRequest {
            namespace: Some(Namespace {
                metadata: meta("staging"),
                status: None,
            }),
            ..CreateNamespaceRequest::default()
        })
        .await
        .unwrap();
    let all = DeleteNamespacesRequest {
        all: true,
        ..DeleteNamespacesRequest::default()
    };
    let done = namespaces(&root)
        .delete_namespaces(all)
        .await
        .unwrap()
        .into_inner();
    let error = done.deletions[0].error.as_ref().unwrap();
    assert_eq!(done.deletions[0].name, "default");
    assert_eq!(
        (error.code, error.reason.as_str()),
        (Code::FailedPrecondition.into(), "UNDELETABLE")
    );
    // That of the nodes' leases is the other one.
    assert_eq!((done.ending_count, done.failed_count), (1, 2));
    server.stop().await;
}

#[tokio::test]
async fn what_has_changed_since_a_revision_is_left() {
    let server = Server::start().await;
    let root = server.root();
    let first = create_labelled(&root, "a1", "a").await;
    create_labelled(&root, "a2", "a").await;
    let request = DeletePodsRequest {
        resource_version: first.metadata.unwrap().resource_version,
        ..of_app("a")
    };
    let done = delete(&root, request).await;
    assert_eq!((done.deleted_count, done.failed_count), (1, 1));
    assert_eq!(
        done.deletions[1].error.as_ref().unwrap().reason,
        "STALE_RESOURCE_VERSION"
    );
    assert_eq!(left(&root).await, ["a2"]);
    server.stop().await;
}
