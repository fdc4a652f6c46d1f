//! Probes of real containers: startup, liveness, readiness, over every restart of the kubelet.

use std::time::Duration;

use anyhow::ensure;
use clone8s::{cri::ExecSyncRequest, v1::Pod};
use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, node::Place, pods, wait};

/// Starts to serve at once, has started when /tmp/started is there, and is ready while its page is.
fn server(image: &str) -> Pod {
    pods::from_yaml(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: {image}
      command: [/bin/sh, -c]
      args: ["mkdir /tmp/www; httpd -p 8080 -h /tmp/www; exec sleep 2147483647"]
      ports:
        - name: http
          containerPort: 8080
      startupProbe:
        exec:
          command: [test, -e, /tmp/started]
        periodSeconds: 1
        failureThreshold: 120
      readinessProbe:
        httpGet:
          path: /ready
          port: http
        periodSeconds: 1
        # A machine that stands still for a moment says neither yes nor no.
        timeoutSeconds: 30
        failureThreshold: 1
      livenessProbe:
        tcpSocket:
          port: 8080
        periodSeconds: 1
        timeoutSeconds: 30
        failureThreshold: 2
"#
    ))
}

/// Runs a command in the server's container.
async fn run(node: &Node, command: &[&str]) {
    let runs = node.runs().await.unwrap();
    let place = Place {
        pod: "web".into(),
        container: "server".into(),
    };
    let request = ExecSyncRequest {
        container_id: runs[&place].id.clone(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        timeout: 60,
    };
    let output = node.cri().exec_sync(request).await.unwrap().into_inner();
    assert_eq!(output.exit_code, 0, "{command:?}: {output:?}");
}

/// Whether its container has started and the pod is ready, and how often it was started anew.
fn seen(pod: &Pod) -> (bool, bool, i32) {
    let status = pod.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .any(|it| it.r#type == "Ready" && it.status == "True");
    let container = status.container_statuses.first().cloned().unwrap_or_default();
    (container.started, ready, container.restart_count)
}

async fn until_seen(plane: &ControlPlane, expected: (bool, bool, i32)) {
    let what = format!("started, ready and restarts are {expected:?}");
    wait::until(&what, || async {
        let pod = plane.pod("web").await?;
        ensure!(
            pod.status.as_ref().is_some_and(|it| it.phase == "Running"),
            "{:?}",
            pod.status
        );
        ensure!(seen(&pod) == expected, "{:?}", pod.status);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_is_ready_while_its_probes_say_so_whatever_becomes_of_the_kubelet() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "probing").await;
    node.join(&plane, None).await;
    plane.node_ready("probing").await;
    plane.create(server(&registry.image("busybox:1"))).await;
    until_seen(&plane, (false, false, 0)).await;

    run(&node, &["touch", "/tmp/started"]).await;
    until_seen(&plane, (true, false, 0)).await;
    run(&node, &["touch", "/tmp/www/ready"]).await;
    until_seen(&plane, (true, true, 0)).await;

    // A kubelet that dies and comes back turns nothing unready, not for a moment.
    let runs = node.runs().await.unwrap();
    for _ in 0..3 {
        node.kubelet.kill();
        node.kubelet.start().unwrap();
        for _ in 0..20 {
            let pod = plane.pod("web").await.unwrap();
            assert_eq!(seen(&pod), (true, true, 0), "{:?}", pod.status);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(node.runs().await.unwrap(), runs);

    run(&node, &["rm", "/tmp/www/ready"]).await;
    until_seen(&plane, (true, false, 0)).await;
    run(&node, &["touch", "/tmp/www/ready"]).await;
    until_seen(&plane, (true, true, 0)).await;

    // Without a server it no longer lives; the next run has not started yet.
    run(
        &node,
        &[
            "sh",
            "-c",
            "kill $(ps -o pid,comm | grep httpd | sed 's/^ *//' | cut -d' ' -f1)",
        ],
    )
    .await;
    until_seen(&plane, (false, false, 1)).await;
    let pod = plane.pod("web").await.unwrap();
    let last = pod.status.unwrap().container_statuses[0].last_state.clone();
    assert!(last.is_some(), "how the run before ended");
}
