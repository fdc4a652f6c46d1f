//! What the node monitor reads and writes. Every write names the revision that it was decided on; one that comes
//! too late is dropped, for the next round sees what is true then.

use std::time::Duration;

use clone8s::{
    client::{DeleteOptions, Query, Resource as _},
    object::Object as _,
    rules::{DISRUPTION_TARGET, NODE_LEASE_NAMESPACE, NODE_NOT_READY},
    v1::{
        Lease, Node, Pod, UpdateNodeStatusRequest, UpdatePodStatusRequest,
        node_service_client::NodeServiceClient, pod_service_client::PodServiceClient,
    },
};
use clone8s_daemon::channel::Channel;
use tonic::{Code, Status};

use crate::{
    conditions::{READY, is_terminal, set_condition},
    events::{self, Kind},
    time,
};

/// Every pod that the field selector lets through.
pub(super) async fn pods(channel: &Channel, field_selector: String) -> Result<Vec<Pod>, Status> {
    let query = Query {
        field_selector,
        ..Query::default()
    };
    Pod::list_all(channel, &query).await.map(|(pods, _)| pods)
}

/// What the apiserver has now.
pub(super) async fn lease(channel: &Channel, node: &str) -> Result<Option<Lease>, Status> {
    match Lease::get(channel, NODE_LEASE_NAMESPACE, node).await {
        Ok(lease) => Ok(Some(lease)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

pub(super) async fn delete_lease(channel: &Channel, node: &str) -> Result<(), Status> {
    settle(Lease::delete(channel, NODE_LEASE_NAMESPACE, node, &DeleteOptions::default()).await)
}

pub(super) async fn mark_unknown(channel: &Channel, node: &Node, patience: Duration) -> Result<(), Status> {
    let mut status = node.status.clone().unwrap_or_default();
    let message = format!("the kubelet has not reported for {} s", patience.as_secs());
    set_condition(
        &mut status.conditions,
        READY,
        "Unknown",
        "NodeStatusUnknown",
        &message,
        time::now(),
    );
    tracing::warn!(node = node.name(), "silent: marking it Ready=Unknown");
    let silent = Node {
        metadata: node.metadata.clone(),
        spec: None,
        status: Some(status),
    };
    let request = UpdateNodeStatusRequest {
        node: Some(silent),
        ..Default::default()
    };
    settle(
        NodeServiceClient::new(channel.clone())
            .update_node_status(request)
            .await,
    )
}

pub(super) async fn mark_unready(channel: &Channel, mut pod: Pod, node: &str) -> Result<(), Status> {
    let Some(status) = pod.status.as_mut().filter(|status| {
        status
            .conditions
            .iter()
            .any(|condition| condition.r#type == READY && condition.status == "True")
    }) else {
        return Ok(());
    };
    let message = format!("node {node} does not report");
    set_condition(
        &mut status.conditions,
        READY,
        "False",
        NODE_NOT_READY,
        &message,
        time::now(),
    );
    pod.spec = None;
    let request = UpdatePodStatusRequest {
        pod: Some(pod),
        ..Default::default()
    };
    settle(
        PodServiceClient::new(channel.clone())
            .update_pod_status(request)
            .await,
    )
}

/// A pod whose node is gone: one that is being deleted goes, for nobody else can say that it has stopped; any other
/// is Failed, and stays to be seen.
pub(super) async fn end_lost(channel: &Channel, mut pod: Pod) -> Result<(), Status> {
    let meta = pod.metadata.clone().unwrap_or_default();
    let node = pod.spec.take().map(|spec| spec.node_name).unwrap_or_default();
    if meta.deletion_timestamp.is_some() {
        tracing::info!(
            namespace = meta.namespace,
            pod = meta.name,
            node,
            "removing a deleted pod of a lost node"
        );
        let options = DeleteOptions {
            resource_version: meta.resource_version,
            uid: meta.uid,
            grace_period_seconds: Some(0),
            ..DeleteOptions::default()
        };
        return settle(Pod::delete(channel, &meta.namespace, &meta.name, &options).await);
    }
    if is_terminal(&pod) {
        return Ok(());
    }
    tracing::warn!(
        namespace = meta.namespace,
        pod = meta.name,
        node,
        "its node is gone: marking it Failed"
    );
    let message = format!("node {node} is gone");
    let status = pod.status.get_or_insert_default();
    "Failed".clone_into(&mut status.phase);
    "NodeLost".clone_into(&mut status.reason);
    status.message.clone_from(&message);
    set_condition(
        &mut status.conditions,
        READY,
        "False",
        "NodeLost",
        &message,
        time::now(),
    );
    set_condition(
        &mut status.conditions,
        DISRUPTION_TARGET,
        "True",
        "NodeLost",
        &message,
        time::now(),
    );
    let request = UpdatePodStatusRequest {
        pod: Some(pod),
        ..Default::default()
    };
    settle(
        PodServiceClient::new(channel.clone())
            .update_pod_status(request)
            .await,
    )?;
    events::record(channel, "node-monitor", &meta, Kind::Warning, "NodeLost", message).await;
    Ok(())
}

/// Overtaken by another write is as good as done.
fn settle<T>(written: Result<T, Status>) -> Result<(), Status> {
    match written {
        Ok(_) => Ok(()),
        Err(status)
            if matches!(
                status.code(),
                Code::Aborted | Code::NotFound | Code::FailedPrecondition
            ) =>
        {
            Ok(())
        }
        Err(status) => Err(status),
    }
}
