//! Where an object of a known kind is, parsed at the door.

use std::marker::PhantomData;

use clone8s::object;

use crate::{
    error::{ApiError, ObjectName},
    kind::{DEFAULT_NAMESPACE, Kind},
};

/// Longer names cannot exist.
const LONGEST_NAME: usize = 253;

/// An object's namespace and name. They form a path of the store, so they hold nothing that could lead out of it;
/// whether they are names that an object may have is for the kind's rules to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key<K> {
    namespace: String,
    name: String,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Key<K> {
    /// An empty namespace means the default one; a kind without namespaces ignores it.
    pub(crate) fn parse(namespace: &str, name: &str) -> Result<Self, ApiError> {
        Self::parse_fields(("namespace", namespace), ("name", name))
    }

    pub(crate) fn of(object: &K) -> Result<Self, ApiError> {
        Self::parse_fields(
            ("metadata.namespace", object.namespace()),
            ("metadata.name", object.name()),
        )
    }

    /// Each with the path of its field in the request, for errors.
    fn parse_fields(
        (namespace_field, namespace): (&str, &str),
        (name_field, name): (&str, &str),
    ) -> Result<Self, ApiError> {
        if name.is_empty() {
            return Err(ApiError::field(
                format!("{} without a name", K::KIND),
                name_field,
                "is empty",
            ));
        }
        Ok(Self {
            namespace: match (K::NAMESPACED, namespace) {
                (false, _) => String::new(),
                (true, "") => DEFAULT_NAMESPACE.to_owned(),
                (true, namespace) => segment::<K>(namespace_field, namespace)?,
            },
            name: segment::<K>(name_field, name)?,
            kind: PhantomData,
        })
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn path(&self) -> String {
        object::store_key::<K>(&self.namespace, &self.name)
    }

    pub(crate) fn name(&self) -> ObjectName {
        ObjectName {
            kind: K::KIND,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// The store's prefix of a kind in one namespace, or in every one.
pub(crate) fn prefix<K: Kind>(namespace: &str) -> Result<String, ApiError> {
    if !namespace.is_empty() {
        segment::<K>("namespace", namespace)?;
    }
    Ok(object::store_prefix::<K>(namespace))
}

fn segment<K: Kind>(field: &str, text: &str) -> Result<String, ApiError> {
    let fits = text.len() <= LONGEST_NAME && text.chars().all(|c| c.is_ascii_graphic() && c != '/');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(ApiError::field(
            format!("{} {text:?}", K::KIND),
            field,
            "must be at most 253 letters, digits, \"-\" and \".\"",
        ))
    }
}
