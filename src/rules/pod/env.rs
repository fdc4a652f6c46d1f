//! The rules of a container's environment, and of what tells a pod of itself.

use super::container::check_argument;
use crate::{
    names,
    quantity::Quantity,
    rules::check::Check,
    v1::{
        Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec, ResourceFieldSelector,
        env_var_source::Source,
    },
};

const MAX_VARIABLES: usize = 1000;
const MAX_SOURCES: usize = 100;

/// Fields whose values are known while the pod runs.
const FIELDS: [&str; 3] = ["metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields that are known only when a container starts.
const VARIABLE_FIELDS: [&str; 5] = [
    "spec.nodeName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of many values.
const FILE_FIELDS: [&str; 2] = ["metadata.labels", "metadata.annotations"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
];

/// Where a field's or a resource's value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    Variable,
    File,
}

pub(super) fn check_env(c: &mut Check, container: &Container, spec: &PodSpec) {
    c.list("envFrom", &container.env_from, MAX_SOURCES, check_env_from);
    c.list("env", &container.env, MAX_VARIABLES, |c, variable| {
        check_variable(c, variable, spec);
    });
}

fn check_env_from(c: &mut Check, from: &EnvFromSource) {
    if !from.prefix.is_empty() {
        c.field("prefix", |c| c.ok(names::check_env_name(&from.prefix)));
    }
    match (&from.config_map_ref, &from.secret_ref) {
        (Some(map), None) => c.field("configMapRef", |c| check_object_name(c, "name", &map.name)),
        (None, Some(secret)) => c.field("secretRef", |c| check_object_name(c, "name", &secret.name)),
        _ => c.wrong("must have one of configMapRef and secretRef"),
    }
}

fn check_variable(c: &mut Check, variable: &EnvVar, spec: &PodSpec) {
    c.field("name", |c| c.ok(names::check_env_name(&variable.name)));
    c.field("value", |c| check_argument(c, &variable.value));
    let Some(from) = &variable.value_from else { return };
    c.field("valueFrom", |c| {
        if !variable.value.is_empty() {
            c.wrong("cannot stand beside a value");
        }
        check_value_from(c, from, spec);
    });
}

fn check_value_from(c: &mut Check, from: &EnvVarSource, spec: &PodSpec) {
    match &from.source {
        None => c.wrong("must have a source: fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef"),
        Some(Source::FieldRef(field)) => c.field("fieldRef", |c| check_field_ref(c, field, Into::Variable)),
        Some(Source::ResourceFieldRef(resource)) => c.field("resourceFieldRef", |c| {
            check_resource_ref(c, resource, spec, Into::Variable);
        }),
        Some(Source::ConfigMapKeyRef(key)) => c.field("configMapKeyRef", |c| {
            check_object_name(c, "name", &key.name);
            c.field("key", |c| c.ok(names::check_data_key(&key.key)));
        }),
        Some(Source::SecretKeyRef(key)) => c.field("secretKeyRef", |c| {
            check_object_name(c, "name", &key.name);
            c.field("key", |c| c.ok(names::check_data_key(&key.key)));
        }),
    }
}

pub(super) fn check_object_name(c: &mut Check, field: &str, name: &str) {
    c.field(field, |c| c.ok(names::check_dns_subdomain(name)));
}

/// `metadata.labels['app']`: the map and the key.
pub fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

pub(super) fn check_field_ref(c: &mut Check, field: &ObjectFieldSelector, into: Into) {
    if !field.api_version.is_empty() {
        c.field("apiVersion", |c| c.one_of(&field.api_version, &["v1"]));
    }
    c.field("fieldPath", |c| {
        let path = field.field_path.as_str();
        if let Some((map, key)) = subscript(path) {
            if !FILE_FIELDS.contains(&map) {
                c.one_of(map, &FILE_FIELDS);
            }
            c.ok(names::check_qualified_name(key));
            return;
        }
        let more: &[&str] = match into {
            Into::Variable => &VARIABLE_FIELDS,
            Into::File => &FILE_FIELDS,
        };
        let allowed: Vec<_> = FIELDS.iter().chain(more).copied().collect();
        c.one_of(path, &allowed);
    });
}

pub(super) fn check_resource_ref(
    c: &mut Check,
    resource: &ResourceFieldSelector,
    spec: &PodSpec,
    into: Into,
) {
    c.field("resource", |c| c.one_of(&resource.resource, &RESOURCES));
    c.field("containerName", |c| {
        let name = resource.container_name.as_str();
        match into {
            Into::Variable if name.is_empty() => {}
            _ => {
                let known: Vec<_> = spec.all_containers().map(|one| one.name.as_str()).collect();
                c.one_of(name, &known);
            }
        }
    });
    if !resource.divisor.is_empty() {
        c.field("divisor", |c| match resource.divisor.parse::<Quantity>() {
            Err(error) => c.wrong(error.to_string()),
            Ok(divisor) if divisor.is_negative() => c.wrong("must not be negative"),
            Ok(_) => {}
        });
    }
}
