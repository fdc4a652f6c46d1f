//! Create, get, list and their refusals, for every kind.

use clone8s::v1::*;
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn a_pod_is_stored_with_what_only_the_apiserver_gives() {
    let server = Server::start().await;
    let mut asked = pod("web");
    let meta = asked.metadata.as_mut().unwrap();
    meta.uid = "mine".into();
    meta.generation = 7;
    asked.status = Some(PodStatus {
        phase: "Running".into(),
        ..PodStatus::default()
    });
    let created = create_pod(&server.root(), asked).await;
    let meta = created.metadata.as_ref().unwrap();
    assert_eq!((meta.namespace.as_str(), meta.name.as_str()), ("default", "web"));
    assert_eq!(meta.uid.len(), 36, "{}", meta.uid);
    assert!(meta.resource_version > 0);
    assert_eq!(meta.generation, 1);
    assert!(meta.creation_timestamp.is_some());
    assert_eq!(created.status.as_ref().unwrap().phase, "Pending");
    assert_eq!(created.spec.as_ref().unwrap().restart_policy, "Always");
    assert_eq!(get_pod(&server.root(), "web").await.unwrap(), created);
    server.stop().await;
}

#[tokio::test]
async fn an_acknowledged_object_is_there_after_a_restart() {
    let server = Server::start().await;
    let created = create_pod(&server.root(), pod("web")).await;
    let server = Server::start_in(server.stop().await).await;
    assert_eq!(get_pod(&server.root(), "web").await.unwrap(), created);
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_with_the_object_named() {
    let server = Server::start().await;
    create_pod(&server.root(), pod("web")).await;
    let error = try_create_pod(&server.root(), pod("web")).await.unwrap_err();
    assert_eq!(told(&error), (Code::AlreadyExists, "ALREADY_EXISTS".into()));
    assert_eq!(
        details(&error).resource_info().unwrap().resource_name,
        "default/web"
    );
    assert_eq!(error.message(), "Pod default/web exists already");
    server.stop().await;
}

#[tokio::test]
async fn every_bad_field_is_named_at_once() {
    let server = Server::start().await;
    let mut bad = pod("Not A Name");
    let spec = bad.spec.as_mut().unwrap();
    spec.restart_policy = "Sometimes".into();
    spec.containers.push(Container {
        name: "main".into(),
        ..Container::default()
    });
    let error = try_create_pod(&server.root(), bad).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let mut bad = pod("web");
    let spec = bad.spec.as_mut().unwrap();
    spec.restart_policy = "Sometimes".into();
    spec.containers.push(Container {
        name: "main".into(),
        ..Container::default()
    });
    let error = try_create_pod(&server.root(), bad).await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    let details = details(&error);
    let fields: Vec<_> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    for field in [
        "spec.restartPolicy",
        "spec.containers[1].name",
        "spec.containers[1].image",
    ] {
        assert!(fields.contains(&field), "{field} is missing in {fields:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn validate_only_does_everything_but_store() {
    let server = Server::start().await;
    let request = |pod| CreatePodRequest {
        pod: Some(pod),
        validate_only: true,
        ..Default::default()
    };
    let mut client = pods(&server.root());
    let validated = client.create_pod(request(pod("web"))).await.unwrap().into_inner();
    assert_eq!(validated.pod.unwrap().spec.unwrap().restart_policy, "Always");
    assert_eq!(
        get_pod(&server.root(), "web").await.unwrap_err().code(),
        Code::NotFound
    );
    create_pod(&server.root(), pod("web")).await;
    let error = client.create_pod(request(pod("web"))).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    server.stop().await;
}

#[tokio::test]
async fn requests_without_an_object_or_a_name_are_refused() {
    let server = Server::start().await;
    let mut client = pods(&server.root());
    let nothing = client.create_pod(CreatePodRequest::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let nameless = client.get_pod(GetPodRequest::default()).await.unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
    let path = client
        .get_pod(GetPodRequest {
            namespace: "default".into(),
            name: "../secrets/default/token".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(path.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn an_object_that_is_too_large_is_refused_with_its_size() {
    let server = Server::start().await;
    let mut client = events(&server.root());
    let error = client
        .create_event(CreateEventRequest {
            event: Some(Event {
                metadata: meta("big"),
                involved_object: Some(ObjectReference {
                    kind: "Pod".into(),
                    namespace: "default".into(),
                    name: "web".into(),
                    uid: String::new(),
                }),
                reason: "Big".into(),
                message: "x".repeat(2 << 20),
                r#type: "Normal".into(),
                ..Event::default()
            }),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_pages_of_a_list_show_one_state() {
    let server = Server::start().await;
    let root = server.root();
    for at in 0..25 {
        create_pod(&root, pod(&format!("web-{at:02}"))).await;
    }
    let mut client = pods(&root);
    let mut request = ListPodsRequest {
        page_size: 10,
        ..ListPodsRequest::default()
    };
    let first = client.list_pods(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.pods.len(), 10);
    // What happens after the first page does not show on the others.
    create_pod(&root, pod("web-99")).await;
    client
        .delete_pod(DeletePodRequest {
            name: "web-24".into(),
            ..DeletePodRequest::default()
        })
        .await
        .unwrap();
    let mut names: Vec<_> = first
        .pods
        .iter()
        .map(|pod| pod.metadata.clone().unwrap().name)
        .collect();
    request.page_token.clone_from(&first.next_page_token);
    while !request.page_token.is_empty() {
        let page = client.list_pods(request.clone()).await.unwrap().into_inner();
        assert_eq!(page.resource_version, first.resource_version);
        names.extend(page.pods.iter().map(|pod| pod.metadata.clone().unwrap().name));
        request.page_token = page.next_page_token;
    }
    let expected: Vec<_> = (0..25).map(|at| format!("web-{at:02}")).collect();
    assert_eq!(names, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_page_ends_where_a_message_would_grow_too_large() {
    let server = Server::start().await;
    let mut client = config_maps(&server.root());
    for at in 0..8 {
        client
            .create_config_map(CreateConfigMapRequest {
                config_map: Some(ConfigMap {
                    metadata: meta(&format!("big-{at}")),
                    data: [("text".to_owned(), "x".repeat(900_000))].into(),
                    ..ConfigMap::default()
                }),
                ..Default::default()
            })
            .await
            .unwrap();
    }
    let mut request = ListConfigMapsRequest::default();
    let mut seen = 0;
    loop {
        // A client takes 4 MiB a message.
        let page = client
            .list_config_maps(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(!page.config_maps.is_empty());
        seen += page.config_maps.len();
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, 8);
    server.stop().await;
}

#[tokio::test]
async fn lists_choose_by_namespace_label_and_field() {
    let server = Server::start().await;
    let root = server.root();
    create_node(&root, "n1").await;
    let mut web = pod_on("web", "n1");
    web.metadata = labelled("web", &[("app", "web")]);
    create_pod(&root, web).await;
    create_pod(&root, pod("other")).await;
    let list = |namespace: &str, labels: &str, fields: &str| {
        let request = ListPodsRequest {
            namespace: namespace.into(),
            label_selector: labels.into(),
            field_selector: fields.into(),
            ..ListPodsRequest::default()
        };
        let mut client = pods(&root);
        async move {
            let page = client.list_pods(request).await?.into_inner();
            Ok::<_, tonic::Status>(
                page.pods
                    .into_iter()
                    .map(|pod| pod.metadata.unwrap().name)
                    .collect::<Vec<_>>(),
            )
        }
    };
    assert_eq!(list("", "", "").await.unwrap(), ["other", "web"]);
    assert_eq!(list("default", "app=web", "").await.unwrap(), ["web"]);
    assert_eq!(list("", "!app", "").await.unwrap(), ["other"]);
    assert_eq!(list("", "", "spec.nodeName=n1").await.unwrap(), ["web"]);
    assert_eq!(list("", "", "spec.nodeName=").await.unwrap(), ["other"]);
    assert!(list("elsewhere", "", "").await.unwrap().is_empty());
    for (labels, fields) in [("app==(", ""), ("", "spec.colour=red")] {
        let error = list("", labels, fields).await.unwrap_err();
        assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_page_token_of_another_list_is_refused() {
    let server = Server::start().await;
    let root = server.root();
    for name in ["a", "b"] {
        create_pod(&root, pod(name)).await;
    }
    let mut client = pods(&root);
    let mut request = ListPodsRequest {
        page_size: 1,
        ..ListPodsRequest::default()
    };
    request.page_token = client
        .list_pods(request.clone())
        .await
        .unwrap()
        .into_inner()
        .next_page_token;
    request.namespace = "default".into();
    let error = client.list_pods(request).await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID_PAGE_TOKEN".into()));
    let error = client
        .list_pods(ListPodsRequest {
            page_size: -1,
            ..ListPodsRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    server.stop().await;
}

/// One life of an object through all of its kind's calls.
macro_rules! lives {
    ($test:ident, $client:ident, $object:expr, $one:ident, $many:ident,
     $create:ident $Create:ident, $get:ident $Get:ident, $list:ident $List:ident, $update:ident $Update:ident,
     $delete:ident $Delete:ident, $watch:ident $Watch:ident) => {
        #[tokio::test]
        // Some kinds' requests have more fields than the name.
        #[allow(clippy::needless_update)]
        async fn $test() {
            let server = Server::start().await;
            let mut client = $client(&server.root());
            let mut changes = client.$watch($Watch::default()).await.unwrap().into_inner();
            let created = client
                .$create($Create {
                    $one: Some($object),
                    ..Default::default()
                })
                .await
                .unwrap()
                .into_inner()
                .$one
                .unwrap();
            let name = created.metadata.as_ref().unwrap().name.clone();
            let get = $Get {
                name: name.clone(),
                ..Default::default()
            };
            let got = client
                .$get(get.clone())
                .await
                .unwrap()
                .into_inner()
                .$one
                .unwrap();
            assert_eq!(got, created);
            let listed = client
                .$list($List::default())
                .await
                .unwrap()
                .into_inner()
                .$many;
            assert!(listed.contains(&created), "{listed:?}");
            let mut changed = created.clone();
            changed
                .metadata
                .as_mut()
                .unwrap()
                .annotations
                .insert("note".into(), "new".into());
            let updated = client
                .$update($Update {
                    $one: Some(changed),
                    ..Default::default()
                })
                .await
                .unwrap()
                .into_inner()
                .$one
                .unwrap();
            let meta = updated.metadata.as_ref().unwrap();
            assert_eq!(meta.annotations["note"], "new");
            assert!(meta.resource_version > created.metadata.as_ref().unwrap().resource_version);
            assert_eq!(meta.generation, 1, "an annotation is not content");
            let delete = $Delete {
                name,
                ..Default::default()
            };
            client.$delete(delete.clone()).await.unwrap();
            // A namespace goes once it has been emptied.
            let gone = async {
                while client.$get(get.clone()).await.is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, gone).await.unwrap();
            assert_eq!(
                client.$delete(delete).await.unwrap_err().code(),
                Code::NotFound
            );
            let mut kinds = Vec::new();
            while kinds.last() != Some(&WatchEventType::Deleted) {
                let event = tokio::time::timeout(PATIENCE, changes.message())
                    .await
                    .unwrap()
                    .unwrap()
                    .unwrap();
                if event.r#type() != WatchEventType::Bookmark {
                    kinds.push(event.r#type());
                }
            }
            kinds.dedup();
            assert_eq!(
                kinds,
                [
                    WatchEventType::Added,
                    WatchEventType::Modified,
                    WatchEventType::Deleted
                ]
            );
            server.stop().await;
        }
    };
}

lives!(a_pod_lives, pods, pod("x"), pod, pods,
    create_pod CreatePodRequest, get_pod GetPodRequest, list_pods ListPodsRequest, update_pod UpdatePodRequest,
    delete_pod DeletePodRequest, watch_pods WatchPodsRequest);
lives!(a_node_lives, nodes, node("x"), node, nodes,
    create_node CreateNodeRequest, get_node GetNodeRequest, list_nodes ListNodesRequest,
    update_node UpdateNodeRequest, delete_node DeleteNodeRequest, watch_nodes WatchNodesRequest);
lives!(a_namespace_lives, namespaces, Namespace { metadata: meta("x"), status: None }, namespace, namespaces,
    create_namespace CreateNamespaceRequest, get_namespace GetNamespaceRequest,
    list_namespaces ListNamespacesRequest, update_namespace UpdateNamespaceRequest,
    delete_namespace DeleteNamespaceRequest, watch_namespaces WatchNamespacesRequest);
lives!(a_config_map_lives, config_maps, ConfigMap { metadata: meta("x"), ..ConfigMap::default() },
    config_map, config_maps,
    create_config_map CreateConfigMapRequest, get_config_map GetConfigMapRequest,
    list_config_maps ListConfigMapsRequest, update_config_map UpdateConfigMapRequest,
    delete_config_map DeleteConfigMapRequest, watch_config_maps WatchConfigMapsRequest);
lives!(a_secret_lives, secrets, Secret { metadata: meta("x"), ..Secret::default() }, secret, secrets,
    create_secret CreateSecretRequest, get_secret GetSecretRequest, list_secrets ListSecretsRequest,
    update_secret UpdateSecretRequest, delete_secret DeleteSecretRequest, watch_secrets WatchSecretsRequest);
lives!(an_event_lives, events, event(), event, events,
    create_event CreateEventRequest, get_event GetEventRequest, list_events ListEventsRequest,
    update_event UpdateEventRequest, delete_event DeleteEventRequest, watch_events WatchEventsRequest);

fn event() -> Event {
    Event {
        metadata: meta("x"),
        involved_object: Some(ObjectReference {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: String::new(),
        }),
        reason: "Scheduled".into(),
        message: "placed on n1".into(),
        r#type: "Normal".into(),
        ..Event::default()
    }
}

#[tokio::test]
async fn a_secrets_text_is_moved_into_its_data_and_never_returned() {
    let server = Server::start().await;
    let mut client = secrets(&server.root());
    let created = client
        .create_secret(CreateSecretRequest {
            secret: Some(Secret {
                metadata: meta("token"),
                data: [
                    ("a".to_owned(), b"old".to_vec().into()),
                    ("b".to_owned(), b"kept".to_vec().into()),
                ]
                .into(),
                string_data: [("a".to_owned(), "new".to_owned())].into(),
                ..Secret::default()
            }),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .secret
        .unwrap();
    assert!(created.string_data.is_empty());
    assert_eq!(created.data["a"].as_ref(), b"new");
    assert_eq!(created.data["b"].as_ref(), b"kept");
    assert_eq!(created.r#type, "Opaque");
    server.stop().await;
}

#[tokio::test]
async fn what_is_immutable_cannot_be_changed() {
    let server = Server::start().await;
    let mut client = config_maps(&server.root());
    let mut map = ConfigMap {
        metadata: meta("fixed"),
        data: [("a".to_owned(), "1".to_owned())].into(),
        immutable: true,
        ..ConfigMap::default()
    };
    client
        .create_config_map(CreateConfigMapRequest {
            config_map: Some(map.clone()),
            ..Default::default()
        })
        .await
        .unwrap();
    map.data.insert("a".into(), "2".into());
    let error = client
        .update_config_map(UpdateConfigMapRequest {
            config_map: Some(map),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    server.stop().await;
}
