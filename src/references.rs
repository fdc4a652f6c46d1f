//! Which config maps and secrets a pod refers to: what its node reads, and may read.

use std::collections::BTreeSet;

use crate::v1::{
    Container, PodSpec, Volume, VolumeProjection, env_var_source::Source as EnvSource, volume::Source,
    volume_projection::Source as ProjectionSource,
};

/// The names of the objects, all of the pod's own namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

impl References {
    /// What a pod of this spec refers to, optional or not.
    pub fn of(spec: &PodSpec) -> Self {
        let mut references = Self::default();
        // For pulls: a container starts without them where its image is there.
        let pull_secrets = spec.image_pull_secrets.iter();
        references
            .secrets
            .extend(pull_secrets.map(|secret| secret.name.clone()));
        for container in spec.all_containers() {
            references.add_container(container);
        }
        for container in &spec.ephemeral_containers {
            references.add_container(&container.to_container());
        }
        for volume in &spec.volumes {
            references.add_volume(volume);
        }
        references
    }

    /// What one container of the pod needs to start: of its variables, and of the volumes that it mounts.
    pub fn of_container(spec: &PodSpec, container: &Container) -> Self {
        let mut references = Self::default();
        references.add_container(container);
        for volume in spec.mounted_volumes(container) {
            references.add_volume(volume);
        }
        references
    }

    /// What one volume refers to.
    pub fn of_volume(volume: &Volume) -> Self {
        let mut references = Self::default();
        references.add_volume(volume);
        references
    }

    pub fn is_empty(&self) -> bool {
        self.config_maps.is_empty() && self.secrets.is_empty()
    }

    fn add_container(&mut self, container: &Container) {
        for from in &container.env_from {
            self.config_maps
                .extend(from.config_map_ref.iter().map(|map| map.name.clone()));
            self.secrets
                .extend(from.secret_ref.iter().map(|secret| secret.name.clone()));
        }
        let sources = container
            .env
            .iter()
            .filter_map(|variable| variable.value_from.as_ref()?.source.as_ref());
        for source in sources {
            match source {
                EnvSource::ConfigMapKeyRef(key) => drop(self.config_maps.insert(key.name.clone())),
                EnvSource::SecretKeyRef(key) => drop(self.secrets.insert(key.name.clone())),
                EnvSource::FieldRef(_) | EnvSource::ResourceFieldRef(_) => {}
            }
        }
    }

    fn add_volume(&mut self, volume: &Volume) {
        match &volume.source {
            Some(Source::ConfigMap(map)) => drop(self.config_maps.insert(map.name.clone())),
            Some(Source::Secret(secret)) => drop(self.secrets.insert(secret.secret_name.clone())),
            Some(Source::Projected(projected)) => {
                for projection in &projected.sources {
                    self.add_projection(projection);
                }
            }
            Some(Source::HostPath(_) | Source::EmptyDir(_) | Source::DownwardApi(_) | Source::Image(_))
            | None => {}
        }
    }

    fn add_projection(&mut self, projection: &VolumeProjection) {
        match &projection.source {
            Some(ProjectionSource::ConfigMap(map)) => drop(self.config_maps.insert(map.name.clone())),
            Some(ProjectionSource::Secret(secret)) => drop(self.secrets.insert(secret.name.clone())),
            Some(ProjectionSource::DownwardApi(_)) | None => {}
        }
    }
}
