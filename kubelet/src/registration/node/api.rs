//! Writes the Node through the apiserver.

use std::time::Duration;

use clone8s::{
    object::Object as _,
    v1::{
        CreateNodeRequest, GetNodeRequest, Node, UpdateNodeRequest, UpdateNodeStatusRequest,
        node_service_client::NodeServiceClient,
    },
};
use clone8s_daemon::supervisor::chain;
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use crate::ApiChannel;

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct ApiSink {
    api: ApiChannel,
    /// The Node's labels were looked at since this process started.
    refreshed: bool,
}

impl ApiSink {
    pub(super) fn new(api: ApiChannel) -> Self {
        Self {
            api,
            refreshed: false,
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
        let attempt = async {
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
        };
        match timeout(DEADLINE, attempt).await {
            Ok(outcome) => outcome.map_err(|status| chain(&status)),
            Err(_) => Err("the apiserver does not answer".to_owned()),
        }
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
