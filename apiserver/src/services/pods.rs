//! What pods have beside the calls of all kinds, which `objects` answers.

use clone8s::v1::{
    BindPodRequest, BindPodResponse, GetPodLogsRequest, GetPodLogsResponse, pod_service_server::PodService,
};
use tonic::{Request, Response, Status, codegen::BoxStream};

use crate::{access, binding, logs, services::Backend};

#[tonic::async_trait]
impl PodService for Backend {
    async fn bind_pod(&self, request: Request<BindPodRequest>) -> Result<Response<BindPodResponse>, Status> {
        let scope = access::scope(&request)?;
        let pod = binding::bind(&self.registry, &scope, request.into_inner()).await?;
        Ok(Response::new(BindPodResponse { pod: Some(pod) }))
    }

    async fn get_pod_logs(
        &self,
        request: Request<GetPodLogsRequest>,
    ) -> Result<Response<BoxStream<GetPodLogsResponse>>, Status> {
        let scope = access::scope(&request)?;
        let frames = logs::relay(&self.registry, &self.tunnels, &scope, request.into_inner()).await?;
        Ok(Response::new(Box::pin(frames)))
    }
}
