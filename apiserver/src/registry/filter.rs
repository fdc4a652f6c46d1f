//! Which objects a caller asked for and may see.

use std::collections::BTreeMap;

use clone8s::selector::{FieldSelector, LabelSelector, SelectorError};

use crate::{
    access::Scope,
    cache::{Entry, ObjectEvent, Part},
    error::ApiError,
    kind::Kind,
};

pub(super) struct Filter<K: Kind> {
    labels: LabelSelector,
    fields: FieldSelector<K>,
    scope: Scope,
    /// The node that the fields ask for; "" for what belongs to none.
    node: Option<String>,
    /// Whether more is asked than where an object belongs.
    looks_inside: bool,
}

impl<K: Kind> Filter<K> {
    pub(super) fn parse(label_selector: &str, field_selector: &str, scope: &Scope) -> Result<Self, ApiError> {
        let bad = |field, error: SelectorError| ApiError::field("the selection", field, error.to_string());
        let labels = LabelSelector::parse(label_selector).map_err(|error| bad("label_selector", error))?;
        let fields =
            FieldSelector::<K>::parse(field_selector).map_err(|error| bad("field_selector", error))?;
        let node = K::NODE_FIELD.and_then(|path| fields.required(path));
        let fields_looked_into = usize::from(node.is_some());
        Ok(Self {
            looks_inside: !labels.is_empty() || fields.len() > fields_looked_into,
            node: node.map(str::to_owned),
            labels,
            fields,
            scope: scope.clone(),
        })
    }

    /// The part of the kind's objects below a prefix that has all that the filter admits.
    pub(super) fn part(&self, prefix: String) -> Part {
        let own = match &self.scope {
            Scope::Node(node) => Some(node.to_string()),
            Scope::Cluster | Scope::Nothing => None,
        };
        let asked = self.node.clone().filter(|node| !node.is_empty());
        Part {
            prefix,
            node: own.or(asked),
        }
    }

    pub(super) fn admits(&self, entry: &Entry) -> Result<bool, ApiError> {
        Ok(self.admits_place(entry) && (!self.looks_inside || self.admits_object(&entry.decode()?)))
    }

    /// Whether it admits the object before and after.
    pub(super) fn admits_sides(&self, event: &ObjectEvent<K>) -> Result<(bool, bool), ApiError> {
        let place = |entry: Option<&Entry>| entry.is_some_and(|entry| self.admits_place(entry));
        let (before, after) = (place(event.before()), place(event.after()));
        if !self.looks_inside || !(before || after) {
            return Ok((before, after));
        }
        let objects = event.objects()?;
        let inside = |object: &Option<K>| object.as_ref().is_some_and(|object| self.admits_object(object));
        Ok((before && inside(&objects.before), after && inside(&objects.after)))
    }

    fn admits_place(&self, entry: &Entry) -> bool {
        self.scope.admits_node(entry.node())
            && (self.node.as_deref()).is_none_or(|wanted| entry.node().unwrap_or_default() == wanted)
    }

    fn admits_object(&self, object: &K) -> bool {
        self.labels.matches(labels(object)) && self.fields.matches(object)
    }
}

fn labels<K: Kind>(object: &K) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    object.metadata().map_or(&NONE, |meta| &meta.labels)
}
