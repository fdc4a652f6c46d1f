//! The order in which the containers of a real pod start and end, over a restart of the kubelet.

use std::path::Path;

use anyhow::ensure;
use clone8s::v1::Pod;
use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, pods, wait};

/// Each container writes what it does to one file of the node: init container, sidecar, init container, container.
fn manifest(image: &str, folder: &Path) -> Pod {
    pods::from_yaml(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: ordered
spec:
  hostNetwork: true
  # Longer than all hooks and ends take on a busy machine: what is killed tells nothing.
  terminationGracePeriodSeconds: 120
  initContainers:
    - name: first
      image: {image}
      command: [/bin/sh, -c, "echo first begins >> /log/order; sleep 1; echo first ends >> /log/order"]
      volumeMounts: [{{name: log, mountPath: /log}}]
    - name: proxy
      restartPolicy: Always
      image: {image}
      command: [/bin/sh, -c]
      args:
        - trap "echo proxy ends >> /log/order; exit 0" TERM;
          echo proxy begins >> /log/order; while [ ! -e /log/go ]; do sleep 0.1; done;
          echo proxy serves >> /log/order; touch /tmp/serves;
          while true; do sleep 1; done
      startupProbe:
        exec:
          command: [test, -e, /tmp/serves]
        periodSeconds: 1
        failureThreshold: 60
      lifecycle:
        preStop:
          exec:
            command: [/bin/sh, -c, "echo proxy is told >> /log/order"]
      volumeMounts: [{{name: log, mountPath: /log}}]
    - name: second
      image: {image}
      command: [/bin/sh, -c, "echo second begins >> /log/order; sleep 1; echo second ends >> /log/order"]
      volumeMounts: [{{name: log, mountPath: /log}}]
  containers:
    - name: app
      image: {image}
      command: [/bin/sh, -c]
      args:
        - trap "sleep 1; echo app ends >> /log/order; exit 0" TERM;
          while [ ! -e /tmp/opened ]; do sleep 1; done;
          echo app begins >> /log/order;
          while true; do sleep 1; done
      lifecycle:
        postStart:
          exec:
            command: [/bin/sh, -c, "echo app is opened >> /log/order; touch /tmp/opened"]
        preStop:
          exec:
            command: [/bin/sh, -c, "echo app is told >> /log/order; sleep 1"]
      volumeMounts: [{{name: log, mountPath: /log}}]
  volumes:
    - name: log
      hostPath:
        path: {folder}
"#,
        folder = folder.display()
    ))
}

const UP: [&str; 8] = [
    "first begins",
    "first ends",
    "proxy begins",
    "proxy serves",
    "second begins",
    "second ends",
    "app is opened",
    "app begins",
];
const DOWN: [&str; 4] = ["app is told", "app ends", "proxy is told", "proxy ends"];

fn told(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("order")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_pod_starts_in_order_and_ends_in_reverse_whatever_becomes_of_the_kubelet() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "ordering").await;
    node.join(&plane, None).await;
    plane.node_ready("ordering").await;
    let folder = sandbox.make_dir("order");
    plane
        .create(manifest(&registry.image("busybox:1"), &folder))
        .await;

    // Killed while the sidecar has yet to start, the kubelet goes on where it was.
    wait::until("the sidecar runs", || async {
        let told = told(&folder);
        ensure!(told.iter().any(|line| line == "proxy begins"), "{told:?}");
        Ok(())
    })
    .await;
    let pod = plane.pod("ordered").await.unwrap();
    assert_eq!(pod.status.unwrap().phase, "Pending");
    node.kubelet.kill();
    node.kubelet.start().unwrap();
    std::fs::write(folder.join("go"), "").unwrap();
    plane.running("ordered").await;
    wait::until("the app runs", || async {
        let told = told(&folder);
        ensure!(told == UP, "{told:?}");
        Ok(())
    })
    .await;
    let status = plane.pod("ordered").await.unwrap().status.unwrap();
    let init: Vec<_> = status
        .init_container_statuses
        .iter()
        .map(|it| (it.name.as_str(), it.ready, it.restart_count))
        .collect();
    assert_eq!(
        init,
        [("first", true, 0), ("proxy", true, 0), ("second", true, 0)]
    );

    // What has run stays as it is over another restart.
    let runs = node.runs().await.unwrap();
    node.kubelet.kill();
    node.kubelet.start().unwrap();
    plane.running("ordered").await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(node.runs().await.unwrap(), runs);
    assert_eq!(told(&folder), UP);

    plane.delete("ordered").await;
    plane.gone("ordered").await;
    assert_eq!(told(&folder), [&UP[..], &DOWN[..]].concat());
}
