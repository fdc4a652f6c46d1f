//! ExecPod, AttachPod and PortForwardPod: the first message says what is wanted and of which pod, the others go to the
//! node as they are.

mod frames;

use std::{sync::Arc, time::Duration};

use clone8s::v1::{
    AttachPodRequest, AttachPodResponse, ExecPodRequest, ExecPodResponse, PortForwardPodRequest,
    PortForwardPodResponse, watch_node_calls_response::Call,
};
use futures::{Stream, StreamExt as _};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use self::frames::{Request, Told};
use super::Placed;
use crate::{
    access::Scope,
    error::ApiError,
    registry::Registry,
    tunnel::{Answer, Input, Part, Tunnels},
};

/// How long a caller may take to say what it wants.
const START: Duration = Duration::from_secs(30);

/// Where the calls find pods and nodes.
#[derive(Debug)]
pub(crate) struct PodStreams<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) tunnels: &'a Arc<Tunnels>,
    pub(crate) scope: &'a Scope,
}

impl PodStreams<'_> {
    pub(crate) async fn exec(
        &self,
        requests: Streaming<ExecPodRequest>,
    ) -> Result<impl Stream<Item = Result<ExecPodResponse, Status>> + Send + use<>, ApiError> {
        let (mut start, input) = self.begin(requests).await?;
        let placed = self.find(&start.namespace, &start.name).await?;
        if start.command.first().is_none_or(String::is_empty) {
            return Err(placed.field("start.command", "is empty; name a program"));
        }
        start.container = placed.container(&start.container)?;
        start.namespace = placed.namespace();
        Ok(responses(self.tunnels.call(
            &placed.node,
            Call::ExecPod(start),
            input,
        )?))
    }

    pub(crate) async fn attach(
        &self,
        requests: Streaming<AttachPodRequest>,
    ) -> Result<impl Stream<Item = Result<AttachPodResponse, Status>> + Send + use<>, ApiError> {
        let (mut start, input) = self.begin(requests).await?;
        let placed = self.find(&start.namespace, &start.name).await?;
        start.container = placed.container(&start.container)?;
        start.namespace = placed.namespace();
        Ok(responses(self.tunnels.call(
            &placed.node,
            Call::AttachPod(start),
            input,
        )?))
    }

    pub(crate) async fn port_forward(
        &self,
        requests: Streaming<PortForwardPodRequest>,
    ) -> Result<impl Stream<Item = Result<PortForwardPodResponse, Status>> + Send + use<>, ApiError> {
        let (mut start, input) = self.begin(requests).await?;
        let placed = self.find(&start.namespace, &start.name).await?;
        if !(1..=65535).contains(&start.port) {
            let description = format!("is {}; it must be 1 to 65535", start.port);
            return Err(placed.field("start.port", description));
        }
        start.namespace = placed.namespace();
        Ok(responses(self.tunnels.call(
            &placed.node,
            Call::PortForwardPod(start),
            input,
        )?))
    }

    async fn find(&self, namespace: &str, name: &str) -> Result<Placed, ApiError> {
        Placed::find(self.registry, self.scope, namespace, name).await
    }

    /// What is wanted, and what is to come.
    async fn begin<R: Request>(&self, mut requests: Streaming<R>) -> Result<(R::Start, Input), ApiError> {
        let first = timeout(START, requests.message());
        let first = self
            .tunnels
            .unless_stopping(first)
            .await?
            .map_err(|_| no_start("has not come within 30 s"))?
            .map_err(|status| no_start(status.message()))?;
        let Some(Told::Start(start)) = first.and_then(R::told) else {
            return Err(no_start("must be the first message"));
        };
        let input = requests.filter_map(async |request| match request.map(R::told) {
            Ok(Some(Told::Input(frame))) => Some(Ok(frame)),
            // A frame that a newer client knows.
            Ok(None) => None,
            Ok(Some(Told::Start(_))) => Some(Err(no_start("must be the first message alone"))),
            Err(status) => Some(Err(ApiError::field("the call", "frame", status.message()))),
        });
        Ok((start, Input::new(input)))
    }
}

fn no_start(why: &str) -> ApiError {
    ApiError::field("the call", "start", why)
}

fn responses<T: From<Part>>(answer: Answer) -> impl Stream<Item = Result<T, Status>> + Send {
    answer.parts().map(|part| part.map(T::from))
}
