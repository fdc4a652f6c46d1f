//! Pods that the node has had enough of.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_ends_at_once_says_why_and_stays_down_until_it_is_deleted() {
    let mut node = Node::start();
    let pod = pod("p", vec![container("web", "web:1")]);
    node.want(&[&pod]);
    node.until("it runs", |node| phase(node) == "Running").await;

    let evictions = [(pod.uid(), "too much".to_owned())];
    node.evictions.send_replace(Arc::new(evictions.into()));
    node.until("nothing is left", |node| node.runtime.counts() == (0, 0))
        .await;
    let check = |node: &Node| {
        let status = node.status("p").unwrap();
        assert_eq!(
            (
                status.phase.as_str(),
                status.reason.as_str(),
                status.message.as_str()
            ),
            ("Failed", "Evicted", "too much")
        );
        let mut conditions = status.conditions.iter();
        let told = conditions.find(|one| one.r#type == "DisruptionTarget").unwrap();
        assert_eq!(
            (told.status.as_str(), told.reason.as_str(), told.message.as_str()),
            ("True", "TerminationByKubelet", "too much")
        );
        assert!(!entry(node).gone, "its source still names it");
    };
    node.until("it is told", |node| phase(node) == "Failed").await;
    check(&node);

    node.stop_kubelet().await;
    node.start_kubelet();
    node.until("the next kubelet has looked", |node| node.health.borrow().ready)
        .await;
    node.until("it is told", |node| phase(node) == "Failed").await;
    check(&node);
    assert_eq!(node.runtime.counts(), (0, 0));

    node.want(&[]);
    node.until("it is gone", |node| node.status("p").is_none()).await;
    node.stop_kubelet().await;
}

fn phase(node: &Node) -> String {
    node.status("p").unwrap_or_default().phase
}

fn entry(node: &Node) -> crate::status::PodEntry {
    let entries = node.board.subscribe();
    let entry = entries.borrow().get(&PodKey::new("default", "p")).cloned();
    entry.unwrap()
}
