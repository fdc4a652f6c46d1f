//! Pods that take more of the node's disk than they may.

use anyhow::ensure;
use clone8s::v1::Pod;
use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, node::RuntimeKind, pods, wait};
use rstest::rstest;

/// Waits until the apiserver shows the pod as evicted, and gives why.
async fn evicted(plane: &ControlPlane, name: &str) -> String {
    wait::until(&format!("{name} is evicted"), || async {
        let status = plane.pod(name).await?.status.unwrap_or_default();
        let told = (status.phase.as_str(), status.reason.as_str());
        ensure!(told == ("Failed", "Evicted"), "{told:?} {}", status.message);
        let disrupted = status.conditions.iter().any(|one| {
            (one.r#type.as_str(), one.reason.as_str()) == ("DisruptionTarget", "TerminationByKubelet")
        });
        ensure!(disrupted, "{:?}", status.conditions);
        Ok(status.message)
    })
    .await
}

/// Writes more into its own layer than it may.
fn scribbler(image: &str) -> Pod {
    pods::from_yaml(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: scribbler}}\nspec:\n  hostNetwork: true\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: {image}\n    command: [/bin/sh, -c, \
         \"dd if=/dev/zero of=/scribble bs=64k count=64; while true; do sleep 1; done\"]\n    resources: {{limits: \
         {{ephemeral-storage: 1Mi}}}}\n"
    ))
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn a_pod_beyond_its_limits_of_disk_ends_and_stays_ended(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start_on(&sandbox, "disk", runtime).await;
    node.kubelet
        .args_mut()
        .extend(["--stats-interval", "1"].map(Into::into));
    node.join(&plane, None).await;
    plane.node_ready("disk").await;

    let hoarder = pods::example(
        "disk-limits.yaml",
        &[
            ("clone8s.local/hello:1", &image),
            ("imagePullPolicy: Never", "imagePullPolicy: IfNotPresent"),
        ],
    );
    plane.create(pods::from_yaml(&hoarder)).await;
    let message = evicted(&plane, "hoarder").await;
    assert_eq!(
        message,
        "Usage of EmptyDir volume \"cache\" exceeds the limit \"4Mi\". "
    );
    node.runs_exactly(&[]).await;

    // A kubelet that comes later does not run it again.
    node.kubelet.kill();
    node.kubelet.start().unwrap();
    plane.create(scribbler(&image)).await;
    let message = evicted(&plane, "scribbler").await;
    // Whoever is looked at first: it is its only container.
    assert!(message.contains("1Mi"), "{message}");
    node.runs_exactly(&[]).await;
    evicted(&plane, "hoarder").await;

    for name in ["hoarder", "scribbler"] {
        plane.delete(name).await;
        plane.gone(name).await;
    }
    wait::until("nothing is noted any more", || async {
        let left = std::fs::read_dir(node.dir().join("kubelet/evictions"))?.count();
        ensure!(left == 0, "{left} notes");
        Ok(())
    })
    .await;
}
