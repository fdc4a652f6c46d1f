//! The rules of volumes that show config maps, secrets and the pod itself.

use super::env::{Into, check_field_ref, check_object_name, check_resource_ref};
use crate::{
    names,
    rules::check::{Check, Seen},
    v1::{
        ConfigMapVolumeSource, DownwardApiVolumeFile, DownwardApiVolumeSource, KeyToPath, PodSpec,
        ProjectedVolumeSource, SecretVolumeSource, volume_projection::Source,
    },
};

const MAX_ITEMS: usize = 1000;
const MAX_SOURCES: usize = 100;

pub(super) fn check_config_map(c: &mut Check, source: &ConfigMapVolumeSource) {
    check_object_name(c, "name", &source.name);
    check_items(c, &source.items);
    check_mode(c, "defaultMode", source.default_mode);
}

pub(super) fn check_secret(c: &mut Check, source: &SecretVolumeSource) {
    check_object_name(c, "secretName", &source.secret_name);
    check_items(c, &source.items);
    check_mode(c, "defaultMode", source.default_mode);
}

pub(super) fn check_downward(c: &mut Check, source: &DownwardApiVolumeSource, spec: &PodSpec) {
    check_files(c, &source.items, spec);
    check_mode(c, "defaultMode", source.default_mode);
}

pub(super) fn check_projected(c: &mut Check, source: &ProjectedVolumeSource, spec: &PodSpec) {
    check_mode(c, "defaultMode", source.default_mode);
    c.list(
        "sources",
        &source.sources,
        MAX_SOURCES,
        |c, projection| match &projection.source {
            None => c.wrong("must have a source: configMap, secret or downwardAPI"),
            Some(Source::ConfigMap(map)) => c.field("configMap", |c| {
                check_object_name(c, "name", &map.name);
                check_items(c, &map.items);
            }),
            Some(Source::Secret(secret)) => c.field("secret", |c| {
                check_object_name(c, "name", &secret.name);
                check_items(c, &secret.items);
            }),
            Some(Source::DownwardApi(downward)) => {
                c.field("downwardAPI", |c| check_files(c, &downward.items, spec));
            }
        },
    );
}

fn check_items(c: &mut Check, items: &[KeyToPath]) {
    let mut paths = Seen::new();
    c.list("items", items, MAX_ITEMS, |c, item| {
        c.field("key", |c| c.ok(names::check_data_key(&item.key)));
        check_path(c, &item.path, &mut paths);
        check_mode(c, "mode", item.mode);
    });
}

fn check_files(c: &mut Check, items: &[DownwardApiVolumeFile], spec: &PodSpec) {
    let mut paths = Seen::new();
    c.list("items", items, MAX_ITEMS, |c, item| {
        check_path(c, &item.path, &mut paths);
        check_mode(c, "mode", item.mode);
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), None) => c.field("fieldRef", |c| check_field_ref(c, field, Into::File)),
            (None, Some(resource)) => c.field("resourceFieldRef", |c| {
                check_resource_ref(c, resource, spec, Into::File);
            }),
            _ => c.wrong("must have one of fieldRef and resourceFieldRef"),
        }
    });
}

fn check_path<'a>(c: &mut Check, path: &'a str, seen: &mut Seen<&'a str>) {
    c.field("path", |c| {
        c.not_empty(path);
        c.at_most(path, 4096);
        let mut parts = path.split('/');
        if path.contains('\0') || parts.any(|part| part.is_empty() || matches!(part, "." | "..")) {
            c.wrong(format!(
                "must be a relative path without \".\" and \"..\", but is {path:?}"
            ));
        } else if path.starts_with("..") {
            c.wrong(format!("must not start with \"..\", but is {path:?}"));
        }
        if seen.again(path) {
            c.wrong(format!("{path:?} is the path of another file of the volume"));
        }
    });
}

fn check_mode(c: &mut Check, field: &str, mode: Option<i32>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        c.field(field, |c| {
            c.wrong(format!(
                "must be permission bits from 0 to 0777 (511), but is {mode}"
            ));
        });
    }
}
