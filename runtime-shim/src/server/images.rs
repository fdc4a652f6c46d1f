//! `runtime.v1.ImageService`.

use clone8s::cri::{self, image_service_server::ImageService};
use futures::stream::BoxStream;
use tonic::{Request, Status};

use super::{Cri, Reply, unimplemented};

type Parts<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(&self, _: Request<cri::ListImagesRequest>) -> Reply<cri::ListImagesResponse> {
        unimplemented("ListImages")
    }

    async fn stream_images(
        &self,
        _: Request<cri::StreamImagesRequest>,
    ) -> Reply<Parts<cri::StreamImagesResponse>> {
        unimplemented("StreamImages")
    }

    async fn image_status(&self, _: Request<cri::ImageStatusRequest>) -> Reply<cri::ImageStatusResponse> {
        unimplemented("ImageStatus")
    }

    async fn pull_image(&self, _: Request<cri::PullImageRequest>) -> Reply<cri::PullImageResponse> {
        unimplemented("PullImage")
    }

    async fn remove_image(&self, _: Request<cri::RemoveImageRequest>) -> Reply<cri::RemoveImageResponse> {
        unimplemented("RemoveImage")
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Reply<cri::ImageFsInfoResponse> {
        unimplemented("ImageFsInfo")
    }
}
