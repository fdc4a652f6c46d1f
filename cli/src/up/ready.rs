//! When a cluster is ready: its node says so, and has said so since the start.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clone8s::{client::Resource as _, v1::Node};
use clone8s_daemon::unix;
use tokio::time::sleep;

use super::layout::Cluster;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the node has reported Ready after `since`: an older report is a former process's.
pub(super) async fn wait(cluster: &Cluster, since: SystemTime) {
    let channel = unix::channel(cluster.layout().apiserver_socket());
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    loop {
        if let Ok(node) = Node::get(&channel, "", &cluster.node_name).await
            && reported_ready(&node) >= Some(since)
        {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// When the node last said that it is ready, since the epoch.
fn reported_ready(node: &Node) -> Option<Duration> {
    let conditions = &node.status.as_ref()?.conditions;
    let ready = conditions
        .iter()
        .find(|condition| condition.r#type == "Ready" && condition.status == "True")?;
    let heartbeat = ready.last_heartbeat_time?;
    Some(Duration::new(
        u64::try_from(heartbeat.seconds).ok()?,
        u32::try_from(heartbeat.nanos).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{Condition, NodeStatus};

    use super::*;

    fn node(status: &str, seconds: i64) -> Node {
        Node {
            status: Some(NodeStatus {
                conditions: vec![Condition {
                    r#type: "Ready".to_owned(),
                    status: status.to_owned(),
                    last_heartbeat_time: Some(pbjson_types::Timestamp { seconds, nanos: 5 }),
                    ..Condition::default()
                }],
                ..NodeStatus::default()
            }),
            ..Node::default()
        }
    }

    #[test]
    fn only_a_node_that_says_true_has_reported_ready() {
        assert_eq!(reported_ready(&node("True", 7)), Some(Duration::new(7, 5)));
        assert_eq!(reported_ready(&node("Unknown", 7)), None);
        assert_eq!(reported_ready(&Node::default()), None);
        assert!(reported_ready(&node("False", 9)) < Some(Duration::ZERO));
    }
}
