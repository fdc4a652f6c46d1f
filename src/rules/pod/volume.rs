//! The rules of a pod's volumes.

use crate::{
    huge_pages, names,
    quantity::Quantity,
    rules::{
        ImageReference,
        check::{Check, Seen},
        pod::{
            container::{PULL_POLICIES, pull_policy},
            default_to, projection,
        },
    },
    v1::{EmptyDirVolumeSource, PodSpec, Volume, volume::Source},
};

const MAX_VOLUMES: usize = 100;

pub(super) fn set_defaults(volume: &mut Volume) {
    let none = || Source::EmptyDir(EmptyDirVolumeSource::default());
    if let Source::Image(image) = volume.source.get_or_insert_with(none) {
        default_to(&mut image.pull_policy, pull_policy(&image.reference));
    }
}

pub(super) fn check_volumes(c: &mut Check, spec: &PodSpec) {
    let mut names_seen = Seen::new();
    c.list("volumes", &spec.volumes, MAX_VOLUMES, |c, volume| {
        c.field("name", |c| {
            c.ok(names::check_dns_label(&volume.name));
            if names_seen.again(volume.name.clone()) {
                c.wrong(format!(
                    "{:?} is the name of another volume of the pod",
                    volume.name
                ));
            }
        });
        match &volume.source {
            None => {
                c.wrong(
                    "must have a source: configMap, downwardAPI, emptyDir, hostPath, image, projected or secret",
                );
            }
            Some(Source::HostPath(source)) => c.field("hostPath", |c| {
                c.field("path", |c| c.absolute_path(&source.path));
                c.field("type", |c| {
                    let types = [
                        "",
                        "DirectoryOrCreate",
                        "Directory",
                        "FileOrCreate",
                        "File",
                        "Socket",
                        "CharDevice",
                        "BlockDevice",
                    ];
                    c.one_of(&source.r#type, &types);
                });
            }),
            Some(Source::EmptyDir(source)) => c.field("emptyDir", |c| check_empty_dir(c, source, spec)),
            Some(Source::ConfigMap(source)) => {
                c.field("configMap", |c| projection::check_config_map(c, source));
            }
            Some(Source::Secret(source)) => c.field("secret", |c| projection::check_secret(c, source)),
            Some(Source::DownwardApi(source)) => {
                c.field("downwardAPI", |c| projection::check_downward(c, source, spec));
            }
            Some(Source::Projected(source)) => {
                c.field("projected", |c| projection::check_projected(c, source, spec));
            }
            Some(Source::Image(source)) => c.field("image", |c| {
                c.field("reference", |c| {
                    if let Err(sentence) = ImageReference::parse(&source.reference) {
                        c.wrong(sentence);
                    }
                });
                c.field("pullPolicy", |c| c.one_of(&source.pull_policy, &PULL_POLICIES));
            }),
        }
    });
}

/// Volumes come and go with the containers that mount them, but one that stays keeps its source.
pub(super) fn check_volumes_update(c: &mut Check, new: &PodSpec, old: &PodSpec) {
    c.list("volumes", &new.volumes, MAX_VOLUMES, |c, volume| {
        let before = old.volumes.iter().find(|before| before.name == volume.name);
        if before.is_some_and(|before| before.source != volume.source) {
            c.wrong("the source of a volume cannot be changed; give the new volume another name");
        }
    });
}

fn check_empty_dir(c: &mut Check, source: &EmptyDirVolumeSource, spec: &PodSpec) {
    c.field("medium", |c| match huge_pages::of_medium(&source.medium, spec) {
        Err(sentence) => c.wrong(sentence),
        Ok(Some(_)) => {}
        Ok(None) => c.one_of(&source.medium, &["", "Memory", "HugePages"]),
    });
    if source.size_limit.is_empty() {
        return;
    }
    c.field("sizeLimit", |c| match source.size_limit.parse::<Quantity>() {
        Err(error) => c.wrong(error.to_string()),
        Ok(quantity) if quantity <= Quantity::ZERO => c.wrong("must be more than 0"),
        Ok(_) => {}
    });
}
