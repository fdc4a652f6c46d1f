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

/// The one that was named, or the only one beside init containers.
fn choose_container(pod: &Pod, named: &str) -> Result<String, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let names: Vec<&str> = spec
        .all_containers()
        .map(|container| container.name.as_str())
        .collect();
    match (named, spec.containers.as_slice()) {
        ("", [only]) => Ok(only.name.clone()),
        ("", _) => Err(format!("is empty; name one of {}", names.join(", "))),
        _ if names.contains(&named) => Ok(named.to_owned()),
        _ => Err(format!(
            "{named:?} is not in the pod; it has {}",
            names.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{Container, PodSpec};

    use super::*;

    #[test]
    fn of_a_pod_with_init_containers_the_only_other_is_meant() {
        let named = |name: &str| Container {
            name: name.to_owned(),
            ..Default::default()
        };
        let mut pod = Pod {
            spec: Some(PodSpec {
                init_containers: vec![named("first")],
                containers: vec![named("web")],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(choose_container(&pod, ""), Ok("web".to_owned()));
        assert_eq!(choose_container(&pod, "first"), Ok("first".to_owned()));
        pod.spec.as_mut().unwrap().containers.push(named("side"));
        assert_eq!(
            choose_container(&pod, ""),
            Err("is empty; name one of first, web, side".to_owned())
        );
        assert_eq!(
            choose_container(&pod, "wen"),
            Err("\"wen\" is not in the pod; it has first, web, side".to_owned())
        );
    }
}
