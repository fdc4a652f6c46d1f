//! Manifests: what a person writes, YAML or JSON, to objects and back.
//!
//! A document takes four steps, and each reports everything that it finds wrong, with its place:
//!
//! ```text
//! text ──tree──► values ──header──► kind ──shape──► JSON of the kind ──► object
//!      syntax,           apiVersion,      unknown fields, types, bounds
//!      duplicate keys    kind, v0
//! ```
//!
//! [`rules`](crate::rules) say whether an object is valid; [`Document::explain`] gives their violations a place.

mod error;
mod flat;
mod header;
mod locate;
mod reach;
mod shape;
mod tree;
mod write;

use serde_json::Value;

use self::{
    error::{Finding, Target},
    header::Form,
    locate::Source,
};
pub use self::{
    error::{ManifestError, ManifestErrors, Position},
    reach::{check_path, unset_value},
    tree::{TooManyBrackets, check_brackets},
    write::{to_json, to_yaml, to_yaml_value, to_yaml_value_with_managers},
};
use crate::{
    object::{AnyObject, Object as _},
    path::{FieldPath, Segment},
    rules::Violation,
    v1::Pod,
};

/// The most bytes that a manifest may have.
pub const MAX_MANIFEST_BYTES: usize = 8 * 1024 * 1024;

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub object: AnyObject,
    /// Which document of the text it is in, from 1.
    pub index: usize,
    /// The line on which the document's content begins, from 1.
    pub line: usize,
    /// Where in the document it stands: empty, or `items[2]` of a list.
    base: FieldPath,
    form: Form,
}

impl Document {
    /// Gives violations of this object's fields their places in the text that it was read from.
    pub fn explain(&self, source_name: &str, text: &str, violations: &[Violation]) -> ManifestErrors {
        let source = Source::guess(source_name, text);
        let findings = violations.iter().map(|violation| Finding {
            path: self.written_path(&violation.field),
            target: Target::Value,
            message: violation.description.clone(),
        });
        ManifestErrors::locate(&source, self.index, findings.collect())
    }

    /// The path under which the author of the document knows a field.
    fn written_path(&self, field: &str) -> FieldPath {
        let path = field.parse().unwrap_or_default();
        match self.form {
            Form::Kubernetes => self.base.join(&path),
            Form::Flat => flat::written_path(&path),
        }
    }
}

/// Every object of a manifest, in the order in which they are written, or everything that is wrong with it.
pub fn parse(source_name: &str, text: &str) -> Result<Vec<Document>, ManifestErrors> {
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestErrors::whole(
            source_name,
            format!(
                "the manifest has {} bytes, but {MAX_MANIFEST_BYTES} is the most",
                text.len()
            ),
        ));
    }
    let (source, read) = tree::read(source_name, text);
    let mut documents = Vec::new();
    let mut errors = ManifestErrors::none();
    for (index, value) in read.documents {
        let mut findings = Vec::new();
        let line = locate::position(&source, index, &FieldPath::root(), Target::Value);
        for (base, form, object) in objects(value, &mut findings) {
            documents.push(Document {
                object,
                index,
                line: line.map_or(1, |position| position.line),
                base,
                form,
            });
        }
        errors.append(ManifestErrors::locate(&source, index, findings));
    }
    errors.append(read.error);
    errors.into_result().map(|()| documents)
}

/// As [`parse`], from bytes that may not be text.
pub fn parse_bytes(source_name: &str, bytes: &[u8]) -> Result<Vec<Document>, ManifestErrors> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(source_name, text),
        Err(error) => Err(ManifestErrors::whole(
            source_name,
            format!(
                "the manifest is not UTF-8 text: byte {} is not part of a character",
                error.valid_up_to()
            ),
        )),
    }
}

/// As [`parse`], then sets the objects' defaults and holds them to the rules of their kinds.
pub fn parse_valid(source_name: &str, text: &str) -> Result<Vec<Document>, ManifestErrors> {
    let mut documents = parse(source_name, text)?;
    let mut errors = ManifestErrors::none();
    for document in &mut documents {
        document.object.set_defaults();
        let violations = document.object.validate();
        errors.append(document.explain(source_name, text, &violations));
    }
    errors.into_result().map(|()| documents)
}

/// A pod that is part of another document, such as a message on a queue, in either form. There `apiVersion` and
/// `kind` may be left out.
pub fn pod_from_value(value: serde_yaml::Value) -> Result<Pod, ManifestErrors> {
    let mut findings = Vec::new();
    let object = tree::convert(value)
        .map_err(|finding| findings.push(finding))
        .ok()
        .and_then(|value| embedded_pod(value, &mut findings));
    match object {
        Some(AnyObject::Pod(pod)) if findings.is_empty() => Ok(pod),
        Some(other) if findings.is_empty() => Err(ManifestErrors::whole(
            "",
            format!("kind: must be \"Pod\" here, but is {:?}", other.kind()),
        )),
        _ => Err(ManifestErrors::unlocated(findings)),
    }
}

fn embedded_pod(mut value: Value, findings: &mut Vec<Finding>) -> Option<AnyObject> {
    if let Some(map) = value.as_object_mut()
        && !map.contains_key("version")
    {
        map.entry("apiVersion").or_insert_with(|| "v1".into());
        map.entry("kind").or_insert_with(|| Pod::KIND.into());
    }
    let mut found = objects(value, findings);
    (found.len() == 1).then(|| found.remove(0).2)
}

/// The objects of one document: one, or the items of a list.
fn objects(value: Value, findings: &mut Vec<Finding>) -> Vec<(FieldPath, Form, AnyObject)> {
    let root = FieldPath::root();
    let Value::Object(mut fields) = value else {
        findings.push(Finding::at(&root, header::not_a_mapping(&value)));
        return Vec::new();
    };
    if !header::is_list(&fields) {
        return object(fields, root, findings).into_iter().collect();
    }
    header::check_version(&fields, &root, findings);
    let items = fields.remove("items").unwrap_or_default();
    for field in fields
        .keys()
        .filter(|field| !["apiVersion", "kind", "metadata"].contains(&field.as_str()))
    {
        findings.push(Finding::unknown_field(
            &root,
            field,
            &["apiVersion", "kind", "metadata", "items"],
        ));
    }
    let path = root.field("items");
    let items = match items {
        Value::Array(items) => items,
        Value::Null => return Vec::new(),
        other => {
            findings.push(Finding::at(
                &path,
                format!("must be a list, but is {}", shape::describe(&other)),
            ));
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let path = path.index(index);
        match item {
            Value::Object(fields) => found.extend(object(fields, path, findings)),
            other => findings.push(Finding::at(&path, header::not_a_mapping(&other))),
        }
    }
    found
}

fn object(
    fields: serde_json::Map<String, Value>,
    base: FieldPath,
    findings: &mut Vec<Finding>,
) -> Option<(FieldPath, Form, AnyObject)> {
    let form = header::form(&fields);
    let before = findings.len();
    let shaped = match form {
        Form::Flat => flat::shape(fields, &base, findings).map(|value| (Pod::KIND, value)),
        Form::Kubernetes => header::kind(&fields, &base, findings)
            .map(|kind| (kind, shape::object(kind, fields, &base, findings))),
    };
    let (kind, value) = shaped?;
    if findings.len() > before {
        return None;
    }
    match AnyObject::from_json(kind, value) {
        Ok(object) => Some((base, form, object)),
        // The shape is checked, so this is a gap between the contract's JSON form and that check.
        Err(error) => {
            findings.push(Finding::at(&base, error.to_string()));
            None
        }
    }
}

#[cfg(test)]
mod tests;
