//! GetPodLogs: from the node that runs the pod, by its tunnel.

use std::sync::Arc;

use clone8s::v1::{GetPodLogsRequest, GetPodLogsResponse, Pod, watch_node_calls_response::Call};
use futures::{Stream, stream};
use tonic::Status;

use crate::{
    access::Scope,
    error::ApiError,
    kind::Kind as _,
    registry::{Key, Registry},
    tunnel::{Answer, Tunnels},
};

/// Finds the pod and its node, and passes on what the node answers.
pub(crate) async fn relay(
    registry: &Registry,
    tunnels: &Arc<Tunnels>,
    scope: &Scope,
    mut request: GetPodLogsRequest,
) -> Result<impl Stream<Item = Result<GetPodLogsResponse, Status>> + Send + use<>, ApiError> {
    let key = Key::<Pod>::parse(&request.namespace, &request.name)?;
    let pod = registry.get_object(scope, &key).await?;
    request.container = choose_container(&pod, &request.container)
        .map_err(|why| ApiError::field(key.name().to_string(), "container", why))?;
    key.namespace().clone_into(&mut request.namespace);
    if let Some(lines) = request.tail_lines.filter(|lines| *lines < 0) {
        return Err(ApiError::field(
            key.name().to_string(),
            "tail_lines",
            format!("is {lines}; it must be 0 or more"),
        ));
    }
    let Some(node) = pod.node() else {
        return Err(ApiError::WrongState {
            object: key.name(),
            reason: "NOT_BOUND",
            description: "it is not on a node yet, so it has no logs".into(),
        });
    };
    let answer = tunnels.call(node, Call::GetPodLogs(request))?;
    Ok(stream::unfold(Some(answer), frame))
}

async fn frame(answer: Option<Answer>) -> Option<(Result<GetPodLogsResponse, Status>, Option<Answer>)> {
    let mut answer = answer?;
    match answer.next().await {
        Ok(Some(data)) => Some((Ok(GetPodLogsResponse { data }), Some(answer))),
        Ok(None) => None,
        Err(error) => Some((Err(error.into()), None)),
    }
}

/// The one that was named, or the only one.
fn choose_container(pod: &Pod, named: &str) -> Result<String, String> {
    let names: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| container.name.as_str())
        .collect();
    match names.as_slice() {
        [only] if named.is_empty() => Ok((*only).to_owned()),
        several if named.is_empty() => Err(format!("is empty; name one of {}", several.join(", "))),
        names if names.contains(&named) => Ok(named.to_owned()),
        names => Err(format!(
            "{named:?} is not in the pod; it has {}",
            names.join(", ")
        )),
    }
}
