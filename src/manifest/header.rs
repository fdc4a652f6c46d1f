//! What a document says that it is: `apiVersion` and `kind`, or `version: v0`.

use serde_json::{Map, Value};

use super::{error::Finding, shape::describe};
use crate::{names, object::KINDS, path::FieldPath};

const API_VERSION: &str = "v1";

/// Kinds that Kubernetes has under another API version, which is taken too.
const GROUPS: [(&str, &str); 2] = [
    ("Lease", "coordination.k8s.io/v1"),
    ("PriorityClass", "scheduling.k8s.io/v1"),
];

/// The two ways to write an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `apiVersion`, `kind`, `metadata`, `spec`.
    Kubernetes,
    /// `version: v0` and a pod's few fields at the top.
    Flat,
}

pub(super) fn form(fields: &Map<String, Value>) -> Form {
    if fields.contains_key("version") && !fields.contains_key("apiVersion") {
        Form::Flat
    } else {
        Form::Kubernetes
    }
}

pub(super) fn is_list(fields: &Map<String, Value>) -> bool {
    fields.get("kind").is_some_and(|kind| kind == "List")
}

pub(super) fn check_version(fields: &Map<String, Value>, base: &FieldPath, findings: &mut Vec<Finding>) {
    let path = base.field("apiVersion");
    let message = match fields.get("apiVersion") {
        Some(Value::String(version)) if version == API_VERSION => return,
        Some(Value::String(version)) if is_group_of(version, fields.get("kind")) => return,
        None | Some(Value::Null) => {
            format!("must be there: write \"apiVersion: {API_VERSION}\", or \"version: v0\" for a flat pod")
        }
        Some(Value::String(version)) => {
            format!("unknown API version {version:?}; every kind here has {API_VERSION:?}")
        }
        Some(other) => format!("must be {API_VERSION:?}, but is {}", describe(other)),
    };
    findings.push(Finding::at(&path, message));
}

fn is_group_of(version: &str, kind: Option<&Value>) -> bool {
    let kind = kind.and_then(Value::as_str);
    GROUPS
        .iter()
        .any(|(of, group)| *group == version && kind.is_some_and(|kind| kind == *of))
}

/// The kind, when the document names one that exists.
pub(super) fn kind(
    fields: &Map<String, Value>,
    base: &FieldPath,
    findings: &mut Vec<Finding>,
) -> Option<&'static str> {
    check_version(fields, base, findings);
    let message = match fields.get("kind") {
        Some(Value::String(name)) => match KINDS.iter().find(|kind| *kind == name) {
            Some(kind) => return Some(kind),
            None => match names::mistyped(name, KINDS.iter().copied()) {
                Some(near) => format!("unknown kind {name:?}; did you mean {near:?}?"),
                None => format!("unknown kind {name:?}; there are {}", KINDS.join(", ")),
            },
        },
        None | Some(Value::Null) => format!("must be there: one of {}", KINDS.join(", ")),
        Some(other) => format!("must be one of {}, but is {}", KINDS.join(", "), describe(other)),
    };
    findings.push(Finding::at(&base.field("kind"), message));
    None
}

pub(super) fn not_a_mapping(value: &Value) -> String {
    format!(
        "must be a mapping with \"apiVersion\" and \"kind\", but is {}",
        describe(value)
    )
}
