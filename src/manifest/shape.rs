//! Holds a document to the contract of its kind: every field known, every value of its type. What it returns is the
//! kind's JSON form, so that the typed parse after it has nothing left to refuse.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use serde_json::{Map, Value};

use super::error::{Finding, Target};
use crate::{object_descriptors, path::FieldPath};

/// Fields of text where a number means itself, as in Kubernetes.
const QUANTITIES: [&str; 12] = [
    "clone8s.v1.ResourceRequirements.limits",
    "clone8s.v1.ResourceRequirements.requests",
    "clone8s.v1.NodeStatus.capacity",
    "clone8s.v1.NodeStatus.allocatable",
    "clone8s.v1.EmptyDirVolumeSource.size_limit",
    "clone8s.v1.ResourceFieldSelector.divisor",
    "clone8s.v1.ResourceQuotaSpec.hard",
    "clone8s.v1.LimitRangeItem.max",
    "clone8s.v1.LimitRangeItem.min",
    "clone8s.v1.LimitRangeItem.default",
    "clone8s.v1.LimitRangeItem.default_request",
    "clone8s.v1.LimitRangeItem.max_limit_request_ratio",
];
/// Permission bits, which people write in octal: 0400 is text in YAML 1.2, and meant as in YAML 1.1.
const MODES: [&str; 2] = ["mode", "default_mode"];
/// The same for ports, which may have names. There a number is also written as one.
pub(super) const PORTS: [&str; 2] = ["clone8s.v1.HTTPGetAction.port", "clone8s.v1.TCPSocketAction.port"];
/// Values of this message must not appear in errors.
const SECRET: &str = "clone8s.v1.Secret";

/// The fields of a document of a known kind, without its header.
pub(super) fn object(
    kind: &str,
    mut fields: Map<String, Value>,
    base: &FieldPath,
    findings: &mut Vec<Finding>,
) -> Value {
    fields.remove("apiVersion");
    fields.remove("kind");
    let descriptor = descriptor(kind);
    let mut shape = Shape {
        findings,
        secret: descriptor.full_name() == SECRET,
    };
    shape.message(fields, &descriptor, base)
}

/// The message of a kind.
pub(super) fn descriptor(kind: &str) -> MessageDescriptor {
    object_descriptors()
        .get_message_by_name(&format!("clone8s.v1.{kind}"))
        .expect("every kind is a message of the contract")
}

/// A value in plain words: `the number 1`, `a list`.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(on) => on.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {:?}", shortened(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

struct Shape<'a> {
    findings: &'a mut Vec<Finding>,
    secret: bool,
}

impl Shape<'_> {
    fn message(
        &mut self,
        fields: Map<String, Value>,
        descriptor: &MessageDescriptor,
        path: &FieldPath,
    ) -> Value {
        let mut shaped = Map::new();
        let mut chosen: Vec<(OneofDescriptor, String)> = Vec::new();
        for (name, value) in fields {
            let Some(field) = descriptor.get_field_by_json_name(&name) else {
                let known = known_fields(descriptor);
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                self.findings.push(Finding::unknown_field(path, &name, &known));
                continue;
            };
            // As in Kubernetes, null is the same as leaving the field out.
            if value.is_null() {
                continue;
            }
            let here = path.field(&name);
            if let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
                match chosen.iter().find(|(other, _)| *other == oneof) {
                    Some((_, other)) => self.findings.push(Finding {
                        path: here.clone(),
                        target: Target::Key,
                        message: format!("cannot stand beside {other:?}: only one of them can be set"),
                    }),
                    None => chosen.push((oneof, name.clone())),
                }
            }
            shaped.insert(name, self.field(value, &field, &here));
        }
        Value::Object(shaped)
    }

    fn field(&mut self, value: Value, field: &FieldDescriptor, path: &FieldPath) -> Value {
        let loose = QUANTITIES.contains(&field.full_name()) || PORTS.contains(&field.full_name());
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else {
                return Value::Null;
            };
            let entry = entry.map_entry_value_field();
            let Value::Object(entries) = value else {
                return self.wrong("a mapping", &value, path);
            };
            let shaped = entries
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| {
                    let value = self.value(value, &entry.kind(), loose, &path.key(&key));
                    (key, value)
                });
            return Value::Object(shaped.collect());
        }
        if MODES.contains(&field.name())
            && let Some(bits) = octal(&value)
        {
            return self.value(bits.into(), &field.kind(), loose, path);
        }
        if field.is_list() {
            let Value::Array(items) = value else {
                return self.wrong("a list", &value, path);
            };
            let shaped = items
                .into_iter()
                .enumerate()
                .map(|(index, item)| self.value(item, &field.kind(), loose, &path.index(index)));
            return Value::Array(shaped.collect());
        }
        self.value(value, &field.kind(), loose, path)
    }

    fn value(&mut self, value: Value, kind: &Kind, loose: bool, path: &FieldPath) -> Value {
        match (kind, value) {
            (Kind::Message(message), value) if message.full_name() == "google.protobuf.Timestamp" => {
                self.timestamp(&value, path)
            }
            (Kind::Message(message), Value::Object(fields)) => self.message(fields, message, path),
            (Kind::Message(_), value) => self.wrong("a mapping", &value, path),
            (Kind::String, Value::String(text)) => Value::String(text),
            (Kind::String, Value::Number(number)) if loose => Value::String(number.to_string()),
            (Kind::String, value) => self.wrong("a string", &value, path),
            (Kind::Bytes, value) => self.bytes(&value, path),
            (Kind::Bool, Value::Bool(on)) => Value::Bool(on),
            (Kind::Bool, value) => self.wrong("true or false", &value, path),
            (Kind::Double | Kind::Float, Value::Number(number)) => Value::Number(number),
            (Kind::Double | Kind::Float, value) => self.wrong("a number", &value, path),
            (Kind::Enum(words), Value::String(word)) => match words.get_value_by_name(&word) {
                Some(_) => Value::String(word),
                None => self.wrong("a known word", &Value::String(word), path),
            },
            (Kind::Enum(_), value) => self.wrong("a known word", &value, path),
            (kind, value) => self.integer(&value, kind, path),
        }
    }

    fn integer(&mut self, value: &Value, kind: &Kind, path: &FieldPath) -> Value {
        let range = match kind {
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => (i128::from(i64::MIN), i128::from(i64::MAX)),
            Kind::Uint64 | Kind::Fixed64 => (0, i128::from(u64::MAX)),
            Kind::Uint32 | Kind::Fixed32 => (0, i128::from(u32::MAX)),
            _ => (i128::from(i32::MIN), i128::from(i32::MAX)),
        };
        let is_wide = range.1 > i128::from(u32::MAX);
        let number = match value {
            Value::Number(number) => number.as_i128(),
            // JSON has no room for 64 bits, so the contract's JSON form writes them as strings.
            Value::String(text) if is_wide => text.parse().ok(),
            _ => None,
        };
        match number {
            None => self.wrong("a whole number", value, path),
            Some(number) if number < range.0 || number > range.1 => self.report(
                path,
                format!("must be from {} to {}, but is {number}", range.0, range.1),
            ),
            Some(number) => Value::String(number.to_string()),
        }
    }

    fn timestamp(&mut self, value: &Value, path: &FieldPath) -> Value {
        match value.as_str().map(str::parse::<jiff::Timestamp>) {
            Some(Ok(time)) => Value::String(time.to_string()),
            _ => self.wrong("a time such as \"2026-01-31T12:00:00Z\"", value, path),
        }
    }

    fn bytes(&mut self, value: &Value, path: &FieldPath) -> Value {
        let Value::String(text) = value else {
            return self.wrong("a string in base64", value, path);
        };
        // Long values are often wrapped.
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if BASE64_STANDARD.decode(&text).is_ok() {
            return Value::String(text);
        }
        let hint = if self.secret {
            "; plain text goes into stringData"
        } else {
            "; plain text goes into data"
        };
        self.report(path, format!("must be base64{hint}"))
    }

    fn wrong(&mut self, wanted: &str, value: &Value, path: &FieldPath) -> Value {
        let mut message = format!("must be {wanted}, but is {}", self.describe(value));
        match value {
            Value::Number(_) | Value::Bool(_) if wanted == "a string" => {
                message.push_str("; quote it");
                if !self.secret {
                    message = format!("{message}: \"{value}\"");
                }
            }
            Value::String(text) if wanted == "a whole number" && text.parse::<i64>().is_ok() => {
                message.push_str("; remove the quotes");
            }
            Value::String(text) if wanted == "true or false" => {
                if let Some(word) = switch(text) {
                    message = format!("{message}; write {word}");
                }
            }
            _ => {}
        }
        self.report(path, message)
    }

    fn describe(&self, value: &Value) -> String {
        match value {
            Value::Number(_) if self.secret => "a number".to_owned(),
            Value::String(_) if self.secret => "a string".to_owned(),
            Value::Bool(_) if self.secret => "true or false".to_owned(),
            value => describe(value),
        }
    }

    /// The value in the place of a wrong one, which nothing reads.
    fn report(&mut self, path: &FieldPath, message: String) -> Value {
        self.findings.push(Finding::at(path, message));
        Value::Null
    }
}

/// "0400" as a number.
fn octal(value: &Value) -> Option<u32> {
    let digits = value.as_str()?.strip_prefix('0')?;
    u32::from_str_radix(digits, 8).ok()
}

/// What a word for a switch probably means: YAML 1.1 had several.
fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

pub(super) fn known_fields(descriptor: &MessageDescriptor) -> Vec<String> {
    let header = ["apiVersion", "kind"].map(str::to_owned);
    let is_object = descriptor.get_field_by_name("metadata").is_some();
    let fields = descriptor.fields().map(|field| field.json_name().to_owned());
    header.into_iter().filter(|_| is_object).chain(fields).collect()
}
