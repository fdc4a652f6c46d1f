//! `clone8s.runtime.v1.ImageArchiveService`.

use std::{path::PathBuf, sync::Arc};

use clone8s::runtime::{
    ImportImageArchiveRequest, ImportImageArchiveResponse, image_archive_service_server::ImageArchiveService,
};
use tonic::Request;

use super::{Cri, Reply, answer};
use crate::error::Error;

#[tonic::async_trait]
impl ImageArchiveService for Cri {
    async fn import_image_archive(
        &self,
        request: Request<ImportImageArchiveRequest>,
    ) -> Reply<ImportImageArchiveResponse> {
        let path = request.into_inner().path;
        answer("ImportImageArchive", &path, async {
            let archive = PathBuf::from(&path);
            if !archive.is_absolute() {
                return Err(Error::Invalid {
                    field: "path".into(),
                    problem: format!("is {path:?}; it must be absolute"),
                });
            }
            let shim = Arc::clone(&self.shim);
            let import = async move { Ok(shim.images.import(&archive).await?) };
            let names = self.shim.complete(import).await?;
            Ok(ImportImageArchiveResponse {
                images: names.iter().map(ToString::to_string).collect(),
            })
        })
        .await
    }
}
