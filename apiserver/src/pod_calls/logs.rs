//! GetPodLogs.

use std::{future::ready, sync::Arc};

use clone8s::v1::{GetPodLogsRequest, GetPodLogsResponse, watch_node_calls_response::Call};
use futures::{Stream, StreamExt as _};
use tonic::Status;

use super::Placed;
use crate::{
    access::Scope,
    error::ApiError,
    registry::Registry,
    tunnel::{Input, Part, Tunnels},
};

/// Finds the pod and its node, and passes on what the node answers.
pub(crate) async fn relay(
    registry: &Registry,
    tunnels: &Arc<Tunnels>,
    scope: &Scope,
    mut request: GetPodLogsRequest,
) -> Result<impl Stream<Item = Result<GetPodLogsResponse, Status>> + Send + use<>, ApiError> {
    let placed = Placed::find(registry, scope, &request.namespace, &request.name).await?;
    request.container = placed.container(&request.container)?;
    request.namespace = placed.namespace();
    if let Some(lines) = request.tail_lines.filter(|lines| *lines < 0) {
        let description = format!("is {lines}; it must be 0 or more");
        return Err(placed.field("tail_lines", description));
    }
    if let Some(seconds) = request.since_seconds {
        if seconds < 0 {
            let description = format!("is {seconds}; it must be 0 or more");
            return Err(placed.field("since_seconds", description));
        }
        if request.since_time.is_some() {
            return Err(placed.field("since_seconds", "cannot be set beside since_time"));
        }
    }
    let answer = tunnels.call(&placed.node, Call::GetPodLogs(request), Input::none())?;
    Ok(answer.parts().filter_map(|part| {
        ready(match part {
            Ok(Part::Data(data)) => Some(Ok(GetPodLogsResponse { data })),
            Ok(_) => None,
            Err(status) => Some(Err(status)),
        })
    }))
}
