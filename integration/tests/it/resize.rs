//! Limits of a container that runs, as the kernel sees them.

use std::path::Path;

use anyhow::ensure;
use clone8s::v1::Pod;
use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, node::RuntimeKind, pods, wait};
use rstest::rstest;

/// Writes the memory limit that the kernel holds it to into a file of the node, again and again.
fn manifest(image: &str, folder: &Path) -> Pod {
    pods::from_yaml(&format!(
        r"
apiVersion: v1
kind: Pod
metadata:
  name: resized
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - name: app
      image: {image}
      command: [/bin/sh, -c]
      args:
        - while sleep 0.2; do
          cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max > /log/new 2>/dev/null;
          mv /log/new /log/limit;
          done
      resources:
        limits: {{cpu: 500m, memory: 32Mi}}
      volumeMounts: [{{name: log, mountPath: /log}}]
  volumes:
    - name: log
      hostPath:
        path: {folder}
",
        folder = folder.display()
    ))
}

async fn shows(folder: &Path, bytes: u64) {
    wait::until(&format!("the limit is {bytes} bytes"), || async {
        let found = std::fs::read_to_string(folder.join("limit"))?;
        ensure!(found.trim() == bytes.to_string(), "{found:?}");
        Ok(())
    })
    .await;
}

#[rstest]
#[case::our_shim(RuntimeKind::Shim)]
#[case::containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn limits_change_while_the_container_runs_on(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start_on(&sandbox, "resizing", runtime).await;
    node.join(&plane, None).await;
    plane.node_ready("resizing").await;
    let folder = sandbox.make_dir("log");
    plane
        .create(manifest(&registry.image("busybox:1"), &folder))
        .await;
    plane.running("resized").await;
    shows(&folder, 32 << 20).await;
    let runs = node.runs().await.unwrap();

    for (limit, bytes) in [("64Mi", 64 << 20), ("48Mi", 48 << 20)] {
        plane
            .change("resized", |pod| {
                let spec = pod.spec.as_mut().unwrap();
                let resources = spec.containers[0].resources.as_mut().unwrap();
                for amounts in [&mut resources.limits, &mut resources.requests] {
                    amounts.insert("memory".to_owned(), limit.to_owned());
                }
            })
            .await;
        shows(&folder, bytes).await;
    }
    // A kubelet that comes later finds the limits as they are to be.
    node.kubelet.kill();
    node.kubelet.start().unwrap();
    plane.node_ready("resizing").await;
    shows(&folder, 48 << 20).await;
    assert_eq!(node.runs().await.unwrap(), runs, "it runs on");
    plane.delete("resized").await;
    plane.gone("resized").await;
}
