//! Writes the Node, and renews its lease, through the apiserver.

use std::time::{Duration, SystemTime};

use clone8s::{
    client::Resource as _,
    object::Object as _,
    rules::NODE_LEASE_NAMESPACE,
    v1::{
        CreateNodeRequest, GetNodeRequest, Lease, LeaseSpec, Node, ObjectMeta, UpdateNodeRequest,
        UpdateNodeStatusRequest, node_service_client::NodeServiceClient,
    },
};
use clone8s_daemon::{channel::Channel, clock, supervisor::chain};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::{ApiChannel, timestamp::timestamp};

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct ApiSink {
    api: ApiChannel,
    /// The Node's labels were looked at since this process started.
    refreshed: bool,
    /// Since when this process holds the lease.
    since: SystemTime,
}

impl ApiSink {
    pub(super) fn new(api: ApiChannel) -> Self {
        Self {
            api,
            refreshed: false,
            since: clock::now(),
        }
    }

    /// Returns once the node has joined.
    pub(super) async fn reachable(&mut self) {
        if self.api.wait_for(Option::is_some).await.is_err() {
            // The registration has ended, and with it the kubelet.
            std::future::pending::<()>().await;
        }
    }

    pub(super) async fn write(&mut self, node: &Node) -> Result<(), String> {
        let Some(channel) = self.api.borrow().clone() else {
            return Err("the node has not joined".to_owned());
        };
        let mut client = NodeServiceClient::new(channel);
        let attempt = Box::pin(async {
            if !self.refreshed {
                refresh(&mut client, node).await?;
                self.refreshed = true;
            }
            match update_status(&mut client, node).await {
                // Somebody has deleted the Node: the node is still here.
                Err(status) if status.code() == Code::NotFound => {
                    refresh(&mut client, node).await?;
                    update_status(&mut client, node).await
                }
                outcome => outcome,
            }
        });
        answered(attempt).await
    }

    /// False where there was none to renew: with a deleted Node its lease goes too.
    pub(super) async fn renew(&self, node: &str, lasts: Duration) -> Result<bool, String> {
        let Some(channel) = self.api.borrow().clone() else {
            return Err("the node has not joined".to_owned());
        };
        answered(renew(channel, lease_of(node, self.since, lasts))).await
    }
}

async fn answered<T>(attempt: impl Future<Output = Result<T, Status>>) -> Result<T, String> {
    match timeout(DEADLINE, attempt).await {
        Ok(outcome) => outcome.map_err(|status| chain(&status)),
        Err(_) => Err("the apiserver does not answer".to_owned()),
    }
}

/// Unconditionally: the name says whose it is. False where there was none to renew.
async fn renew(channel: Channel, lease: Lease) -> Result<bool, Status> {
    match Lease::update(&channel, lease.clone()).await {
        Err(status) if status.code() == Code::NotFound => {
            Lease::create(&channel, lease).await?;
            Ok(false)
        }
        outcome => outcome.map(|_| true),
    }
}

fn lease_of(node: &str, since: SystemTime, lasts: Duration) -> Lease {
    Lease {
        metadata: Some(ObjectMeta {
            namespace: NODE_LEASE_NAMESPACE.to_owned(),
            name: node.to_owned(),
            ..ObjectMeta::default()
        }),
        spec: Some(LeaseSpec {
            holder_identity: node.to_owned(),
            lease_duration_seconds: i32::try_from(lasts.as_secs()).unwrap_or(i32::MAX),
            acquire_time: Some(timestamp(since)),
            renew_time: Some(timestamp(clock::now())),
            lease_transitions: 0,
        }),
    }
}

/// Makes the Node where it is missing, and gives it this node's labels where they differ. The other labels and the
/// spec belong to people.
async fn refresh(client: &mut NodeServiceClient<Channel>, wanted: &Node) -> Result<(), Status> {
    let name = wanted.name().to_owned();
    let stored = match client.get_node(GetNodeRequest { name }).await {
        Ok(answer) => answer.into_inner().node.unwrap_or_default(),
        Err(status) if status.code() == Code::NotFound => {
            let node = Node {
                metadata: wanted.metadata.clone(),
                ..Node::default()
            };
            let request = CreateNodeRequest {
                node: Some(node),
                ..Default::default()
            };
            return match client.create_node(request).await {
                Err(status) if status.code() != Code::AlreadyExists => Err(status),
                _ => Ok(()),
            };
        }
        Err(status) => return Err(status),
    };
    let Some(node) = with_labels_of(&stored, wanted) else {
        return Ok(());
    };
    let request = UpdateNodeRequest {
        node: Some(node),
        ..Default::default()
    };
    client.update_node(request).await.map(drop)
}

/// None when the stored Node has every label already.
pub(super) fn with_labels_of(stored: &Node, wanted: &Node) -> Option<Node> {
    let labels = &wanted.metadata()?.labels;
    let mut node = stored.clone();
    node.metadata_mut().labels.extend(labels.clone());
    (node != *stored).then_some(node)
}

async fn update_status(client: &mut NodeServiceClient<Channel>, node: &Node) -> Result<(), Status> {
    let request = UpdateNodeStatusRequest {
        node: Some(node.clone()),
        ..Default::default()
    };
    client.update_node_status(request).await.map(drop)
}
