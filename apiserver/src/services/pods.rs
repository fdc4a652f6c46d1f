//! What pods have beside the calls of all kinds, which `objects` answers.

use clone8s::v1::{
    AddEphemeralContainerRequest, AddEphemeralContainerResponse, AttachPodRequest, AttachPodResponse,
    BindPodRequest, BindPodResponse, EvictPodRequest, EvictPodResponse, ExecPodRequest, ExecPodResponse,
    GetPodLogsRequest, GetPodLogsResponse, PortForwardPodRequest, PortForwardPodResponse,
    pod_service_server::PodService,
};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use crate::{
    access::{self, Scope},
    binding, ephemeral, eviction,
    pod_calls::{logs, streams::PodStreams},
    services::Backend,
};

#[tonic::async_trait]
impl PodService for Backend {
    async fn bind_pod(&self, request: Request<BindPodRequest>) -> Result<Response<BindPodResponse>, Status> {
        let scope = access::scope(&request)?;
        let pod = binding::bind(&self.registry, &scope, request.into_inner()).await?;
        Ok(Response::new(BindPodResponse { pod: Some(pod) }))
    }

    async fn evict_pod(
        &self,
        request: Request<EvictPodRequest>,
    ) -> Result<Response<EvictPodResponse>, Status> {
        let scope = access::scope(&request)?;
        let pod = eviction::evict(&self.registry, &scope, request.into_inner()).await?;
        Ok(Response::new(EvictPodResponse { pod: Some(pod) }))
    }

    async fn add_ephemeral_container(
        &self,
        request: Request<AddEphemeralContainerRequest>,
    ) -> Result<Response<AddEphemeralContainerResponse>, Status> {
        let scope = access::scope(&request)?;
        let pod = ephemeral::add(&self.registry, &scope, request.into_inner()).await?;
        Ok(Response::new(AddEphemeralContainerResponse { pod: Some(pod) }))
    }

    async fn get_pod_logs(
        &self,
        request: Request<GetPodLogsRequest>,
    ) -> Result<Response<BoxStream<GetPodLogsResponse>>, Status> {
        let scope = access::scope(&request)?;
        let frames = logs::relay(&self.registry, &self.tunnels, &scope, request.into_inner()).await?;
        Ok(Response::new(Box::pin(frames)))
    }

    async fn exec_pod(
        &self,
        request: Request<Streaming<ExecPodRequest>>,
    ) -> Result<Response<BoxStream<ExecPodResponse>>, Status> {
        let scope = access::scope(&request)?;
        let answer = self.streams(&scope).exec(request.into_inner()).await?;
        Ok(Response::new(Box::pin(answer)))
    }

    async fn attach_pod(
        &self,
        request: Request<Streaming<AttachPodRequest>>,
    ) -> Result<Response<BoxStream<AttachPodResponse>>, Status> {
        let scope = access::scope(&request)?;
        let answer = self.streams(&scope).attach(request.into_inner()).await?;
        Ok(Response::new(Box::pin(answer)))
    }

    async fn port_forward_pod(
        &self,
        request: Request<Streaming<PortForwardPodRequest>>,
    ) -> Result<Response<BoxStream<PortForwardPodResponse>>, Status> {
        let scope = access::scope(&request)?;
        let answer = self.streams(&scope).port_forward(request.into_inner()).await?;
        Ok(Response::new(Box::pin(answer)))
    }
}

impl Backend {
    fn streams<'a>(&'a self, scope: &'a Scope) -> PodStreams<'a> {
        PodStreams {
            registry: &self.registry,
            tunnels: &self.tunnels,
            scope,
        }
    }
}
