//! The end of pods of the API: when a pod is over, and that it stays so.

use clone8s::object::Object as _;

use super::*;

fn never(pod: &DesiredPod) -> DesiredPod {
    with_spec(pod, |spec| spec.restart_policy = "Never".into())
}

fn updated(pod: &DesiredPod) -> DesiredPod {
    with_spec(pod, |spec| first(spec).image = "web:2".into())
}

/// A node with a pod that has failed, and the pod as the apiserver has it.
async fn failed() -> (Node, DesiredPod) {
    let node = Node::start();
    let pod = never(&web());
    node.want(&[&pod]);
    node.until_running(&["p/web#0"]).await;
    node.runtime.exit(&node.runtime.running_ids("web")[0], 1);
    settle().await;
    let status = node.status("p");
    assert_eq!(phase(&node), "Failed");
    (node, edited(&pod, |pod| pod.status = status))
}

fn phase(node: &Node) -> String {
    node.status("p").map(|status| status.phase).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_update_of_a_pod_that_is_never_restarted_is_not_told_as_its_end() {
    let node = Node::start();
    let pod = never(&web());
    node.want(&[&pod]);
    node.until_running(&["p/web#0"]).await;
    let mut board = node.board.subscribe();
    node.want(&[&updated(&pod)]);
    let listening = async {
        while board.changed().await.is_ok() {
            assert!(
                matches!(&*phase(&node), "Running" | "Pending"),
                "{}",
                phase(&node)
            );
        }
    };
    let _ = tokio::time::timeout(Duration::from_mins(1), listening).await;
    assert_eq!(node.runtime.running(), ["p/web#1"]);
    assert_eq!(phase(&node), "Running");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_stays_over_when_its_spec_changes() {
    let (node, pod) = failed().await;
    node.want(&[&updated(&pod)]);
    settle().await;
    assert!(node.runtime.running().is_empty());
    assert_eq!(phase(&node), "Failed");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_stays_over_when_the_runtime_has_lost_it_and_the_kubelet_restarts() {
    let (mut node, pod) = failed().await;
    node.stop_kubelet().await;
    node.board = StatusBoard::new();
    node.runtime = FakeRuntime::new(node.clock);
    node.runtime.add_image("web:1", ImageBehavior::default());
    node.want(&[&pod]);
    node.start_kubelet();
    settle().await;
    assert_eq!(node.runtime.counts(), (0, 0));
    let told = node.status("p").unwrap();
    assert_eq!(told.phase, "Failed");
    let before = &pod.pod.status.as_ref().unwrap().container_statuses;
    assert_eq!(&told.container_statuses, before, "how it ended is still told");
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_nodes_own_that_is_over_runs_anew_when_it_changes() {
    let node = Node::start();
    let mut pod = never(&web());
    pod.source = Source::Folder;
    node.want(&[&pod]);
    node.until_running(&["p/web#0"]).await;
    node.runtime.exit(&node.runtime.running_ids("web")[0], 1);
    settle().await;
    node.want(&[&updated(&pod)]);
    node.until_running(&["p/web#1"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_kubelet_has_told_of_a_pods_end_stands() {
    let mut node = Node::start();
    node.stop_kubelet().await;
    let before = PodStatus {
        phase: "Pending".to_owned(),
        ..PodStatus::default()
    };
    let ending = edited(&web(), |pod| {
        pod.status = Some(before.clone());
        pod.metadata_mut().deletion_timestamp = Some(pbjson_types::Timestamp::default());
    });
    node.want(&[&ending]);
    node.start_kubelet();
    let entry = |node: &Node| {
        let key = PodKey::new("default", "p");
        node.board.subscribe().borrow().get(&key).cloned()
    };
    node.until("the pod is told to be gone", |node| {
        entry(node).is_some_and(|entry| entry.gone)
    })
    .await;
    assert_eq!(*entry(&node).unwrap().status, before);
}
