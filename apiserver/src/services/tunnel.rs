use clone8s::v1::{
    AnswerNodeCallRequest, AnswerNodeCallResponse, WatchNodeCallsRequest, WatchNodeCallsResponse,
    tunnel_service_server::TunnelService,
};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use crate::{access, error::ApiError, services::Backend};

#[tonic::async_trait]
impl TunnelService for Backend {
    async fn watch_node_calls(
        &self,
        request: Request<WatchNodeCallsRequest>,
    ) -> Result<Response<BoxStream<WatchNodeCallsResponse>>, Status> {
        let scope = access::scope(&request)?;
        let node = request.into_inner().node_name;
        if node.is_empty() {
            return Err(ApiError::field("the line", "node_name", "is empty").into());
        }
        scope.check_node(&node, "take the calls of")?;
        Ok(Response::new(Box::pin(self.tunnels.open_line(&node))))
    }

    async fn answer_node_call(
        &self,
        request: Request<Streaming<AnswerNodeCallRequest>>,
    ) -> Result<Response<BoxStream<AnswerNodeCallResponse>>, Status> {
        let scope = access::scope(&request)?;
        let answered = self.tunnels.answer(&scope, request.into_inner()).await?;
        Ok(Response::new(Box::pin(answered)))
    }
}
