//! `runtime.v1.ImageService`.

use std::{collections::BTreeMap, sync::Arc};

use clone8s::cri::{self, image_service_server::ImageService};
use serde_json::json;
use tonic::Request;

use super::{Cri, Parts, Reply, answer, lists::in_parts};
use crate::{error::Error, images::NamedImage};

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Reply<cri::ListImagesResponse> {
        answer("ListImages", "", async {
            Ok(cri::ListImagesResponse {
                images: self.images(request.into_inner().filter).await?,
            })
        })
        .await
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Reply<Parts<cri::StreamImagesResponse>> {
        answer("StreamImages", "", async {
            let all = self.images(request.into_inner().filter).await?;
            Ok(in_parts(all, |images| cri::StreamImagesResponse { images }))
        })
        .await
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Reply<cri::ImageStatusResponse> {
        let request = request.into_inner();
        let reference = request.image.map(|image| image.image).unwrap_or_default();
        answer("ImageStatus", &reference, async {
            self.shim.ready()?;
            let images = &self.shim.images;
            let found = images.find(&reference).await?;
            let info = match &found {
                Some(named) if request.verbose => named.info(&images.specification(&named.image).await?),
                _ => BTreeMap::new(),
            };
            Ok(cri::ImageStatusResponse {
                image: found.as_ref().map(cri::Image::from),
                info,
            })
        })
        .await
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Reply<cri::PullImageResponse> {
        let request = request.into_inner();
        let reference = request.image.map(|image| image.image).unwrap_or_default();
        answer("PullImage", &reference, async {
            let (shim, reference) = (Arc::clone(&self.shim), reference.clone());
            // Cancelled with this call, or with the end of the process; the pull then cleans up by itself.
            let caller = self.shutdown.child_token();
            let cancelled = caller.clone();
            let _hung_up = caller.drop_guard();
            let pull = async move {
                Ok(shim
                    .images
                    .pull(&reference, request.auth.as_ref(), &cancelled)
                    .await?)
            };
            let pulled = self.shim.complete(pull).await?;
            Ok(cri::PullImageResponse {
                image_ref: pulled.image.id.clone(),
            })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Reply<cri::RemoveImageResponse> {
        let reference = request
            .into_inner()
            .image
            .map(|image| image.image)
            .unwrap_or_default();
        answer("RemoveImage", &reference, async {
            let (shim, reference) = (Arc::clone(&self.shim), reference.clone());
            let remove = async move { Ok(shim.images.remove(&reference).await?) };
            let removed = self.shim.complete(remove).await?;
            tracing::debug!(removed, "image");
            Ok(cri::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(&self, _: Request<cri::ImageFsInfoRequest>) -> Reply<cri::ImageFsInfoResponse> {
        answer("ImageFsInfo", "", async {
            self.shim.ready()?;
            Ok(self.shim.images.file_system().await?)
        })
        .await
    }
}

impl Cri {
    async fn images(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Error> {
        self.shim.ready()?;
        let wanted = filter
            .and_then(|filter| filter.image)
            .map(|image| image.image)
            .unwrap_or_default();
        let found = match wanted.as_str() {
            "" => self.shim.images.list().await?,
            wanted => self.shim.images.find(wanted).await?.into_iter().collect(),
        };
        Ok(found.iter().map(cri::Image::from).collect())
    }
}

impl NamedImage {
    /// For people (CRI, ImageStatus with verbose).
    fn info(&self, specification: &serde_json::Value) -> BTreeMap<String, String> {
        let image = &self.image;
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| json!({"digest": layer.digest, "size": layer.size}))
            .collect();
        let info = json!({
            "chainID": image.top(),
            "architecture": image.architecture,
            "entrypoint": image.run.entrypoint,
            "cmd": image.run.cmd,
            "env": image.run.env,
            "workingDir": image.run.working_dir,
            "user": image.run.user,
            "stopSignal": image.run.stop_signal,
            "layers": layers,
            "imageSpec": specification,
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
    }
}

impl From<&NamedImage> for cri::Image {
    fn from(named: &NamedImage) -> Self {
        let image = &named.image;
        // The part before a group; a number or a name (CRI, Image).
        let user = image.run.user.split(':').next().unwrap_or_default();
        let uid = if user.is_empty() {
            Some(0)
        } else {
            user.parse().ok()
        };
        Self {
            id: image.id.clone(),
            repo_tags: named.tags.clone(),
            repo_digests: named.digests.clone(),
            size: image.size,
            uid: uid.map(|value| cri::Int64Value { value }),
            username: if uid.is_some() {
                String::new()
            } else {
                user.to_owned()
            },
            spec: Some(cri::ImageSpec {
                image: image.id.clone(),
                ..Default::default()
            }),
            pinned: named.pinned,
        }
    }
}
