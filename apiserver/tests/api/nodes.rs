//! Nodes: their status, their names, and what a node's own certificate lets it do.

use clone8s::v1::*;
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn a_nodes_status_is_what_its_kubelet_says() {
    let server = Server::start().await;
    let root = server.root();
    let mut asked = node("n1");
    asked.status = Some(NodeStatus {
        capacity: [("cpu".to_owned(), "4".to_owned())].into(),
        ..NodeStatus::default()
    });
    let created = nodes(&root)
        .create_node(CreateNodeRequest {
            node: Some(asked.clone()),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .node
        .unwrap();
    assert_eq!(created.status.as_ref().unwrap().capacity["cpu"], "4");
    asked.spec = Some(NodeSpec { unschedulable: true });
    asked
        .status
        .as_mut()
        .unwrap()
        .capacity
        .insert("cpu".into(), "8".into());
    let updated = nodes(&root)
        .update_node_status(UpdateNodeStatusRequest {
            node: Some(asked),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .node
        .unwrap();
    assert_eq!(updated.status.as_ref().unwrap().capacity["cpu"], "8");
    assert!(!updated.spec.unwrap_or_default().unschedulable);
    server.stop().await;
}

#[tokio::test]
async fn a_node_touches_itself_and_its_pods_and_nothing_else() {
    let server = Server::start().await;
    let root = server.root();
    let own = server.joined("n1").await;
    create_node(&own, "n1").await;
    create_node(&root, "n2").await;
    create_pod(&root, pod_on("mine", "n1")).await;
    create_pod(&root, pod_on("theirs", "n2")).await;

    let listed = pods(&own)
        .list_pods(ListPodsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .pods;
    let names: Vec<_> = listed
        .iter()
        .map(|pod| pod.metadata.clone().unwrap().name)
        .collect();
    assert_eq!(names, ["mine"]);
    let listed = nodes(&own)
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(listed.len(), 1);

    assert!(get_pod(&own, "mine").await.is_ok());
    let error = get_pod(&own, "theirs").await.unwrap_err();
    assert_eq!(told(&error), (Code::PermissionDenied, "FORBIDDEN".into()));

    let status = |pod: Pod| {
        let mut client = pods(&own);
        async move {
            client
                .update_pod_status(UpdatePodStatusRequest {
                    pod: Some(pod),
                    ..Default::default()
                })
                .await
        }
    };
    status(pod_on("mine", "n1")).await.unwrap();
    let error = status(pod_on("theirs", "n1")).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);

    let error = nodes(&own)
        .update_node_status(UpdateNodeStatusRequest {
            node: Some(node("n2")),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let error = nodes(&own)
        .create_node(CreateNodeRequest {
            node: Some(node("n3")),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);

    let delete = |name: &str, grace: Option<i32>| {
        let request = DeletePodRequest {
            name: name.into(),
            grace_period_seconds: grace,
            ..DeletePodRequest::default()
        };
        let mut client = pods(&own);
        async move { client.delete_pod(request).await }
    };
    assert_eq!(
        delete("mine", None).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        delete("theirs", Some(0)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    delete("mine", Some(0)).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_node_watches_its_own_pods_come_and_go() {
    let server = Server::start().await;
    let root = server.root();
    let own = server.joined("n1").await;
    create_node(&own, "n1").await;
    create_node(&root, "n2").await;
    let mut watch = pods(&own)
        .watch_pods(WatchPodsRequest::default())
        .await
        .unwrap()
        .into_inner();
    create_pod(&root, pod_on("theirs", "n2")).await;
    create_pod(&root, pod("unbound")).await;
    pods(&root)
        .bind_pod(BindPodRequest {
            name: "unbound".into(),
            node_name: "n1".into(),
            ..BindPodRequest::default()
        })
        .await
        .unwrap();
    let event = next(&mut watch).await.unwrap();
    assert_eq!(event.r#type(), WatchEventType::Added);
    assert_eq!(event.pod.unwrap().metadata.unwrap().name, "unbound");
    server.stop().await;
}

#[tokio::test]
async fn a_node_tells_events_in_its_own_name_alone() {
    let server = Server::start().await;
    let own = server.joined("n1").await;
    let told_by = |host: &str, name: &str| CreateEventRequest {
        event: Some(Event {
            metadata: meta(name),
            involved_object: Some(ObjectReference {
                kind: "Pod".into(),
                namespace: "default".into(),
                name: "web".into(),
                uid: String::new(),
            }),
            reason: "Started".into(),
            message: "container main started".into(),
            r#type: "Normal".into(),
            source: Some(EventSource {
                component: "kubelet".into(),
                host: host.into(),
            }),
            ..Event::default()
        }),
        ..Default::default()
    };
    events(&own).create_event(told_by("n1", "a")).await.unwrap();
    let error = events(&own).create_event(told_by("n2", "b")).await.unwrap_err();
    assert_eq!(told(&error), (Code::PermissionDenied, "FORBIDDEN".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_node_renews_its_own_lease_alone() {
    use clone8s::{client::Resource as _, rules::NODE_LEASE_NAMESPACE};

    let server = Server::start().await;
    let own = server.joined("n1").await;
    let lease = |namespace: &str, name: &str| Lease {
        metadata: Some(ObjectMeta {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..ObjectMeta::default()
        }),
        spec: Some(LeaseSpec {
            holder_identity: "n1".to_owned(),
            ..LeaseSpec::default()
        }),
    };
    let denied = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    for (namespace, name) in [(NODE_LEASE_NAMESPACE, "n2"), ("default", "n1")] {
        let error = Lease::create(&own, lease(namespace, name)).await.unwrap_err();
        assert_eq!(told(&error), denied);
        Lease::create(&server.root(), lease(namespace, name))
            .await
            .unwrap();
        let error = Lease::update(&own, lease(namespace, name)).await.unwrap_err();
        assert_eq!(told(&error), denied);
        let error = Lease::get(&own, namespace, name).await.unwrap_err();
        assert_eq!(told(&error), denied);
    }
    Lease::create(&own, lease(NODE_LEASE_NAMESPACE, "n1"))
        .await
        .unwrap();
    Lease::update(&own, lease(NODE_LEASE_NAMESPACE, "n1"))
        .await
        .unwrap();
    let options = clone8s::client::DeleteOptions::default();
    let error = Namespace::delete(&server.root(), "", NODE_LEASE_NAMESPACE, &options)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    server.stop().await;
}

#[tokio::test]
async fn a_node_reads_the_secrets_that_its_pods_name_and_no_others() {
    use clone8s::client::{From, Query, Resource as _};

    let server = Server::start().await;
    let root = server.root();
    let own = server.joined("n1").await;
    for name in ["named", "other", "login"] {
        let secret = Secret {
            metadata: meta(name),
            data: [("key".to_owned(), "hush".into())].into(),
            ..Secret::default()
        };
        Secret::create(&root, secret).await.unwrap();
    }
    let naming = |name: &str, node: &str, secret: &str| {
        let mut pod = pod_on(name, node);
        let volume = Volume {
            name: "v".into(),
            source: Some(volume::Source::Secret(SecretVolumeSource {
                secret_name: secret.into(),
                ..SecretVolumeSource::default()
            })),
        };
        pod.spec.as_mut().unwrap().volumes = vec![volume];
        pod
    };
    let denied = (Code::PermissionDenied, "FORBIDDEN".to_owned());
    let before = Secret::get(&own, "default", "named").await.unwrap_err();
    assert_eq!(told(&before), denied);

    create_pod(&root, naming("mine", "n1", "named")).await;
    create_pod(&root, naming("theirs", "n2", "other")).await;
    let found = Secret::get(&own, "default", "named").await.unwrap();
    assert_eq!(found.data["key"], "hush");
    let mut pulling = pod_on("pulling", "n1");
    pulling.spec.as_mut().unwrap().image_pull_secrets = vec![SecretReference { name: "login".into() }];
    create_pod(&root, pulling).await;
    Secret::get(&own, "default", "login").await.unwrap();
    let other = Secret::get(&own, "default", "other").await.unwrap_err();
    assert_eq!(told(&other), denied);
    // Not an object of this name elsewhere, and not another kind of it.
    let elsewhere = Secret::get(&own, "kitchen", "named").await.unwrap_err();
    assert_eq!(told(&elsewhere), denied);
    let map = ConfigMap::get(&own, "default", "named").await.unwrap_err();
    assert_eq!(told(&map), denied);

    let watching = |name: &str| Query {
        namespace: "default".into(),
        field_selector: format!("metadata.name={name}"),
        ..Query::default()
    };
    let mut watch = Secret::watch(&own, &watching("named"), From::InitialState)
        .await
        .unwrap();
    let first = watch.next().await.unwrap().unwrap().object.unwrap();
    assert_eq!(first.data["key"], "hush");
    let everywhere = Query {
        namespace: String::new(),
        ..watching("named")
    };
    for query in [watching("other"), everywhere, Query::default()] {
        let error = Secret::watch(&own, &query, From::InitialState).await.unwrap_err();
        assert_eq!(told(&error), denied);
    }
    let error = Secret::list_all(&own, &watching("named")).await.unwrap_err();
    assert_eq!(told(&error), denied);
    drop(watch);
    server.stop().await;
}
