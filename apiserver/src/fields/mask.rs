//! Update masks: which fields of an object an update changes.

use std::marker::PhantomData;

use clone8s::names;
use pbjson_types::FieldMask;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as Type, MapKey, MessageDescriptor, Value};

use super::{METADATA, STATUS, WRITABLE_METADATA, descriptor, reflect, typed};
use crate::{error::ApiError, kind::Kind};

/// More than any kind has fields that are worth naming one by one.
const MOST_PATHS: usize = 256;

/// More than any path of a kind takes, with the longest key of a map in it.
const LONGEST_PATH: usize = 1024;

/// The fields that an update names.
#[derive(Debug)]
pub(crate) struct Mask<K> {
    paths: Vec<Vec<Step>>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Debug, Clone)]
enum Step {
    Field(FieldDescriptor),
    /// The entry of a map.
    Entry(String),
}

impl<K: Kind> Mask<K> {
    /// None where the mask names everything: it is empty, or "*".
    pub(crate) fn parse(mask: Option<&FieldMask>) -> Result<Option<Self>, ApiError> {
        let paths = mask.map_or(&[][..], |mask| &mask.paths);
        if paths.is_empty() || paths.iter().any(|path| path == "*") {
            return Ok(None);
        }
        if paths.len() > MOST_PATHS {
            return Err(bad(format!(
                "names {} fields, but {MOST_PATHS} is the most",
                paths.len()
            )));
        }
        let paths = paths.iter().map(|path| parse_path(&descriptor::<K>(), path));
        Ok(Some(Self {
            paths: paths.collect::<Result<_, _>>()?,
            kind: PhantomData,
        }))
    }

    /// The current object with these fields as they are in another.
    pub(crate) fn over(&self, given: &K, current: &K) -> Result<K, ApiError> {
        let given = reflect(given)?;
        let mut next = reflect(current)?;
        for path in &self.paths {
            copy(path, Some(&given), &mut next);
        }
        typed(&next)
    }
}

fn bad(description: String) -> ApiError {
    ApiError::field("the update", "update_mask", description)
}

fn parse_path(kind: &MessageDescriptor, path: &str) -> Result<Vec<Step>, ApiError> {
    if path.len() > LONGEST_PATH {
        return Err(bad(format!(
            "names a path of {} bytes, but {LONGEST_PATH} is the most",
            path.len()
        )));
    }
    let mut steps = Vec::new();
    let mut names = split(path).ok_or_else(|| bad(format!("{path:?} has a \"`\" without its end")))?;
    names.reverse();
    let mut message = kind.clone();
    while let Some(name) = names.pop() {
        let field = find(&message, &name).ok_or_else(|| unknown(&message, path, &name))?;
        check_writable(kind, &steps, &field, path)?;
        steps.push(Step::Field(field.clone()));
        if field.is_map() {
            steps.extend(names.pop().map(Step::Entry));
        }
        if names.is_empty() {
            break;
        }
        message = match field.kind() {
            Type::Message(inner) if !field.is_list() && !field.is_map() && has_fields(&inner) => inner,
            _ => {
                return Err(bad(format!(
                    "{path:?}: {name:?} is changed as a whole, so that nothing in it can be named"
                )));
            }
        };
    }
    Ok(steps)
}

/// The names between the dots; a key that holds dots stands in backticks.
fn split(path: &str) -> Option<Vec<String>> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    for letter in path.chars() {
        match letter {
            '`' => quoted = !quoted,
            '.' if !quoted => names.push(String::new()),
            letter => names.last_mut()?.push(letter),
        }
    }
    (!quoted).then_some(names)
}

/// By its name in the contract or in JSON.
fn find(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message
        .get_field_by_name(name)
        .or_else(|| message.get_field_by_json_name(name))
}

fn has_fields(message: &MessageDescriptor) -> bool {
    message.package_name() != "google.protobuf"
}

fn unknown(message: &MessageDescriptor, path: &str, name: &str) -> ApiError {
    let known: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
    let candidates = known.iter().map(String::as_str);
    let hint = match names::nearest(name, candidates) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("{} has {}", message.name(), known.join(", ")),
    };
    bad(format!("{path:?}: there is no field {name:?}; {hint}"))
}

fn check_writable(
    kind: &MessageDescriptor,
    before: &[Step],
    field: &FieldDescriptor,
    path: &str,
) -> Result<(), ApiError> {
    let refused = match before {
        [] if field.name() == STATUS => Some(format!(
            "the status is not changed by this call; Update{}Status writes it where clients may",
            kind.name()
        )),
        [Step::Field(root)] if root.name() == METADATA && !WRITABLE_METADATA.contains(&field.name()) => {
            Some(format!(
                "an update does not change it; of the metadata it changes {}",
                WRITABLE_METADATA.join(", ")
            ))
        }
        _ => None,
    };
    match refused {
        Some(why) => Err(bad(format!("{path:?}: {why}"))),
        None => Ok(()),
    }
}

/// Makes what the path leads to be as it is in `from`, absent where it is absent there.
fn copy(path: &[Step], from: Option<&DynamicMessage>, to: &mut DynamicMessage) {
    let Some((Step::Field(field), rest)) = path.split_first() else {
        return;
    };
    let given = from
        .filter(|from| from.has_field(field))
        .map(|from| from.get_field(field));
    match (rest, given) {
        ([], Some(given)) => to.set_field(field, given.into_owned()),
        ([], None) => to.clear_field(field),
        ([Step::Entry(key), ..], given) => {
            let key = MapKey::String(key.clone());
            let entry = given
                .as_deref()
                .and_then(Value::as_map)
                .and_then(|map| map.get(&key));
            if let Some(map) = to.get_field_mut(field).as_map_mut() {
                match entry {
                    Some(value) => map.insert(key, value.clone()),
                    None => map.remove(&key),
                };
            }
        }
        // Unset in both.
        (_, None) if !to.has_field(field) => {}
        (rest, given) => {
            let inner = given.as_deref().and_then(Value::as_message);
            if let Some(target) = to.get_field_mut(field).as_message_mut() {
                copy(rest, inner, target);
            }
        }
    }
}

#[cfg(test)]
mod tests;
