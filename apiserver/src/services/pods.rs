use clone8s::v1::{
    BindPodRequest, BindPodResponse, CreatePodRequest, CreatePodResponse, DeletePodRequest,
    DeletePodResponse, GetPodLogsRequest, GetPodLogsResponse, GetPodRequest, GetPodResponse, ListPodsRequest,
    ListPodsResponse, Pod, UpdatePodRequest, UpdatePodResponse, UpdatePodStatusRequest,
    UpdatePodStatusResponse, WatchPodsRequest, WatchPodsResponse, pod_service_server::PodService,
};

use tonic::{Request, Response, Status, codegen::BoxStream};

use crate::{access, binding, logs};

objects_service! {
    PodService, Pod, pod, pods, namespaced, graceful;
    create_pod CreatePodRequest CreatePodResponse,
    get_pod GetPodRequest GetPodResponse,
    list_pods ListPodsRequest ListPodsResponse,
    update_pod UpdatePodRequest UpdatePodResponse,
    delete_pod DeletePodRequest DeletePodResponse,
    watch_pods WatchPodsRequest WatchPodsResponse,
    {
        async fn update_pod_status(
            &self,
            request: Request<UpdatePodStatusRequest>,
        ) -> Result<Response<UpdatePodStatusResponse>, Status> {
            let scope = access::scope(&request)?;
            let pod = self.registry.update_status(&scope, request.into_inner().pod).await?;
            Ok(Response::new(UpdatePodStatusResponse { pod: Some(pod) }))
        }

        async fn bind_pod(
            &self,
            request: Request<BindPodRequest>,
        ) -> Result<Response<BindPodResponse>, Status> {
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
}
