//! Which files the volumes hold that show config maps, secrets and the pod itself.

use clone8s::v1::{
    DownwardApiVolumeFile, KeyToPath, Volume, volume::Source, volume_projection::Source as ProjectionSource,
};

use super::{
    VolumeError,
    atomic::{File, Files},
};
use crate::{
    objects::ObjectKind,
    pod::{
        downward::{self, Inputs},
        security::fs_group,
    },
};

/// As in Kubernetes: everybody may read.
const DEFAULT_MODE: u32 = 0o644;

/// Where a volume's content is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    Disk,
    /// Secrets never touch the disk.
    Memory,
}

/// Where the volume keeps its files; None for a volume of another type.
pub(super) fn medium(volume: &Volume) -> Option<Medium> {
    match volume.source.as_ref()? {
        Source::ConfigMap(_) | Source::DownwardApi(_) => Some(Medium::Disk),
        Source::Secret(_) | Source::Projected(_) => Some(Medium::Memory),
        Source::HostPath(_) | Source::EmptyDir(_) | Source::Image(_) => None,
    }
}

/// The volume's files, as they are to be now.
pub(super) fn files(volume: &Volume, inputs: Inputs<'_>) -> Result<Files, VolumeError> {
    let mut builder = Builder {
        volume: &volume.name,
        inputs,
        mode: DEFAULT_MODE,
        // Whom the files are for.
        always: fs_group(inputs.pod.spec()).map_or(0, |_| 0o440),
        files: Files::new(),
    };
    match &volume.source {
        Some(Source::ConfigMap(map)) => {
            builder.default_mode(map.default_mode);
            builder.object(ObjectKind::ConfigMap, &map.name, &map.items, map.optional)?;
        }
        Some(Source::Secret(secret)) => {
            builder.default_mode(secret.default_mode);
            builder.object(
                ObjectKind::Secret,
                &secret.secret_name,
                &secret.items,
                secret.optional,
            )?;
        }
        Some(Source::DownwardApi(downward)) => {
            builder.default_mode(downward.default_mode);
            builder.downward(&downward.items)?;
        }
        Some(Source::Projected(projected)) => {
            builder.default_mode(projected.default_mode);
            let sources = projected.sources.iter();
            for source in sources.filter_map(|projection| projection.source.as_ref()) {
                builder.project(source)?;
            }
        }
        Some(Source::HostPath(_) | Source::EmptyDir(_) | Source::Image(_)) | None => {}
    }
    Ok(builder.files)
}

struct Builder<'a> {
    volume: &'a str,
    inputs: Inputs<'a>,
    mode: u32,
    /// Permission bits that every file has, whatever its mode.
    always: u32,
    files: Files,
}

impl Builder<'_> {
    fn default_mode(&mut self, mode: Option<i32>) {
        self.mode = bits(mode).unwrap_or(DEFAULT_MODE);
    }

    fn project(&mut self, source: &ProjectionSource) -> Result<(), VolumeError> {
        match source {
            ProjectionSource::ConfigMap(map) => {
                self.object(ObjectKind::ConfigMap, &map.name, &map.items, map.optional)
            }
            ProjectionSource::Secret(secret) => {
                self.object(ObjectKind::Secret, &secret.name, &secret.items, secret.optional)
            }
            ProjectionSource::DownwardApi(downward) => self.downward(&downward.items),
        }
    }

    /// All keys of an object, or those that are named.
    fn object(
        &mut self,
        kind: ObjectKind,
        name: &str,
        items: &[KeyToPath],
        optional: bool,
    ) -> Result<(), VolumeError> {
        let found = self.inputs.object(kind, name, optional);
        let Some((object, entries)) = found.map_err(|missing| self.wrong(missing.to_string()))? else {
            return Ok(());
        };
        if items.is_empty() {
            for (key, value) in entries.pairs() {
                self.add(key, value.clone(), None);
            }
            return Ok(());
        }
        for item in items {
            match entries.get(&item.key) {
                Some(value) => self.add(&item.path, value.clone(), item.mode),
                None if optional => {}
                None => return Err(self.wrong(format!("{object} has no key {:?}", item.key))),
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: &[DownwardApiVolumeFile]) -> Result<(), VolumeError> {
        let Inputs { pod, node, .. } = self.inputs;
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(pod, node, &field.field_path),
                (None, Some(resource)) => downward::resource(pod, node, &resource.container_name, resource),
                (None, None) => Ok(String::new()),
            };
            let text = text.map_err(|why| self.wrong(why))?;
            self.add(&item.path, text.into(), item.mode);
        }
        Ok(())
    }

    fn add(&mut self, path: &str, content: bytes::Bytes, mode: Option<i32>) {
        let mode = bits(mode).unwrap_or(self.mode) | self.always;
        self.files.insert(path.to_owned(), File { content, mode });
    }

    fn wrong(&self, reason: String) -> VolumeError {
        VolumeError::Content {
            name: self.volume.to_owned(),
            reason,
        }
    }
}

fn bits(mode: Option<i32>) -> Option<u32> {
    mode.and_then(|mode| u32::try_from(mode).ok())
}
