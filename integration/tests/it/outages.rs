//! Killing every daemon while pods run: no container restarts, none is lost, none doubles.

use std::{process::Command, time::Duration};

use clone8s::v1::{Condition, ObjectMeta, Pod, PodReadinessGate, PodStatus, UpdatePodStatusRequest};
use clone8s_integration::{
    ControlPlane, Node, RabbitMq, Registry, Sandbox, command,
    node::{Runs, RuntimeKind},
    pods, wait,
};
use rstest::rstest;
use rustix::process::Signal;

const PLACES: [(&str, &str); 4] = [("one", "a"), ("one", "b"), ("two", "a"), ("fixed", "main")];

/// A cluster of one node with a pod of the folder and two of the API, and what runs there.
async fn cluster(
    sandbox: &Sandbox,
    broker: Option<&str>,
    registry: &Registry,
    runtime: RuntimeKind,
) -> (ControlPlane, Node, Runs) {
    let image = registry.image("busybox:1");
    let plane = ControlPlane::start(sandbox, broker).await;
    let mut node = Node::start_on(sandbox, "node", runtime).await;
    node.write_manifest("fixed.yaml", &pods::flat_yaml("fixed", &[("main", &image)]));
    node.join(&plane, broker).await;
    plane.node_ready("node").await;
    plane
        .create(pods::pod("one", &[("a", &image), ("b", &image)]))
        .await;
    plane.create(pods::pod("two", &[("a", &image)])).await;
    plane.running("one").await;
    plane.running("two").await;
    let runs = node.runs_exactly(&PLACES).await;
    (plane, node, runs)
}

/// The same processes as before run, each once, for long enough that a wrong restart would show.
async fn unchanged(node: &Node, before: &Runs) {
    wait::until("the runtime answers again", || async {
        node.runs().await.map(drop)
    })
    .await;
    wait::holds_for(
        Duration::from_secs(3),
        "every container runs on as it was",
        || async {
            let now = node.runs().await?;
            anyhow::ensure!(now == *before, "before {before:?}\nnow {now:?}");
            Ok(())
        },
    )
    .await;
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn the_daemons_of_a_node_may_be_killed_one_by_one_and_together(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let (broker, registry) = (RabbitMq::shared().await, Registry::shared().await);
    let vhost = broker.vhost();
    let (plane, mut node, before) = cluster(&sandbox, Some(&vhost), &registry, runtime).await;

    node.kubelet.kill();
    node.kubelet.start().unwrap();
    unchanged(&node, &before).await;

    if runtime == RuntimeKind::Shim {
        node.shim.kill();
        node.shim.start().unwrap();
        unchanged(&node, &before).await;
    }

    node.containerd.process.kill();
    node.containerd.start_again().await;
    unchanged(&node, &before).await;

    node.kubelet.kill();
    node.shim.kill();
    node.containerd.process.kill();
    node.containerd.start_again().await;
    if runtime == RuntimeKind::Shim {
        node.shim.start().unwrap();
    }
    node.kubelet.start().unwrap();
    unchanged(&node, &before).await;

    // They are adopted, not just left alone: the API still rules them.
    plane.node_ready("node").await;
    for name in ["one", "two"] {
        let pod = plane.running(name).await;
        for status in pod.status.unwrap().container_statuses {
            assert_eq!(status.restart_count, 0, "{status:?}");
        }
    }
    plane.delete("one").await;
    plane.gone("one").await;
    node.remove_manifest("fixed.yaml");
    let after = node.runs_exactly(&[("two", "a")]).await;
    assert!(after.iter().all(|(place, run)| before[place] == *run));

    // A container that really ends is started again, after all that.
    let pid = after.values().next().unwrap().pid;
    command::run(Command::new("kill").args(["-9", &pid.to_string()])).unwrap();
    let restarted = wait::until("the ended container runs again", || async {
        let runs = node.runs().await?;
        let run = runs
            .values()
            .next()
            .ok_or_else(|| anyhow::anyhow!("nothing runs"))?;
        anyhow::ensure!(run.pid != pid, "{run:?}");
        Ok(run.clone())
    })
    .await;
    assert_eq!(restarted.attempt, 1);
}

#[tokio::test]
async fn with_apiserver_broker_and_store_gone_a_restarted_node_keeps_its_pods() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let mut broker = RabbitMq::start(&sandbox).await;
    let vhost = broker.vhost();
    let (mut plane, mut node, before) = cluster(&sandbox, Some(&vhost), &registry, RuntimeKind::Shim).await;

    plane.controllers.kill();
    plane.apiserver.kill();
    plane.etcd.process.kill();
    broker.process.kill();
    unchanged(&node, &before).await;
    node.kubelet.kill();
    node.shim.kill();
    node.shim.start().unwrap();
    node.kubelet.start().unwrap();
    unchanged(&node, &before).await;

    // Everything comes back, in the order that is hardest on the node, and it takes orders again.
    broker.start_again().await;
    plane.etcd.start_again().await;
    plane.start_apiserver().await;
    plane.controllers.start().unwrap();
    plane.node_ready("node").await;
    unchanged(&node, &before).await;
    plane.delete("two").await;
    plane.gone("two").await;
    node.runs_exactly(&[("one", "a"), ("one", "b"), ("fixed", "main")])
        .await;
}

/// Waits until the pod's readiness is this, for this reason.
async fn readiness(plane: &ControlPlane, name: &str, status: &str, reason: &str) {
    wait::until(&format!("pod {name} is Ready={status} {reason}"), || async {
        let conditions = plane.pod(name).await?.status.unwrap_or_default().conditions;
        let ready = conditions.iter().find(|it| it.r#type == "Ready");
        anyhow::ensure!(
            ready.is_some_and(|it| it.status == status && it.reason == reason),
            "{conditions:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_is_ready_again_when_its_silent_node_is_heard_again() {
    const GATE: &str = "example.org/served";
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let mut plane = ControlPlane::start(&sandbox, None).await;
    plane.controllers.kill();
    let args = plane.controllers.args_mut();
    args.extend(["--node-monitor-grace-period", "4"].map(Into::into));
    plane.controllers.start().unwrap();
    let mut node = Node::start(&sandbox, "node").await;
    node.join(&plane, None).await;
    plane.node_ready("node").await;
    let mut pod = pods::pod("web", &[("main", &registry.image("busybox:1"))]);
    pod.spec.get_or_insert_default().readiness_gates = vec![PodReadinessGate {
        condition_type: GATE.to_owned(),
    }];
    let stored = plane.create(pod).await;

    readiness(&plane, "web", "False", "ReadinessGatesNotReady").await;
    let opened = Condition {
        r#type: GATE.to_owned(),
        status: "True".to_owned(),
        ..Default::default()
    };
    let request = UpdatePodStatusRequest {
        pod: Some(Pod {
            metadata: stored.metadata.map(|metadata| ObjectMeta {
                resource_version: 0,
                ..metadata
            }),
            status: Some(PodStatus {
                conditions: vec![opened],
                ..Default::default()
            }),
            ..Default::default()
        }),
        condition_types: vec![GATE.to_owned()],
        ..Default::default()
    };
    plane.pods().update_pod_status(request).await.unwrap();
    readiness(&plane, "web", "True", "").await;

    node.kubelet.freeze().unwrap();
    readiness(&plane, "web", "False", "NodeNotReady").await;
    node.kubelet.signal(Signal::CONT).unwrap();
    readiness(&plane, "web", "True", "").await;
}

#[tokio::test]
async fn an_apiserver_stops_in_order_though_its_store_does_not_answer() {
    let sandbox = Sandbox::new();
    let mut plane = ControlPlane::start(&sandbox, None).await;
    // Whatever it is in the middle of waits for the store now.
    plane.etcd.process.freeze().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = std::time::Instant::now();
    let status = plane.apiserver.stop().unwrap();
    assert!(status.success(), "{status}\n{}", plane.apiserver.log_tail());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    plane.etcd.process.signal(Signal::CONT).unwrap();
}

#[tokio::test]
async fn an_apiserver_whose_store_was_replaced_ends_and_the_cluster_goes_on_with_the_new_one() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let (mut plane, node, before) = cluster(&sandbox, None, &registry, RuntimeKind::Shim).await;

    plane.etcd.start_empty().await;
    let ended = plane.apiserver.wait(Duration::from_secs(30)).unwrap();
    assert!(!ended.success(), "{ended}");
    let log = plane.apiserver.log_tail();
    assert!(log.contains("the store went back from revision"), "{log}");

    plane.start_apiserver().await;
    plane.node_ready("node").await;
    plane.create(pods::pod("new", &[("main", &image)])).await;
    plane.running("new").await;
    let after = node.runs_exactly(&[("fixed", "main"), ("new", "main")]).await;
    let kept: Vec<_> = after
        .values()
        .filter(|run| before.values().any(|was| was == *run))
        .collect();
    assert_eq!(kept.len(), 1, "before {before:?}\nnow {after:?}");
}
