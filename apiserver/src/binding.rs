//! BindPod: the scheduler's decision, held against what is true now.

use std::time::SystemTime;

use clone8s::v1::{BindPodRequest, Condition, Node, Pod};
use clone8s_daemon::clock;

use crate::{
    access::Scope,
    error::{ApiError, ObjectName},
    kind::Kind as _,
    registry::{Key, Registry, Seen, WriteOptions},
    time::timestamp,
};

/// Places a pod that has no node on one that exists.
pub(crate) async fn bind(
    registry: &Registry,
    scope: &Scope,
    request: BindPodRequest,
) -> Result<Pod, ApiError> {
    let options = WriteOptions::parse("Bind", request.validate_only, &request.request_id)?;
    let key = Key::<Pod>::parse(&request.namespace, &request.name)?;
    if request.node_name.is_empty() {
        return Err(ApiError::field("the binding", "node_name", "is empty"));
    }
    registry
        .read(&Key::<Node>::parse("", &request.node_name)?)
        .await
        .map_err(|error| match error {
            ApiError::NotFound(node) => wrong_state(key.name(), "NO_SUCH_NODE", format!("{node} not found")),
            other => other,
        })?;
    let seen = Seen {
        uid: request.uid,
        resource_version: request.resource_version,
    };
    registry
        .modify(scope, &key, &seen, &options, |current: &Pod| {
            place(current, &request.node_name, clock::now())
                .map_err(|(reason, why)| wrong_state(key.name(), reason, why))
        })
        .await
}

fn place(current: &Pod, node: &str, now: SystemTime) -> Result<Pod, (&'static str, String)> {
    if let Some(bound) = current.node() {
        return Err(("ALREADY_BOUND", format!("it is bound to node {bound} already")));
    }
    if current
        .metadata
        .as_ref()
        .is_some_and(|meta| meta.deletion_timestamp.is_some())
    {
        return Err(("BEING_DELETED", "it is being deleted".into()));
    }
    let mut pod = current.clone();
    node.clone_into(&mut pod.spec.get_or_insert_default().node_name);
    let status = pod.status.get_or_insert_default();
    status
        .conditions
        .retain(|condition| condition.r#type != "PodScheduled");
    status.conditions.push(Condition {
        r#type: "PodScheduled".into(),
        status: "True".into(),
        last_transition_time: Some(timestamp(now)),
        ..Condition::default()
    });
    // Why it waited is over.
    status.reason.clear();
    status.message.clear();
    Ok(pod)
}

fn wrong_state(object: ObjectName, reason: &'static str, description: String) -> ApiError {
    ApiError::WrongState {
        object,
        reason,
        description,
    }
}
