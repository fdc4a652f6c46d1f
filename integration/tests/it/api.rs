//! The API as a person with grpcurl and a program with a watch see it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use clone8s::{
    client::{From, Query, Resource as _},
    v1::{BackUpStoreResponse, Pod, WatchEventType},
};
use clone8s_integration::{ControlPlane, Sandbox, pods, wait};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Code;

#[tokio::test]
async fn grpcurl_lists_describes_creates_and_watches_over_the_socket_and_over_tls() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    for (grpcurl, name) in [(plane.grpcurl(), "by-socket"), (plane.grpcurl_tls(), "by-tls")] {
        let services = grpcurl.list().unwrap();
        for service in [
            "clone8s.v1.ConfigMapService",
            "clone8s.v1.EventService",
            "clone8s.v1.LeaseService",
            "clone8s.v1.LimitRangeService",
            "clone8s.v1.MaintenanceService",
            "clone8s.v1.NamespaceService",
            "clone8s.v1.NodeService",
            "clone8s.v1.PodService",
            "clone8s.v1.PriorityClassService",
            "clone8s.v1.RegistrationService",
            "clone8s.v1.ResourceQuotaService",
            "clone8s.v1.SecretService",
            "clone8s.v1.ServiceAccountService",
            "clone8s.v1.TunnelService",
            "grpc.health.v1.Health",
        ] {
            assert!(
                services.iter().any(|it| it == service),
                "no {service} in {services:?}"
            );
            assert!(
                !grpcurl.list_methods(service).unwrap().is_empty(),
                "{service} has no methods"
            );
        }
        let message = grpcurl.describe("clone8s.v1.PodSpec").unwrap();
        assert!(
            message.contains("repeated .clone8s.v1.Container containers = 1"),
            "{message}"
        );

        let request = json!({ "pod": {
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "main", "image": "registry.invalid/none:1" }] },
        }});
        let from_start = json!({ "sendInitialState": true, "namespace": "default" });
        let method = "clone8s.v1.PodService/WatchPods";
        let watch = grpcurl.stream(&sandbox, &format!("watch-{name}"), method, &from_start);
        let created = grpcurl.call("clone8s.v1.PodService/CreatePod", &request).unwrap();
        assert_eq!(created["pod"]["metadata"]["namespace"], "default");
        assert!(
            created["pod"]["metadata"]["resourceVersion"].is_string(),
            "{created}"
        );

        let got = grpcurl
            .call("clone8s.v1.PodService/GetPod", &json!({ "name": name }))
            .unwrap();
        assert_eq!(got["pod"]["metadata"]["uid"], created["pod"]["metadata"]["uid"]);

        let is_ours = |message: &&Value| message["pod"]["metadata"]["name"] == name;
        let first = wait::until("the watch shows the state, its end, and the pod", || async {
            let messages = watch.messages();
            ensure!(
                messages
                    .iter()
                    .any(|message| message["type"] == "WATCH_EVENT_TYPE_SYNCED"),
                "{messages:?}"
            );
            let first = messages.iter().find(is_ours).cloned();
            first.with_context(|| format!("no {name} in {messages:?}"))
        })
        .await;
        assert_eq!(first["type"], "WATCH_EVENT_TYPE_ADDED");
    }
}

/// Of each kind: its field in a request, and a manifest of its own.
fn one_of_each_kind(name: &str) -> Vec<(&'static str, &'static str, Value)> {
    let metadata = json!({ "name": name });
    let containers = json!([{ "name": "main", "image": "registry.invalid/none:1" }]);
    vec![
        (
            "ConfigMap",
            "configMap",
            json!({ "metadata": metadata, "data": { "a": "b" } }),
        ),
        (
            "Event",
            "event",
            json!({
                "metadata": metadata,
                "involvedObject": { "kind": "Pod", "namespace": "default", "name": "web" },
                "reason": "Tried",
            }),
        ),
        (
            "Lease",
            "lease",
            json!({ "metadata": metadata, "spec": { "holderIdentity": "me", "leaseDurationSeconds": 10 } }),
        ),
        (
            "LimitRange",
            "limitRange",
            json!({
                "metadata": metadata,
                "spec": { "limits": [{ "type": "Container", "max": { "cpu": "4" } }] },
            }),
        ),
        ("Namespace", "namespace", json!({ "metadata": metadata })),
        ("Node", "node", json!({ "metadata": metadata })),
        (
            "Pod",
            "pod",
            json!({ "metadata": metadata, "spec": { "containers": containers } }),
        ),
        (
            "PriorityClass",
            "priorityClass",
            json!({ "metadata": metadata, "value": 10 }),
        ),
        (
            "ResourceQuota",
            "resourceQuota",
            json!({ "metadata": metadata, "spec": { "hard": { "count/configmaps": "100" } } }),
        ),
        (
            "Secret",
            "secret",
            json!({ "metadata": metadata, "data": { "password": "aHVudGVyMg==" } }),
        ),
        (
            "ServiceAccount",
            "serviceAccount",
            json!({ "metadata": metadata }),
        ),
    ]
}

#[tokio::test]
async fn grpcurl_applies_every_kind_and_takes_a_backup_over_the_socket_and_over_tls() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    for (grpcurl, name) in [(plane.grpcurl(), "by-socket"), (plane.grpcurl_tls(), "by-tls")] {
        for (kind, field, object) in one_of_each_kind(name) {
            let method = format!("clone8s.v1.{kind}Service/Apply{kind}");
            let mut request = json!({ field: object, "fieldManager": "grpcurl" });
            for (color, outcome) in [
                ("red", "APPLY_OUTCOME_CREATED"),
                ("blue", "APPLY_OUTCOME_CONFIGURED"),
                ("blue", "APPLY_OUTCOME_UNCHANGED"),
            ] {
                request[field]["metadata"]["labels"] = json!({ "color": color });
                let applied = grpcurl.call(&method, &request).unwrap();
                assert_eq!(applied["outcome"], outcome, "{method}: {applied}");
                let meta = &applied[field]["metadata"];
                assert_eq!(meta["labels"]["color"], color, "{method}: {applied}");
                assert_eq!(
                    meta["managedFields"][0]["manager"], "grpcurl",
                    "{method}: {applied}"
                );
            }
            request["fieldManager"] = json!("another");
            request[field]["metadata"]["labels"]["color"] = json!("green");
            let refused = grpcurl.refusal(&method, &request).unwrap();
            assert!(
                refused.contains("FailedPrecondition") && refused.contains("metadata.labels[color]"),
                "{method}: {refused}"
            );
        }
        let parts = grpcurl
            .call_for_all("clone8s.v1.MaintenanceService/BackUpStore", &json!({}))
            .unwrap();
        let parts = parts
            .into_iter()
            .map(serde_json::from_value::<BackUpStoreResponse>);
        let file: Vec<u8> = parts.flat_map(|part| part.unwrap().data).collect();
        assert!(file.starts_with(b"clone8s backup 1\n"));
        let key = format!("/clone8s/objects/secrets/default/{name}");
        assert!(file.windows(key.len()).any(|window| window == key.as_bytes()));
    }
}

#[tokio::test]
async fn health_says_that_the_apiserver_serves() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let health = plane
        .grpcurl_tls()
        .call("grpc.health.v1.Health/Check", &json!({}))
        .unwrap();
    assert_eq!(health["status"], "SERVING");
    for service in ["clone8s.v1.PodService", "readiness"] {
        readiness(&plane, service, "SERVING").await;
    }
}

/// Waits until the health service says so of a service.
pub(crate) async fn readiness(plane: &ControlPlane, service: &str, status: &str) {
    wait::until(&format!("{service} is {status}"), || async {
        let health = plane
            .grpcurl()
            .call("grpc.health.v1.Health/Check", &json!({ "service": service }))?;
        anyhow::ensure!(health["status"] == status, "{health}");
        Ok(())
    })
    .await;
}

/// Writes pods, whatever the apiserver does meanwhile, and gives each with the revision that the store gave it.
async fn write_pods(channel: tonic::transport::Channel, count: usize) -> BTreeMap<String, i64> {
    let mut written = BTreeMap::new();
    for number in 0..count {
        let name = format!("pod-{number}");
        let created = wait::until("the pod is written", || async {
            match Pod::create(&channel, pods::pod(&name, &[("main", "registry.invalid/none:1")])).await {
                Ok(pod) => Ok(pod),
                // The try before was stored, and only its answer was lost.
                Err(status) if status.code() == Code::AlreadyExists => {
                    Ok(Pod::get(&channel, "default", &name).await?)
                }
                Err(status) => Err(status.into()),
            }
        })
        .await;
        written.insert(name, created.metadata.unwrap().resource_version);
    }
    written
}

/// Watches from a revision over every break until `wanted` pods were added, and checks that nothing comes twice
/// or out of order.
async fn watch_added(channel: tonic::transport::Channel, mut seen: i64, wanted: usize) -> Vec<String> {
    let mut added = Vec::new();
    while added.len() < wanted {
        // An error or an end: go on after what was seen.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Ok(mut watch) = Pod::watch(&channel, &Query::default(), From::Revision(seen)).await else {
            continue;
        };
        while added.len() < wanted {
            let Ok(Some(event)) = watch.next().await else {
                break;
            };
            assert!(event.revision >= seen, "revision {} after {seen}", event.revision);
            if event.kind == WatchEventType::Added {
                assert!(event.revision > seen, "revision {} twice", event.revision);
                added.push(event.object.unwrap().metadata.unwrap().name);
            }
            seen = event.revision;
        }
    }
    added
}

#[tokio::test]
async fn a_watch_goes_on_after_the_apiserver_was_killed_without_a_gap() {
    const PODS: usize = 150;
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    let (_, revision) = Pod::list_all(&plane.channel(), &Query::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    let watched = tasks.spawn(watch_added(plane.channel(), revision, PODS));
    let mut writers = JoinSet::new();
    writers.spawn(write_pods(plane.channel(), PODS));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        plane.apiserver.kill();
        plane.start_apiserver().await;
    }
    let written = writers.join_next().await.unwrap().unwrap();
    let added = tokio::time::timeout(wait::BOUND, tasks.join_next()).await;
    assert!(!watched.is_finished() || added.is_ok(), "the watch misses pods");
    let mut added = added.expect("every pod arrives on the watch").unwrap().unwrap();
    added.sort();
    assert!(
        added.iter().eq(written.keys()),
        "written {written:?}, watched {added:?}"
    );
}

#[tokio::test]
async fn etcd_may_stop_and_come_back_and_neither_the_apiserver_nor_a_watch_is_lost() {
    const PODS: usize = 20;
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    let (_, revision) = Pod::list_all(&plane.channel(), &Query::default()).await.unwrap();
    let mut watches = JoinSet::new();
    watches.spawn(watch_added(plane.channel(), revision, PODS));

    plane.etcd.process.kill();
    let is_away =
        |status: &tonic::Status| matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
    let refused = pods::pod("refused", &[("main", "registry.invalid/none:1")]);
    let refused = Pod::create(&plane.channel(), refused).await.unwrap_err();
    assert!(is_away(&refused), "{refused:?}");
    // The only apiserver knows for some seconds that nobody else can have written.
    let channel = plane.channel();
    wait::until("a read says that the store is away", || async {
        let read = Pod::get(&channel, "default", "any");
        let status = tokio::time::timeout(Duration::from_secs(20), read).await?;
        let status = status.expect_err("there is no such pod");
        anyhow::ensure!(is_away(&status), "{status:?}");
        Ok(())
    })
    .await;
    readiness(&plane, "readiness.store", "NOT_SERVING").await;
    plane.etcd.start_again().await;
    readiness(&plane, "readiness", "SERVING").await;

    let written = write_pods(plane.channel(), PODS).await;
    let added = tokio::time::timeout(wait::BOUND, watches.join_next()).await;
    let mut added = added.expect("every pod arrives on the watch").unwrap().unwrap();
    added.sort();
    assert!(
        added.iter().eq(written.keys()),
        "written {written:?}, watched {added:?}"
    );
    plane.apiserver.check_running().unwrap();
}

#[tokio::test]
async fn etcd_keeps_as_many_changes_as_is_asked_for() {
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    let (_, before) = Pod::list_all(&plane.channel(), &Query::default()).await.unwrap();
    plane.apiserver.stop().unwrap();
    let args = plane.apiserver.args_mut();
    args.extend(["--history-changes", "1000", "--history-age", "60"].map(Into::into));
    plane.start_apiserver().await;
    let mut etcd = plane.etcd.client().await.unwrap();
    let mut newest = 0;
    // Many at a time: all within the age that is kept, however slow the disk is.
    for _ in 0..11 {
        let puts = (0..100).map(|_| {
            let mut etcd = etcd.clone();
            async move { etcd.put("/clone8s/test", "", None).await }
        });
        for answer in try_join_all(puts).await.unwrap() {
            newest = answer.header().unwrap().revision().max(newest);
        }
    }
    let refused = wait::until("what is older is forgotten", || async {
        match Pod::watch(&plane.channel(), &Query::default(), From::Revision(before)).await {
            Err(status) => Ok(status),
            Ok(mut watch) => match tokio::time::timeout(Duration::from_millis(300), watch.next()).await? {
                Err(status) => Ok(status),
                Ok(event) => anyhow::bail!("{event:?}"),
            },
        }
    })
    .await;
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    // Not the very last that is kept: others may have written meanwhile.
    let kept = etcd_client::GetOptions::new().with_revision(newest - 900);
    etcd.get("/clone8s/test", Some(kept)).await.unwrap();
}
