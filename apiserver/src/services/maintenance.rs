use clone8s::v1::{BackUpStoreRequest, BackUpStoreResponse, maintenance_service_server::MaintenanceService};
use tonic::{Request, Response, Status, codegen::BoxStream};

use crate::{backup, services::Backend};

#[tonic::async_trait]
impl MaintenanceService for Backend {
    async fn back_up_store(
        &self,
        _request: Request<BackUpStoreRequest>,
    ) -> Result<Response<BoxStream<BackUpStoreResponse>>, Status> {
        let parts = backup::stream(self.registry.store(), &self.pki, self.shutdown.clone()).await?;
        Ok(Response::new(Box::pin(parts)))
    }
}
