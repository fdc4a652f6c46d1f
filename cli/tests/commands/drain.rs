use std::time::Duration;

use clone8s::{
    client::{DeleteOptions, From, Query, Resource as _},
    object::Object as _,
    v1::{Pod, WatchEventType},
};
use clone8s_daemon::unix;
use tokio::{task::JoinSet, time::timeout};

use super::cluster::{Cluster, failure, words};

fn manifest(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  nodeName: {node}\n  containers:\n  - {{name: a, image: i}}\n---\n"
    )
}

/// With two nodes, two pods on the first, one on the other, and one on none.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let nodes =
        ["n1", "n2"].map(|node| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n---\n"));
    let pods = [("web", "n1"), ("db", "n1"), ("other", "n2"), ("free", "\"\"")]
        .map(|(pod, node)| manifest(pod, node));
    let file = cluster.file("objects.yaml", &[nodes.concat(), pods.concat()].concat());
    cluster.ok(&["apply", "-f", &file]).await;
    cluster
}

/// Confirms that pods of a node have stopped, as its kubelet does, and gathers what they said.
fn node(cluster: &Cluster, node: &'static str) -> JoinSet<Vec<Pod>> {
    let channel = unix::channel(cluster.socket());
    let mut running = JoinSet::new();
    running.spawn(async move {
        let query = Query {
            field_selector: format!("spec.nodeName={node}"),
            ..Query::default()
        };
        let mut watch = Pod::watch(&channel, &query, From::InitialState).await.unwrap();
        let mut stopped = Vec::new();
        while stopped.len() < 2 {
            let event = watch.next().await.unwrap().unwrap();
            let Some(pod) = event.object.filter(|_| event.kind != WatchEventType::Deleted) else {
                continue;
            };
            let meta = pod.metadata.as_ref().unwrap();
            if meta.deletion_grace_period_seconds.unwrap_or(0) == 0 {
                continue;
            }
            let now = DeleteOptions {
                uid: pod.uid().to_owned(),
                grace_period_seconds: Some(0),
                ..DeleteOptions::default()
            };
            Pod::delete(&channel, pod.namespace(), pod.name(), &now)
                .await
                .unwrap();
            stopped.push(pod);
        }
        stopped
    });
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_takes_no_pods_and_has_none() {
    let cluster = cluster().await;
    let mut kubelet = node(&cluster, "n1");
    let said = cluster
        .ok(&["drain", "n1", "--grace-period", "7", "--timeout", "60"])
        .await;
    let mut lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.first(), Some(&"node/n1 cordoned"));
    assert_eq!(lines.last(), Some(&"node/n1 drained"));
    lines.sort_unstable();
    let of_pods = [
        "evicting pod default/db",
        "evicting pod default/web",
        "node/n1 cordoned",
        "node/n1 drained",
        "pod default/db evicted",
        "pod default/web evicted",
    ];
    assert_eq!(lines, of_pods);
    let stopped = timeout(Duration::from_secs(30), kubelet.join_next()).await;
    for pod in stopped.unwrap().unwrap().unwrap() {
        let meta = pod.metadata.unwrap();
        assert_eq!(meta.deletion_grace_period_seconds, Some(7));
        let condition = &pod.status.unwrap().conditions[0];
        assert_eq!(condition.r#type, "DisruptionTarget");
        assert_eq!(condition.message, "node n1 is drained");
    }
    let left = cluster.ok(&["get", "pods", "-o", "name"]).await;
    assert_eq!(left, "pod/free\npod/other\n");
    let cordoned = [
        "get",
        "nodes",
        "-o",
        "name",
        "--field-selector",
        "spec.unschedulable=true",
    ];
    assert_eq!(cluster.ok(&cordoned).await, "node/n1\n");
    // There is nothing to do, which is no error.
    assert_eq!(
        cluster.ok(&["drain", "n1"]).await,
        "node/n1 cordoned\nnode/n1 drained\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_only_tried_changes_nothing() {
    let cluster = cluster().await;
    let before = cluster.ok(&["get", "pods", "-o", "yaml"]).await;
    assert_eq!(
        cluster.ok(&["drain", "n1", "--dry-run", "-l", "app=web"]).await,
        "node/n1 cordoned (dry run)\npod default/web evicted (dry run)\n"
    );
    assert_eq!(cluster.ok(&["get", "pods", "-o", "yaml"]).await, before);
    let said = cluster.refused(&["drain", "nowhere", "--dry-run"]).await;
    assert!(
        said.contains("node/nowhere: ") && said.contains("not found"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_takes_too_long_names_what_is_left_and_goes_on_later() {
    let cluster = cluster().await;
    let output = cluster
        .command(&["drain", "n1", "--timeout", "4", "-l", "app=web"])
        .output()
        .await
        .unwrap();
    let said = failure(&output);
    for part in ["node/n1", "after 4 s", "pod default/web", "c8s delete pod"] {
        assert!(said.contains(part), "{part:?} is missing from {said}");
    }
    assert!(!said.contains("default/db"), "{said}");
    assert!(words(&output.stdout).contains("evicting pod default/web"));

    let mut kubelet = node(&cluster, "n1");
    let said = cluster.ok(&["drain", "n1", "--timeout", "60"]).await;
    assert!(said.ends_with("node/n1 drained\n"), "{said}");
    timeout(Duration::from_secs(30), kubelet.join_next())
        .await
        .unwrap();
}
