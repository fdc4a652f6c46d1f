//! The flat pod, `version: v0`: a name, containers with their images, and little else.
//!
//! ```yaml
//! version: v0
//! name: dummy pod        # becomes dummy-pod
//! namespace: default
//! hostNetwork: false
//! ip: 0.0.0.0            # any; another address is the pod's own
//! containers:
//!   - name: web
//!     image: registry.example/web:1
//! ```

use serde_json::{Map, Value, json};

use super::{
    Segment,
    error::{Finding, Target},
    shape::{self, describe},
};
use crate::{names, object::Object as _, path::FieldPath, v1::Pod};

const FIELDS: [&str; 6] = ["version", "name", "namespace", "hostNetwork", "ip", "containers"];
const CONTAINER_FIELDS: [&str; 2] = ["name", "image"];
/// What people write for "any address".
const ANY: [&str; 2] = ["0.0.0.0", "::"];

/// The pod in JSON, when the document is well-formed.
pub(super) fn shape(
    mut fields: Map<String, Value>,
    base: &FieldPath,
    findings: &mut Vec<Finding>,
) -> Option<Value> {
    let before = findings.len();
    match fields.get("version") {
        Some(Value::String(version)) if version == "v0" => {}
        other => {
            let found = other.map_or_else(|| "missing".to_owned(), describe);
            findings.push(Finding::at(
                &base.field("version"),
                format!("must be \"v0\", but is {found}; every other version is an \"apiVersion\""),
            ));
            return None;
        }
    }
    refuse_others(&fields, &FIELDS, base, findings);
    let containers = containers(fields.remove("containers"), &base.field("containers"), findings);
    let name = name(fields.remove("name"), &base.field("name"), findings);
    let ip = fields.remove("ip").filter(|ip| !ANY.iter().any(|any| ip == any));
    let pod = json!({
        "metadata": { "name": name, "namespace": fields.remove("namespace") },
        "spec": {
            "hostNetwork": fields.remove("hostNetwork"),
            "podIP": ip,
            "containers": containers,
        },
    });
    if findings.len() > before {
        return None;
    }
    let Value::Object(pod) = pod else { return None };
    // What is left to check has the same types as in the other form.
    let mut rest = Vec::new();
    let shaped = shape::object(Pod::KIND, pod, &FieldPath::root(), &mut rest);
    findings.extend(rest.into_iter().map(|finding| Finding {
        path: base.join(&written_path(&finding.path)),
        ..finding
    }));
    Some(shaped)
}

/// Where a field of the pod stands in the flat form.
pub(super) fn written_path(path: &FieldPath) -> FieldPath {
    let mut written = FieldPath::root();
    for (position, segment) in path.segments().iter().enumerate() {
        written = match segment {
            Segment::Field(name) if position == 0 && (name == "metadata" || name == "spec") => written,
            Segment::Field(name) if name == "podIP" => written.field("ip"),
            Segment::Field(name) => written.field(name),
            Segment::Index(index) => written.index(*index),
            Segment::Key(key) => written.key(key),
        };
    }
    written
}

fn containers(value: Option<Value>, path: &FieldPath, findings: &mut Vec<Finding>) -> Value {
    let items = match value {
        Some(Value::Array(items)) => items,
        None | Some(Value::Null) => Vec::new(),
        Some(other) => {
            findings.push(Finding::at(
                path,
                format!("must be a list, but is {}", describe(&other)),
            ));
            Vec::new()
        }
    };
    let mut shaped = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let path = path.index(index);
        let Value::Object(mut fields) = item else {
            findings.push(Finding::at(
                &path,
                format!("must be a mapping, but is {}", describe(&item)),
            ));
            continue;
        };
        refuse_others(&fields, &CONTAINER_FIELDS, &path, findings);
        let name = name(fields.remove("name"), &path.field("name"), findings);
        shaped.push(json!({ "name": name, "image": fields.remove("image") }));
    }
    Value::Array(shaped)
}

/// A name as a DNS label.
fn name(value: Option<Value>, path: &FieldPath, findings: &mut Vec<Finding>) -> Value {
    let message = match value {
        Some(Value::String(text)) => {
            let label = names::slug(&text);
            if !label.is_empty() {
                return label.into();
            }
            format!("must have a letter or a digit, but is {text:?}")
        }
        None | Some(Value::Null) => "must be there".to_owned(),
        Some(other @ (Value::Number(_) | Value::Bool(_))) => {
            format!(
                "must be a string, but is {}; quote it: \"{other}\"",
                describe(&other)
            )
        }
        Some(other) => format!("must be a string, but is {}", describe(&other)),
    };
    findings.push(Finding::at(path, message));
    Value::Null
}

fn refuse_others(fields: &Map<String, Value>, known: &[&str], path: &FieldPath, findings: &mut Vec<Finding>) {
    for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
        let mut finding = Finding::unknown_field(path, field, known);
        finding.target = Target::Key;
        finding.message = format!("{} (a flat pod, \"version: v0\", has no others)", finding.message);
        findings.push(finding);
    }
}
