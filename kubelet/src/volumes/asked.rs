//! What a container asks of its mounts, and what of it depends on more than the volume. Pure.

use std::collections::BTreeMap;

use clone8s::{
    cri::{ImageSpec, MountPropagation},
    v1::{Container, ImageVolumeSource, VolumeMount},
};

use super::VolumeError;
use crate::{
    pod::{downward::Inputs, env},
    runtime::ImageRef,
};

/// A container that is about to be made, as far as its mounts depend on it.
#[derive(Debug, Clone, Copy)]
pub struct NewContainer<'a> {
    pub inputs: Inputs<'a>,
    pub container: &'a Container,
    pub variables: &'a [(String, String)],
    /// What the runtime calls the images of volumes, by volume.
    pub images: &'a BTreeMap<String, ImageRef>,
    /// Whether the runtime can make a mount read-only with all that is mounted below it.
    pub has_recursive_read_only: bool,
    /// None on the host network.
    pub pod_ip: Option<&'a str>,
}

impl NewContainer<'_> {
    /// The image of a volume, as the runtime knows it.
    pub(super) fn image(&self, volume: &str, source: &ImageVolumeSource) -> ImageSpec {
        let found = self.images.get(volume).map(ImageRef::as_str);
        ImageSpec {
            image: found.unwrap_or(&source.reference).to_owned(),
            user_specified_image: source.reference.clone(),
            ..Default::default()
        }
    }

    /// Which part of the volume a mount shows; empty for all of it.
    pub(super) fn sub_path(&self, mount: &VolumeMount) -> Result<String, VolumeError> {
        if mount.sub_path_expr.is_empty() {
            return Ok(mount.sub_path.clone());
        }
        let known = self.variables.iter().cloned().collect();
        env::expand_all(&mount.sub_path_expr, &known).map_err(|unknown| VolumeError::Content {
            name: mount.name.clone(),
            reason: format!(
                "subPathExpr {:?}: the container has no variable {unknown:?}",
                mount.sub_path_expr
            ),
        })
    }

    pub(super) fn is_recursively_read_only(&self, mount: &VolumeMount) -> Result<bool, VolumeError> {
        match mount.recursive_read_only.as_str() {
            "Enabled" if !self.has_recursive_read_only => Err(VolumeError::Content {
                name: mount.name.clone(),
                reason: "the container runtime cannot mount it read-only with all that is below it \
                         (recursiveReadOnly)"
                    .to_owned(),
            }),
            "Enabled" | "IfPossible" => Ok(self.has_recursive_read_only),
            _ => Ok(false),
        }
    }
}

pub(super) fn propagation(mount: &VolumeMount) -> MountPropagation {
    match mount.mount_propagation.as_str() {
        "HostToContainer" => MountPropagation::PropagationHostToContainer,
        "Bidirectional" => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    }
}
