//! How the value of a field is put together: what can be named in it, and by what.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as Type, MapKey, MessageDescriptor, Value};

/// Lists whose elements have names of their own, and the fields that these names are made of. All other lists of
/// messages are changed as a whole, as in Kubernetes.
const KEYED_LISTS: &[(&str, &[KeyField])] = &[
    ("clone8s.v1.PodSpec.containers", &[NAME]),
    ("clone8s.v1.PodSpec.init_containers", &[NAME]),
    ("clone8s.v1.PodSpec.ephemeral_containers", &[NAME]),
    ("clone8s.v1.PodSpec.volumes", &[NAME]),
    ("clone8s.v1.PodSpec.image_pull_secrets", &[NAME]),
    ("clone8s.v1.Container.env", &[NAME]),
    (
        "clone8s.v1.Container.ports",
        &[
            KeyField::new("container_port"),
            KeyField {
                name: "protocol",
                unset: "TCP",
            },
        ],
    ),
    (
        "clone8s.v1.Container.volume_mounts",
        &[KeyField::new("mount_path")],
    ),
    ("clone8s.v1.EphemeralContainer.env", &[NAME]),
    (
        "clone8s.v1.EphemeralContainer.volume_mounts",
        &[KeyField::new("mount_path")],
    ),
    ("clone8s.v1.ServiceAccount.secrets", &[NAME]),
    ("clone8s.v1.ServiceAccount.image_pull_secrets", &[NAME]),
    ("clone8s.v1.ObjectMeta.owner_references", &[KeyField::new("uid")]),
];

/// Lists of words in which each word stands for itself.
const SETS: &[&str] = &["clone8s.v1.ObjectMeta.finalizers"];

const NAME: KeyField = KeyField::new("name");

/// A field that names the elements of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyField {
    name: &'static str,
    /// What the name is where the field is unset, because a default will make it so.
    unset: &'static str,
}

impl KeyField {
    const fn new(name: &'static str) -> Self {
        Self { name, unset: "" }
    }
}

/// What can be named in the value of a field.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// Nothing: it is there as a whole.
    Whole,
    Message,
    Map,
    Keyed(&'static [KeyField]),
    Set,
}

impl Shape {
    pub(super) fn of(field: &FieldDescriptor) -> Self {
        if field.is_map() {
            return Self::Map;
        }
        let name = field.full_name();
        if field.is_list() {
            let keyed = KEYED_LISTS.iter().find(|(list, _)| *list == name);
            return match keyed {
                Some((_, key)) => Self::Keyed(key),
                None if SETS.contains(&name) => Self::Set,
                None => Self::Whole,
            };
        }
        match field.kind() {
            Type::Message(message) if !is_well_known(&message) => Self::Message,
            _ => Self::Whole,
        }
    }
}

/// Timestamps and the like are values, whatever they are made of.
pub(super) fn is_well_known(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
}

/// The name of an element: "web", or "80,TCP" where several fields make it.
pub(super) fn element_name(element: &Value, key: &[KeyField]) -> String {
    let Some(message) = element.as_message() else {
        return String::new();
    };
    let parts = key.iter().map(|part| {
        let text = message
            .get_field_by_name(part.name)
            .map(|value| word(&value))
            .unwrap_or_default();
        if text.is_empty() {
            part.unset.to_owned()
        } else {
            text
        }
    });
    parts.collect::<Vec<_>>().join(",")
}

/// A string or a number as a word.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::I32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The key of an entry of a map, and back.
pub(super) fn key_name(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
        MapKey::Bool(on) => on.to_string(),
    }
}

/// The messages of a keyed list.
pub(super) fn elements(value: &Value) -> impl Iterator<Item = &DynamicMessage> {
    value
        .as_list()
        .into_iter()
        .flatten()
        .filter_map(Value::as_message)
}

#[cfg(test)]
mod tests {
    use clone8s::{object::KINDS, object_descriptors};

    use super::*;

    #[test]
    fn the_tables_name_lists_of_the_contract() {
        let list = |name: &str| {
            let (message, field) = name.rsplit_once('.').unwrap();
            let message = object_descriptors().get_message_by_name(message).unwrap();
            let field = message.get_field_by_name(field).unwrap();
            assert!(field.is_list(), "{name}");
            field
        };
        for (name, key) in KEYED_LISTS {
            let Type::Message(element) = list(name).kind() else {
                panic!("{name} has no messages");
            };
            for part in *key {
                assert!(
                    element.get_field_by_name(part.name).is_some(),
                    "{name}: {}",
                    part.name
                );
            }
        }
        for name in SETS {
            assert!(matches!(list(name).kind(), Type::String), "{name}");
        }
    }

    /// Maps with other keys could not be told apart by their words.
    #[test]
    fn every_map_of_every_kind_has_words_for_keys() {
        for kind in KINDS {
            let descriptor = object_descriptors()
                .get_message_by_name(&format!("clone8s.v1.{kind}"))
                .unwrap();
            check_maps(&descriptor, 0);
        }
    }

    fn check_maps(message: &MessageDescriptor, depth: usize) {
        assert!(depth < 32, "{} holds itself", message.full_name());
        for field in message.fields() {
            if let Type::Message(inner) = field.kind() {
                if field.is_map() {
                    assert!(matches!(inner.map_entry_key_field().kind(), Type::String));
                } else if !is_well_known(&inner) {
                    check_maps(&inner, depth + 1);
                }
            }
        }
    }
}
