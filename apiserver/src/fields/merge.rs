//! What applying makes of an object: first what its manager no longer names goes, then what it names is set.

use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value};

use super::{
    schema::{KeyField, Shape, element_name, elements, key_name, word},
    set::{FieldSet, Step},
};

/// What is known of a place when something is taken away from it.
#[derive(Clone, Copy)]
pub(super) struct Claims<'a> {
    /// What the manager named before.
    pub(super) before: &'a FieldSet,
    /// What it names now.
    pub(super) now: Option<&'a FieldSet>,
    /// What others name.
    pub(super) others: Option<&'a FieldSet>,
}

impl Claims<'_> {
    fn at(self, step: &Step) -> Option<Self> {
        Some(Self {
            before: self.before.get(step)?,
            now: self.now.and_then(|now| now.get(step)),
            others: self.others.and_then(|others| others.get(step)),
        })
    }

    fn is_dropped(self) -> bool {
        self.now.is_none() && self.others.is_none()
    }
}

/// Takes away what nobody names any more. With a message or an element of a list goes what nobody names in it, such
/// as defaults; the parts of the object itself always stay.
pub(super) fn take_away(object: &mut DynamicMessage, claims: Claims<'_>) {
    take_from_message(object, claims, Level::Object);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Object,
    Inside,
}

fn take_from_message(message: &mut DynamicMessage, claims: Claims<'_>, level: Level) {
    for (step, _) in claims.before.iter() {
        let Step::Field(name) = step else {
            continue;
        };
        let Some(field) = message.descriptor().get_field_by_json_name(name) else {
            // The contract had it once.
            continue;
        };
        let Some(inner) = claims.at(step).filter(|_| message.has_field(&field)) else {
            continue;
        };
        let goes_whole = match Shape::of(&field) {
            Shape::Whole => inner.is_dropped(),
            Shape::Message => inner.is_dropped() && level == Level::Inside,
            Shape::Map | Shape::Keyed(_) | Shape::Set => false,
        };
        if goes_whole {
            message.clear_field(&field);
        } else {
            take_from_field(message, &field, inner);
        }
    }
}

fn take_from_field(message: &mut DynamicMessage, field: &FieldDescriptor, claims: Claims<'_>) {
    let is_dropped = |name: String| claims.at(&Step::Key(name)).is_some_and(Claims::is_dropped);
    let value = message.get_field_mut(field);
    match Shape::of(field) {
        Shape::Whole => {}
        Shape::Message => {
            if let Some(inner) = value.as_message_mut() {
                take_from_message(inner, claims, Level::Inside);
            }
        }
        Shape::Map => {
            if let Some(entries) = value.as_map_mut() {
                entries.retain(|key, _| !is_dropped(key_name(key)));
            }
        }
        Shape::Set => {
            if let Some(words) = value.as_list_mut() {
                words.retain(|value| !is_dropped(word(value)));
            }
        }
        Shape::Keyed(key) => {
            let Some(list) = value.as_list_mut() else {
                return;
            };
            list.retain(|element| !is_dropped(element_name(element, key)));
            for element in list {
                let step = Step::Key(element_name(element, key));
                if let (Some(inner), Some(message)) = (claims.at(&step), element.as_message_mut()) {
                    take_from_message(message, inner, Level::Inside);
                }
            }
        }
    }
}

/// Sets what a message names.
pub(super) fn set(into: &mut DynamicMessage, given: &DynamicMessage) {
    for (field, value) in given.fields() {
        match Shape::of(&field) {
            Shape::Whole => into.set_field(&field, value.clone()),
            Shape::Message => {
                if !into.has_field(&field) {
                    into.set_field(&field, value.clone());
                } else if let (Some(inner), Some(given)) =
                    (into.get_field_mut(&field).as_message_mut(), value.as_message())
                {
                    set(inner, given);
                }
            }
            Shape::Map => {
                let entries = into.get_field_mut(&field).as_map_mut().zip(value.as_map());
                if let Some((entries, given)) = entries {
                    entries.extend(given.clone());
                }
            }
            Shape::Set => {
                let words = into.get_field_mut(&field).as_list_mut().zip(value.as_list());
                if let Some((words, given)) = words {
                    let new: Vec<_> = given
                        .iter()
                        .filter(|word| !words.contains(word))
                        .cloned()
                        .collect();
                    words.extend(new);
                }
            }
            Shape::Keyed(key) => {
                let list = into.get_field_mut(&field).as_list_mut().zip(value.as_list());
                if let Some((list, given)) = list {
                    *list = merged_list(std::mem::take(list), given, key);
                }
            }
        }
    }
}

/// In the order of the given elements; the others stay behind those that they stand behind now.
fn merged_list(present: Vec<Value>, given: &[Value], key: &[KeyField]) -> Vec<Value> {
    let mut merged = Vec::with_capacity(present.len().max(given.len()));
    let mut present: Vec<_> = present
        .into_iter()
        .map(|element| (element_name(&element, key), Some(element)))
        .collect();
    let names: Vec<_> = given.iter().map(|element| element_name(element, key)).collect();
    for (name, element) in names.iter().zip(given) {
        let at = present.iter().position(|(other, _)| other == name);
        let Some(at) = at else {
            merged.push(element.clone());
            continue;
        };
        for (other, before) in &mut present[..at] {
            if !names.contains(other) {
                merged.extend(before.take());
            }
        }
        if let Some(mut own) = present[at].1.take() {
            if let (Some(own), Some(given)) = (own.as_message_mut(), element.as_message()) {
                set(own, given);
            }
            merged.push(own);
        }
    }
    merged.extend(present.into_iter().filter_map(|(_, element)| element));
    merged
}

/// The first two elements of one list that have the same name, as the path of the second: they cannot be merged.
pub(super) fn twice_named(message: &DynamicMessage) -> Option<String> {
    for (field, value) in message.fields() {
        let name = field.json_name();
        match Shape::of(&field) {
            Shape::Message => {
                let inside = value.as_message().and_then(twice_named);
                if let Some(path) = inside {
                    return Some(format!("{name}.{path}"));
                }
            }
            Shape::Keyed(key) => {
                let list = value.as_list().unwrap_or_default();
                let names: Vec<_> = list.iter().map(|element| element_name(element, key)).collect();
                let second = (1..names.len()).find(|at| names[..*at].contains(&names[*at]));
                if let Some(at) = second {
                    return Some(format!("{name}[{at}]"));
                }
                for (at, element) in elements(value).enumerate() {
                    if let Some(path) = twice_named(element) {
                        return Some(format!("{name}[{at}].{path}"));
                    }
                }
            }
            Shape::Whole | Shape::Map | Shape::Set => {}
        }
    }
    None
}
