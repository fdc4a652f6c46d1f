//! What our own runtime serves beside CRI; any other answers that it does not know the call.

use std::path::Path;

use clone8s::runtime::{
    ImportImageArchiveRequest, ListImagePullsRequest,
    image_archive_service_client::ImageArchiveServiceClient,
    image_pull_service_client::ImagePullServiceClient,
};
use clone8s_daemon::channel::Channel;

use super::{PULL, QUICK, call};
use crate::runtime::{PullProgress, RuntimeError};

#[derive(Debug, Clone)]
pub(super) struct OwnCalls {
    archives: ImageArchiveServiceClient<Channel>,
    pulls: ImagePullServiceClient<Channel>,
}

impl OwnCalls {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            archives: ImageArchiveServiceClient::new(channel.clone()),
            pulls: ImagePullServiceClient::new(channel),
        }
    }

    pub(super) async fn import_image_archive(&self, path: &Path) -> Result<Vec<String>, RuntimeError> {
        let request = ImportImageArchiveRequest {
            path: path.to_string_lossy().into_owned(),
        };
        let import = async { self.archives.clone().import_image_archive(request).await };
        let response = call("ImportImageArchive", PULL, import).await?;
        Ok(response.images)
    }

    pub(super) async fn pull_progress(&self, image: &str) -> Result<Option<PullProgress>, RuntimeError> {
        let request = ListImagePullsRequest {
            image: image.to_owned(),
        };
        let pulls = call(
            "ListImagePulls",
            QUICK,
            self.pulls.clone().list_image_pulls(request),
        )
        .await?
        .pulls;
        // Where several pods want the image, one of their pulls brings its layers for all.
        let furthest = pulls.into_iter().max_by_key(|pull| pull.bytes);
        Ok(furthest.map(|pull| PullProgress {
            bytes: pull.bytes,
            bytes_total: pull.bytes_total,
            layers_unpacked: pull.layers_unpacked,
            layers_total: pull.layers_total,
        }))
    }
}
