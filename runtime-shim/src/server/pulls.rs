//! `clone8s.runtime.v1.ImagePullService`.

use clone8s::runtime::{
    ImagePull, ListImagePullsRequest, ListImagePullsResponse, image_pull_service_server::ImagePullService,
};
use tonic::Request;

use super::{Cri, Reply, answer};
use crate::images::{ImageName, progress::Progress};

#[tonic::async_trait]
impl ImagePullService for Cri {
    async fn list_image_pulls(
        &self,
        request: Request<ListImagePullsRequest>,
    ) -> Reply<ListImagePullsResponse> {
        let image = request.into_inner().image;
        answer("ListImagePulls", &image, async {
            let mut pulls = self.shim.images.pulls.now();
            if !image.is_empty() {
                let name = ImageName::parse(&image)?.to_string();
                pulls.retain(|pull| pull.image == name);
            }
            Ok(ListImagePullsResponse {
                pulls: pulls.into_iter().map(ImagePull::from).collect(),
            })
        })
        .await
    }
}

impl From<Progress> for ImagePull {
    fn from(pull: Progress) -> Self {
        // An image has 512 layers at most.
        let layers = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            image: pull.image,
            bytes: pull.bytes,
            bytes_total: pull.bytes_total,
            layers_unpacked: layers(pull.layers_unpacked),
            layers_total: layers(pull.layers_total),
            seconds: pull.seconds,
        }
    }
}
