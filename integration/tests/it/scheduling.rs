//! Where pods go, and what becomes of those on nodes that fall silent or go.

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use anyhow::ensure;
use clone8s::{
    client::{DeleteOptions, Query, Resource as _},
    object::Object,
    v1::{
        Condition, Event, Node, NodeStatus, ObjectMeta, Pod, PodStatus, ResourceRequirements,
        UpdateNodeStatusRequest, UpdatePodStatusRequest,
    },
};
use clone8s_integration::{ControlPlane, Registry, Sandbox, command, node::Node as RealNode, pods, wait};
use pbjson_types::Timestamp;

fn now() -> Timestamp {
    let since = clone8s_daemon::clock::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
    }
}

fn condition(kind: &str, status: &str) -> Condition {
    Condition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        last_heartbeat_time: Some(now()),
        ..Condition::default()
    }
}

/// A node that says once that it is ready, and nothing after that.
async fn join(plane: &ControlPlane, name: &str, cpu: &str) {
    let node = Node {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            ..ObjectMeta::default()
        }),
        ..Node::default()
    };
    Node::create(&plane.channel(), node).await.unwrap();
    beat(plane, name, cpu).await.unwrap();
}

/// The node says that it is ready, again with every call.
async fn beat(plane: &ControlPlane, name: &str, cpu: &str) -> anyhow::Result<()> {
    let mut node = Node::get(&plane.channel(), "", name).await?;
    node.status = Some(NodeStatus {
        allocatable: [("cpu", cpu), ("memory", "1Gi"), ("pods", "200")]
            .map(|(resource, amount)| (resource.to_owned(), amount.to_owned()))
            .into(),
        conditions: vec![condition("Ready", "True")],
        ..NodeStatus::default()
    });
    let request = UpdateNodeStatusRequest {
        node: Some(node),
        ..Default::default()
    };
    plane.nodes().update_node_status(request).await?;
    Ok(())
}

fn asking(name: &str, cpu: &str) -> Pod {
    let mut pod = pods::pod(name, &[("main", "registry.invalid/none:1")]);
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.resources = Some(ResourceRequirements {
        requests: [("cpu".to_owned(), cpu.to_owned())].into(),
        ..ResourceRequirements::default()
    });
    pod
}

fn scheduled(pod: &Pod) -> Option<&Condition> {
    let conditions = &pod.status.as_ref()?.conditions;
    conditions.iter().find(|it| it.r#type == "PodScheduled")
}

async fn bound(plane: &ControlPlane, name: &str) -> String {
    wait::until(&format!("pod {name} has a node"), || async {
        let pod = plane.pod(name).await?;
        let node = pod.spec.clone().unwrap_or_default().node_name;
        ensure!(!node.is_empty(), "{:?}", scheduled(&pod));
        Ok(node)
    })
    .await
}

async fn waits(plane: &ControlPlane, name: &str, reason: &str) {
    wait::until(&format!("pod {name} waits: {reason}"), || async {
        let pod = plane.pod(name).await?;
        let seen = scheduled(&pod).cloned().unwrap_or_default();
        ensure!(
            seen.status == "False" && seen.reason == "Unschedulable" && seen.message == reason,
            "{seen:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_waits_with_the_reason_until_there_is_room() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    plane.create(asking("first", "600m")).await;
    waits(&plane, "first", "no node has joined the cluster").await;

    join(&plane, "n1", "1").await;
    assert_eq!(bound(&plane, "first").await, "n1");
    plane.create(asking("second", "600m")).await;
    waits(&plane, "second", "0/1 nodes are available: 1 too little cpu").await;

    let now = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    Pod::delete(&plane.channel(), "default", "first", &now)
        .await
        .unwrap();
    assert_eq!(bound(&plane, "second").await, "n1");
    let pod = plane.pod("second").await.unwrap();
    assert_eq!(scheduled(&pod).unwrap().status, "True");

    wait::until("events tell of both", || async {
        let (events, _) = Event::list_all(&plane.channel(), &Query::default()).await?;
        let about_second = |reason: &str| {
            events
                .iter()
                .filter(|event| {
                    event
                        .involved_object
                        .as_ref()
                        .is_some_and(|object| object.name == "second")
                })
                .any(|event| event.reason == reason)
        };
        ensure!(
            about_second("FailedScheduling") && about_second("Scheduled"),
            "{events:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_burst_overcommits_no_node_although_the_scheduler_is_killed_in_the_middle() {
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    for node in ["n1", "n2", "n3"] {
        join(&plane, node, "2").await;
    }
    for i in 0..40 {
        plane.create(asking(&format!("burst-{i}"), "200m")).await;
        if i == 20 {
            plane.controllers.kill();
            plane.controllers.start().unwrap();
        }
    }
    // 3 nodes of 2 cores take 30 pods of 200m.
    let by_node = wait::until("30 pods are bound and 10 wait", || async {
        let (pods, _) = Pod::list_all(&plane.channel(), &Query::default()).await?;
        let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
        for pod in &pods {
            *by_node
                .entry(pod.spec.clone().unwrap_or_default().node_name)
                .or_default() += 1;
        }
        let told = pods
            .iter()
            .filter(|pod| scheduled(pod).is_some_and(|it| it.status == "False"))
            .count();
        ensure!(
            by_node.get("") == Some(&10) && told == 10,
            "{by_node:?}, {told} told"
        );
        Ok(by_node)
    })
    .await;
    for node in ["n1", "n2", "n3"] {
        assert_eq!(by_node[node], 10, "{by_node:?}");
    }
}

#[tokio::test]
async fn a_silent_node_is_unknown_its_pods_unready_and_a_node_that_goes_fails_them() {
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    plane.controllers.kill();
    let args = plane.controllers.args_mut();
    args.extend(["--node-monitor-grace-period", "4"].map(Into::into));
    plane.controllers.start().unwrap();
    join(&plane, "n1", "1").await;
    plane.create(asking("served", "100m")).await;
    wait::until("pod served has its node, which is heard until then", || async {
        beat(&plane, "n1", "1").await?;
        let pod = plane.pod("served").await?;
        ensure!(pod.spec.unwrap_or_default().node_name == "n1");
        Ok(())
    })
    .await;
    wait::until("pod served says that it runs", || async {
        let mut pod = plane.pod("served").await?;
        pod.status = Some(PodStatus {
            phase: "Running".to_owned(),
            start_time: Some(Timestamp::default()),
            conditions: vec![condition("PodScheduled", "True"), condition("Ready", "True")],
            ..PodStatus::default()
        });
        let request = UpdatePodStatusRequest {
            pod: Some(pod),
            ..Default::default()
        };
        plane.pods().update_pod_status(request).await?;
        Ok(())
    })
    .await;

    wait::until("the node is unknown and its pod not ready", || async {
        let node = Node::get(&plane.channel(), "", "n1").await?;
        let pod = plane.pod("served").await?;
        let seen = |conditions: &[Condition]| conditions.iter().find(|it| it.r#type == "Ready").cloned();
        let of_node = seen(&node.status.unwrap_or_default().conditions).unwrap_or_default();
        let of_pod = seen(&pod.status.unwrap_or_default().conditions).unwrap_or_default();
        ensure!(
            of_node.status == "Unknown" && of_node.reason == "NodeStatusUnknown",
            "{of_node:?}"
        );
        ensure!(
            of_pod.status == "False" && of_pod.reason == "NodeNotReady",
            "{of_pod:?}"
        );
        Ok(())
    })
    .await;
    plane.create(asking("late", "100m")).await;
    waits(&plane, "late", "0/1 nodes are available: 1 not ready").await;

    Node::delete(&plane.channel(), "", "n1", &DeleteOptions::default())
        .await
        .unwrap();
    wait::until("the pod of the node that is gone has failed", || async {
        let status = plane.pod("served").await?.status.unwrap_or_default();
        ensure!(
            status.phase == "Failed" && status.reason == "NodeLost",
            "{status:?}"
        );
        let disrupted = status
            .conditions
            .iter()
            .any(|one| one.r#type == "DisruptionTarget");
        ensure!(disrupted, "{status:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_drained_node_ends_its_pods_and_takes_new_ones_once_it_may_again() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = RealNode::start(&sandbox, "n1").await;
    node.write_manifest("own.yaml", &pods::flat_yaml("own", &[("main", &image)]));
    node.join(&plane, None).await;
    plane.node_ready("n1").await;
    for name in ["one", "two"] {
        plane.create(pods::pod(name, &[("main", &image)])).await;
    }
    plane.running("one").await;
    plane.running("two").await;

    let said = command::run(&mut plane.c8s(&["drain", "n1"])).unwrap();
    assert!(said.ends_with("node/n1 drained\n"), "{said}");
    // It is told only when they are gone.
    let (left, _) = Pod::list_all(&plane.channel(), &Query::default()).await.unwrap();
    let names: Vec<_> = left.iter().map(Object::name).collect();
    assert_eq!(names, ["own-n1"]);
    node.runs_exactly(&[("own", "main")]).await;

    plane.create(pods::pod("late", &[("main", &image)])).await;
    waits(&plane, "late", "0/1 nodes are available: 1 unschedulable").await;
    command::run(&mut plane.c8s(&["uncordon", "n1"])).unwrap();
    plane.running("late").await;
    node.runs_exactly(&[("late", "main"), ("own", "main")]).await;
}
