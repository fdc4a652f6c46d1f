use clone8s::v1::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, RegisterNodeRequest, RegisterNodeResponse,
    RenewNodeCertificateRequest, RenewNodeCertificateResponse,
    registration_service_server::RegistrationService,
};
use tonic::{Request, Response, Status};

use crate::{
    access::{self, Scope},
    error::ApiError,
    services::Backend,
};

#[tonic::async_trait]
impl RegistrationService for Backend {
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        Ok(Response::new(
            self.registrar.create_token(request.into_inner()).await?,
        ))
    }

    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        Ok(Response::new(
            self.registrar.register(request.into_inner()).await?,
        ))
    }

    async fn renew_node_certificate(
        &self,
        request: Request<RenewNodeCertificateRequest>,
    ) -> Result<Response<RenewNodeCertificateResponse>, Status> {
        let Scope::Node(node) = access::scope(&request)? else {
            return Err(ApiError::Forbidden {
                caller: "an administrator".into(),
                action: "renew a node's certificate".into(),
                why: "the node does so itself, with the certificate that it has",
            }
            .into());
        };
        let renewed = self
            .registrar
            .renew(&node, &request.into_inner().certificate_request)
            .await?;
        Ok(Response::new(renewed))
    }
}
