//! Watches: what they send, in which order, and how they end.

use clone8s::v1::*;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::harness::*;

async fn watch(channel: &Channel, request: WatchPodsRequest) -> Result<Streaming<WatchPodsResponse>, Status> {
    Ok(pods(channel).watch_pods(request).await?.into_inner())
}

async fn delete(channel: &Channel, name: &str) {
    let request = DeletePodRequest {
        name: name.into(),
        ..DeletePodRequest::default()
    };
    pods(channel).delete_pod(request).await.unwrap();
}

async fn relabel(channel: &Channel, name: &str, labels: &[(&str, &str)]) -> Pod {
    let mut pod = pod(name);
    pod.metadata = labelled(name, labels);
    let request = UpdatePodRequest {
        pod: Some(pod),
        ..Default::default()
    };
    pods(channel)
        .update_pod(request)
        .await
        .unwrap()
        .into_inner()
        .pod
        .unwrap()
}

fn summary(event: &WatchPodsResponse) -> (WatchEventType, String) {
    let name = event
        .pod
        .as_ref()
        .map(|pod| pod.metadata.clone().unwrap().name)
        .unwrap_or_default();
    (event.r#type(), name)
}

use WatchEventType::{Added, Deleted, Modified, Synced};

#[tokio::test]
async fn the_present_state_comes_first_then_synced_then_changes() {
    let server = Server::start().await;
    let root = server.root();
    for name in ["a", "b"] {
        create_pod(&root, pod(name)).await;
    }
    let request = WatchPodsRequest {
        send_initial_state: true,
        ..WatchPodsRequest::default()
    };
    let mut events = watch(&root, request).await.unwrap();
    assert_eq!(summary(&next(&mut events).await.unwrap()), (Added, "a".into()));
    assert_eq!(summary(&next(&mut events).await.unwrap()), (Added, "b".into()));
    let synced = next(&mut events).await.unwrap();
    assert_eq!(summary(&synced), (Synced, String::new()));
    let created = create_pod(&root, pod("c")).await;
    let event = next(&mut events).await.unwrap();
    assert_eq!(event.pod.as_ref(), Some(&created));
    assert_eq!(event.resource_version, created.metadata.unwrap().resource_version);
    assert!(event.resource_version > synced.resource_version);
    server.stop().await;
}

#[tokio::test]
async fn a_large_state_comes_whole_and_once() {
    let server = Server::start().await;
    let root = server.root();
    let creating = (0..1_100).map(|at| create_pod(&root, pod(&format!("p-{at:04}"))));
    futures::StreamExt::collect::<Vec<_>>(futures::StreamExt::buffer_unordered(
        futures::stream::iter(creating),
        64,
    ))
    .await;
    let request = WatchPodsRequest {
        send_initial_state: true,
        ..WatchPodsRequest::default()
    };
    let mut events = watch(&root, request).await.unwrap();
    for at in 0..1_100 {
        let event = next(&mut events).await.unwrap();
        assert_eq!(summary(&event), (Added, format!("p-{at:04}")));
    }
    assert_eq!(next(&mut events).await.unwrap().r#type(), Synced);
    server.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_from_a_revision_even_after_a_restart() {
    let server = Server::start().await;
    let root = server.root();
    let first = create_pod(&root, pod("a")).await;
    create_pod(&root, pod("b")).await;
    delete(&root, "a").await;
    let server = Server::start_in(server.stop().await).await;
    let root = server.root();
    let request = WatchPodsRequest {
        resource_version: first.metadata.unwrap().resource_version,
        ..WatchPodsRequest::default()
    };
    let mut events = watch(&root, request).await.unwrap();
    create_pod(&root, pod("c")).await;
    assert_eq!(summary(&next(&mut events).await.unwrap()), (Added, "b".into()));
    let deleted = next(&mut events).await.unwrap();
    assert_eq!(summary(&deleted), (Deleted, "a".into()));
    assert_eq!(
        deleted.pod.unwrap().metadata.unwrap().resource_version,
        deleted.resource_version
    );
    assert_eq!(summary(&next(&mut events).await.unwrap()), (Added, "c".into()));
    server.stop().await;
}

#[tokio::test]
async fn what_enters_a_selection_is_added_and_what_leaves_it_is_deleted() {
    let server = Server::start().await;
    let root = server.root();
    create_pod(&root, pod("web")).await;
    let request = WatchPodsRequest {
        label_selector: "app=web".into(),
        ..WatchPodsRequest::default()
    };
    let mut events = watch(&root, request).await.unwrap();
    create_pod(&root, pod("other")).await;
    relabel(&root, "web", &[("app", "web")]).await;
    relabel(&root, "web", &[("app", "web"), ("tier", "a")]).await;
    relabel(&root, "web", &[("app", "db")]).await;
    relabel(&root, "web", &[("app", "db"), ("tier", "b")]).await;
    relabel(&root, "web", &[("app", "web")]).await;
    delete(&root, "web").await;
    for kind in [Added, Modified, Deleted, Added, Deleted] {
        assert_eq!(summary(&next(&mut events).await.unwrap()), (kind, "web".into()));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_deleted_event_carries_the_state_that_was_last_selected() {
    let server = Server::start().await;
    let root = server.root();
    let mut first = pod("web");
    first.metadata = labelled("web", &[("app", "web")]);
    create_pod(&root, first).await;
    let request = WatchPodsRequest {
        label_selector: "app=web".into(),
        ..WatchPodsRequest::default()
    };
    let mut events = watch(&root, request).await.unwrap();
    let left = relabel(&root, "web", &[("app", "db")]).await;
    let event = next(&mut events).await.unwrap();
    let meta = event.pod.unwrap().metadata.unwrap();
    assert_eq!(meta.labels["app"], "web");
    assert_eq!(meta.resource_version, left.metadata.unwrap().resource_version);
    server.stop().await;
}

#[tokio::test]
async fn a_watch_of_one_namespace_is_quiet_about_the_others() {
    let server = Server::start().await;
    let root = server.root();
    namespaces(&root)
        .create_namespace(CreateNamespaceRequest {
            namespace: Some(Namespace {
                metadata: meta("team"),
                status: None,
            }),
            ..Default::default()
        })
        .await
        .unwrap();
    let request = WatchPodsRequest {
        namespace: "team".into(),
        ..WatchPodsRequest::default()
    };
    let mut events = watch(&root, request).await.unwrap();
    create_pod(&root, pod("other")).await;
    let mut ours = pod("ours");
    ours.metadata.as_mut().unwrap().namespace = "team".into();
    create_pod(&root, ours).await;
    assert_eq!(summary(&next(&mut events).await.unwrap()), (Added, "ours".into()));
    server.stop().await;
}

#[tokio::test]
async fn bookmarks_tell_how_far_a_watch_is_while_nothing_matches() {
    let server = Server::start().await;
    let root = server.root();
    let request = WatchPodsRequest {
        field_selector: "spec.nodeName=n1".into(),
        ..WatchPodsRequest::default()
    };
    let mut events = watch(&root, request).await.unwrap();
    create_pod(&root, pod("one")).await;
    let last = create_pod(&root, pod("two")).await;
    let reached = async {
        loop {
            let event = events.message().await.unwrap().unwrap();
            assert_eq!(event.r#type(), WatchEventType::Bookmark);
            assert!(event.pod.is_none());
            if event.resource_version >= last.metadata.as_ref().unwrap().resource_version {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_start_that_cannot_be_is_refused() {
    let server = Server::start().await;
    let root = server.root();
    for request in [
        WatchPodsRequest {
            resource_version: -1,
            ..WatchPodsRequest::default()
        },
        WatchPodsRequest {
            resource_version: 5,
            send_initial_state: true,
            ..WatchPodsRequest::default()
        },
        WatchPodsRequest {
            label_selector: "(".into(),
            ..WatchPodsRequest::default()
        },
    ] {
        let error = watch(&root, request).await.unwrap_err();
        assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_revision_that_has_not_happened_is_out_of_range() {
    let server = Server::start().await;
    let request = WatchPodsRequest {
        resource_version: 1_000_000,
        ..WatchPodsRequest::default()
    };
    let error = match watch(&server.root(), request).await {
        Ok(mut events) => next(&mut events).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(told(&error), (Code::OutOfRange, "REVISION_IN_FUTURE".into()));
    server.stop().await;
}

#[tokio::test]
async fn an_open_watch_ends_with_the_server_and_says_so() {
    let server = Server::start().await;
    let root = server.root();
    let mut events = watch(&root, WatchPodsRequest::default()).await.unwrap();
    let (ended, _dir) = tokio::join!(next(&mut events), server.stop());
    assert_eq!(told(&ended.unwrap_err()), (Code::Unavailable, "STOPPING".into()));
}

/// As large as a pod may be, nearly: few of them are more than any buffer on the way holds.
fn large(name: &str, version: usize) -> Pod {
    let mut pod = pod(name);
    let annotations = &mut pod.metadata.as_mut().unwrap().annotations;
    annotations.insert("version".into(), version.to_string());
    annotations.insert("filler".into(), "x".repeat(200_000));
    pod
}

fn version(pod: Pod) -> String {
    pod.metadata.unwrap().annotations["version"].clone()
}

async fn update(channel: &Channel, pod: Pod) {
    let request = UpdatePodRequest {
        pod: Some(pod),
        ..Default::default()
    };
    pods(channel).update_pod(request).await.unwrap();
}

#[tokio::test]
async fn a_watch_that_is_not_read_is_cut_off_slows_no_other_and_goes_on_from_the_history() {
    const UPDATES: usize = 100;
    let server = Server::start().await;
    // A connection of its own, so that it is the watch's buffers alone that fill.
    let (slow, root) = (server.root(), server.root());
    let first = create_pod(&root, large("web", 0)).await;
    let request = WatchPodsRequest {
        resource_version: first.metadata.as_ref().unwrap().resource_version,
        ..WatchPodsRequest::default()
    };
    let mut unread = watch(&slow, request.clone()).await.unwrap();
    let mut read = watch(&root, request).await.unwrap();
    for version in 1..=UPDATES {
        update(&root, large("web", version)).await;
        let event = next(&mut read).await.unwrap();
        assert_eq!(self::version(event.pod.unwrap()), version.to_string());
    }

    let mut told = 0;
    let mut versions = Vec::new();
    let cut_off = loop {
        match tokio::time::timeout(PATIENCE, unread.message()).await.unwrap() {
            Ok(message) => {
                let message = message.expect("the watch does not end without an error");
                told = message.resource_version;
                versions.extend(message.pod.map(version));
            }
            Err(error) => break error,
        }
    };
    assert_eq!(
        crate::harness::told(&cut_off),
        (Code::OutOfRange, "WATCH_TOO_SLOW".to_owned())
    );
    let details = details(&cut_off);
    assert_eq!(
        details.error_info().unwrap().metadata["told_revision"],
        told.to_string()
    );

    let request = WatchPodsRequest {
        resource_version: told,
        ..WatchPodsRequest::default()
    };
    let mut rest = watch(&root, request).await.unwrap();
    while versions.len() < UPDATES {
        let event = next(&mut rest).await.unwrap();
        versions.push(version(event.pod.unwrap()));
    }
    let expected: Vec<_> = (1..=UPDATES).map(|version| version.to_string()).collect();
    assert_eq!(versions, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_watch_that_asks_for_it_gets_what_objects_were_before() {
    let server = Server::start().await;
    let root = server.root();
    let request = WatchPodsRequest {
        include_previous: true,
        ..WatchPodsRequest::default()
    };
    let mut watch = pods(&root).watch_pods(request).await.unwrap().into_inner();
    let created = create_pod(&root, pod("web")).await;
    let added = next(&mut watch).await.unwrap();
    assert_eq!((added.pod.as_ref(), added.previous), (Some(&created), None));

    let mut changed = created.clone();
    changed
        .metadata
        .as_mut()
        .unwrap()
        .labels
        .insert("a".into(), "1".into());
    let request = UpdatePodRequest {
        pod: Some(changed),
        ..UpdatePodRequest::default()
    };
    let updated = pods(&root).update_pod(request).await.unwrap().into_inner().pod;
    let modified = next(&mut watch).await.unwrap();
    assert_eq!(
        (modified.pod.as_ref(), modified.previous),
        (updated.as_ref(), Some(created))
    );

    delete(&root, "web").await;
    let deleted = next(&mut watch).await.unwrap();
    assert_eq!(deleted.r#type(), WatchEventType::Deleted);
    assert_eq!(deleted.previous, updated);
    server.stop().await;
}
