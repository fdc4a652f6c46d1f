//! Objects to manifests, in Kubernetes' shape: `apiVersion` and `kind` first, then the fields in the order of the
//! contract, without empty ones.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_yaml::{Mapping, Value};

use super::shape;
use super::shape::PORTS;
use crate::object::AnyObject;

/// What the apiserver notes for itself: it is no part of what somebody wants, and long.
const NOTES: [&str; 2] = [MANAGED_FIELDS, HANDLED_REQUESTS];
const MANAGED_FIELDS: &str = "clone8s.v1.ObjectMeta.managed_fields";
const HANDLED_REQUESTS: &str = "clone8s.v1.ObjectMeta.handled_requests";

/// A YAML document.
pub fn to_yaml(object: &AnyObject) -> String {
    serde_yaml::to_string(&to_yaml_value(object)).expect("a tree of plain values can be written")
}

/// Indented JSON.
pub fn to_json(object: &AnyObject) -> String {
    serde_json::to_string_pretty(&to_yaml_value(object)).expect("a tree of plain values can be written")
}

/// The document as a value, for a list of several.
pub fn to_yaml_value(object: &AnyObject) -> Value {
    document(object, &NOTES)
}

/// The same with who has named which fields: to be read, and not to be applied.
pub fn to_yaml_value_with_managers(object: &AnyObject) -> Value {
    document(object, &[HANDLED_REQUESTS])
}

fn document(object: &AnyObject, hidden: &[&str]) -> Value {
    let mut document = Mapping::new();
    document.insert("apiVersion".into(), "v1".into());
    document.insert("kind".into(), object.kind().into());
    let descriptor = shape::descriptor(object.kind());
    if let Value::Mapping(fields) = message(object.to_value(), &descriptor, hidden) {
        document.extend(fields);
    }
    Value::Mapping(document)
}

/// The contract's JSON form with numbers and times as Kubernetes writes them.
fn message(value: Value, descriptor: &MessageDescriptor, hidden: &[&str]) -> Value {
    let Value::Mapping(fields) = value else {
        return value;
    };
    let shaped = fields.into_iter().filter_map(|(name, value)| {
        let field = name
            .as_str()
            .and_then(|name| descriptor.get_field_by_json_name(name));
        let value = match field {
            Some(field) if hidden.contains(&field.full_name()) => return None,
            Some(field) => self::field(value, &field, hidden),
            None => value,
        };
        Some((name, value))
    });
    Value::Mapping(shaped.collect())
}

fn field(value: Value, field: &FieldDescriptor, hidden: &[&str]) -> Value {
    match value {
        Value::Sequence(items) => Value::Sequence(
            items
                .into_iter()
                .map(|item| scalar_or_message(item, field, hidden))
                .collect(),
        ),
        value if field.is_map() => value,
        value => scalar_or_message(value, field, hidden),
    }
}

fn scalar_or_message(value: Value, field: &FieldDescriptor, hidden: &[&str]) -> Value {
    match field.kind() {
        Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => time(value),
        Kind::Message(message) => self::message(value, &message, hidden),
        // A version is not a number to reckon with, and Kubernetes has it as a string.
        Kind::Int64 if field.name() == "resource_version" => value,
        Kind::Int64 => number(&value),
        Kind::String if PORTS.contains(&field.full_name()) => number(&value),
        Kind::Uint64 => value
            .as_str()
            .and_then(|text| text.parse::<u64>().ok())
            .map_or(value.clone(), Value::from),
        _ => value,
    }
}

/// A number where the text is one.
fn number(value: &Value) -> Value {
    let number = value.as_str().and_then(|text| text.parse::<i64>().ok());
    number.map_or_else(|| value.clone(), Value::from)
}

/// A time in UTC, written with a Z.
fn time(value: Value) -> Value {
    match value.as_str().map(str::parse::<jiff::Timestamp>) {
        Some(Ok(time)) => Value::String(time.to_string()),
        _ => value,
    }
}
