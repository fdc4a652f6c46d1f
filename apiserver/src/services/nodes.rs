use clone8s::v1::{
    CreateNodeRequest, CreateNodeResponse, DeleteNodeRequest, DeleteNodeResponse, GetNodeRequest,
    GetNodeResponse, ListNodesRequest, ListNodesResponse, Node, UpdateNodeRequest, UpdateNodeResponse,
    UpdateNodeStatusRequest, UpdateNodeStatusResponse, WatchNodesRequest, WatchNodesResponse,
    node_service_server::NodeService,
};

use crate::access;

objects_service! {
    NodeService, Node, node, nodes, cluster, at_once;
    create_node CreateNodeRequest CreateNodeResponse,
    get_node GetNodeRequest GetNodeResponse,
    list_nodes ListNodesRequest ListNodesResponse,
    update_node UpdateNodeRequest UpdateNodeResponse,
    delete_node DeleteNodeRequest DeleteNodeResponse,
    watch_nodes WatchNodesRequest WatchNodesResponse,
    {
        async fn update_node_status(
            &self,
            request: tonic::Request<UpdateNodeStatusRequest>,
        ) -> Result<tonic::Response<UpdateNodeStatusResponse>, tonic::Status> {
            let scope = access::scope(&request)?;
            let node = self.registry.update_status(&scope, request.into_inner().node).await?;
            Ok(tonic::Response::new(UpdateNodeStatusResponse { node: Some(node) }))
        }
    }
}
