//! An object as a tree of what can be named in it, to see what it names and where two of them differ.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Value};

use super::{
    schema::{Shape, element_name, key_name, word},
    set::{FieldSet, Step},
};

/// What is at a place of an object.
#[derive(Debug, PartialEq)]
pub(super) enum Tree<'a> {
    Value(&'a Value),
    Inner(BTreeMap<Step, Tree<'a>>),
}

/// What a writer has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// What has another value, or is new.
    pub(super) set: FieldSet,
    /// What is no longer there.
    pub(super) gone: FieldSet,
}

impl<'a> Tree<'a> {
    pub(super) fn of(message: &'a DynamicMessage) -> Self {
        let fields = message.fields();
        Self::Inner(
            fields
                .map(|(field, value)| {
                    (
                        Step::Field(field.json_name().to_owned()),
                        Self::of_field(&field, value),
                    )
                })
                .collect(),
        )
    }

    fn of_field(field: &FieldDescriptor, value: &'a Value) -> Self {
        match Shape::of(field) {
            Shape::Whole => Self::Value(value),
            Shape::Message => value.as_message().map_or(Self::Value(value), Self::of),
            Shape::Map => {
                let entries = value.as_map().into_iter().flatten();
                Self::Inner(
                    entries
                        .map(|(key, value)| (Step::Key(key_name(key)), Self::Value(value)))
                        .collect(),
                )
            }
            Shape::Keyed(key) => {
                let elements = value.as_list().into_iter().flatten();
                Self::Inner(
                    elements
                        .map(|element| {
                            let inner = element.as_message().map_or(Self::Value(element), Self::of);
                            (Step::Key(element_name(element, key)), inner)
                        })
                        .collect(),
                )
            }
            Shape::Set => {
                let words = value.as_list().into_iter().flatten();
                Self::Inner(
                    words
                        .map(|value| (Step::Key(word(value)), Self::Value(value)))
                        .collect(),
                )
            }
        }
    }

    /// Every place that it names.
    pub(super) fn names(&self) -> FieldSet {
        let mut set = FieldSet::default();
        if let Self::Inner(inner) = self {
            for (step, tree) in inner {
                set.insert(step.clone(), tree.names());
            }
        }
        set
    }

    /// What has to change in this for it to become the other.
    pub(super) fn difference(&self, other: &Self) -> Difference {
        let mut found = Difference::default();
        let (Self::Inner(before), Self::Inner(after)) = (self, other) else {
            return found;
        };
        for (step, was) in before {
            match after.get(step) {
                None => found.gone.insert(step.clone(), was.names()),
                Some(is) if was == is => {}
                Some(is @ Self::Inner(_)) if matches!(was, Self::Inner(_)) => {
                    let inside = was.difference(is);
                    for (set, inside) in [(&mut found.set, inside.set), (&mut found.gone, inside.gone)] {
                        if !inside.is_empty() {
                            set.insert(step.clone(), inside);
                        }
                    }
                }
                Some(is) => found.set.insert(step.clone(), is.names()),
            }
        }
        for (step, is) in after {
            if !before.contains_key(step) {
                found.set.insert(step.clone(), is.names());
            }
        }
        found
    }
}

impl Difference {
    pub(super) fn all(&self) -> FieldSet {
        let mut all = self.set.clone();
        all.add(&self.gone);
        all
    }
}
