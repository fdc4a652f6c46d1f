//! The fields of objects, whatever their kind: by the contract's descriptors, so that a new kind needs no code here.
//!
//! ```text
//! update with a mask:  current ──fields of the mask from the given object──► next
//! apply:               current ──less what the manager named before──► with what it names now ──► next
//!                                                                          │ what differs belongs to others?
//!                                                                          └─► conflict, or taken over by force
//! ```

mod mask;
mod merge;
mod owners;
mod schema;
mod set;
mod tree;

use std::sync::LazyLock;

use clone8s::{object_descriptors, v1::ManagedFields};
use pbjson_types::Timestamp;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};

pub(crate) use self::{
    mask::Mask,
    owners::{Conflict, Manager, Operation},
};
use self::{merge::Claims, owners::Owners, tree::Tree};
use crate::{error::ApiError, kind::Kind};

/// What a writer may change of the metadata.
const WRITABLE_METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "owner_references"];

const METADATA: &str = "metadata";
const STATUS: &str = "status";

/// What applying makes of an object.
#[derive(Debug)]
pub(crate) struct Applied<K> {
    /// Without status, and of the metadata only what a writer may change.
    pub(crate) object: K,
    /// Who has what then, conflicts taken over.
    pub(crate) managed_fields: Vec<ManagedFields>,
    /// What others have that would have to change.
    pub(crate) conflicts: Vec<Conflict>,
}

/// Makes the object have what a manager names, and no longer what it has named before and does not name now.
pub(crate) fn apply<K: Kind>(
    given: &K,
    current: &K,
    manager: &Manager,
    now: Timestamp,
) -> Result<Applied<K>, ApiError> {
    let given = writable(given)?;
    if let Some(path) = merge::twice_named(&given) {
        return Err(ApiError::field(
            format!("{} {:?}", K::KIND, current.name()),
            &path,
            "has the same name as one before it",
        ));
    }
    let before = writable(current)?;
    let names = Tree::of(&given).names();
    let mut owners = Owners::of(current.metadata());
    let (named_before, others) = (owners.applied_by(manager), owners.beside(manager));
    let mut after = before.clone();
    let claims = Claims {
        before: &named_before,
        now: Some(&names),
        others: Some(&others),
    };
    merge::take_away(&mut after, claims);
    merge::set(&mut after, &given);
    let difference = Tree::of(&before).difference(&Tree::of(&after));
    let conflicts = owners.conflicts(manager, &difference.all());
    owners.record(manager, Some(names), &difference, now);
    Ok(Applied {
        object: typed(&after)?,
        managed_fields: owners.written(),
        conflicts,
    })
}

/// Who has what after an update; None where nobody asked to know.
pub(crate) fn managed_after_update<K: Kind>(
    current: &K,
    next: &K,
    manager: Option<&Manager>,
    now: Timestamp,
) -> Result<Option<Vec<ManagedFields>>, ApiError> {
    let is_managed = current
        .metadata()
        .is_some_and(|meta| !meta.managed_fields.is_empty());
    if manager.is_none() && !is_managed {
        return Ok(None);
    }
    let (before, after) = (writable(current)?, writable(next)?);
    let difference = Tree::of(&before).difference(&Tree::of(&after));
    let mut owners = Owners::of(current.metadata());
    let manager = manager.cloned().unwrap_or_else(Manager::unnamed);
    owners.record(&manager, None, &difference, now);
    Ok(Some(owners.written()))
}

/// Who has what of a new object: its maker all that is named in it.
pub(crate) fn managed_at_creation<K: Kind>(
    given: &K,
    manager: &Manager,
    now: Timestamp,
) -> Result<Vec<ManagedFields>, ApiError> {
    let given = writable(given)?;
    let names = Tree::of(&given).names();
    let mut owners = Owners::default();
    owners.record(manager, Some(names), &tree::Difference::default(), now);
    Ok(owners.written())
}

fn descriptor<K: Kind>() -> MessageDescriptor {
    // Held: messages are compared, and those of another pool are others.
    static OBJECTS: LazyLock<DescriptorPool> = LazyLock::new(object_descriptors);
    OBJECTS
        .get_message_by_name(&format!("clone8s.v1.{}", K::KIND))
        .expect("every kind is a message of the contract")
}

/// An object as its fields. Nothing may format it: it may be a secret.
fn reflect<K: Kind>(object: &K) -> Result<DynamicMessage, ApiError> {
    let mut message = DynamicMessage::new(descriptor::<K>());
    message
        .transcode_from(object)
        .map_err(|cause| ApiError::internal("the fields of an object", cause))?;
    Ok(message)
}

/// The fields of an object that a writer may change.
fn writable<K: Kind>(object: &K) -> Result<DynamicMessage, ApiError> {
    let mut message = reflect(object)?;
    message.clear_field_by_name(STATUS);
    let mut is_empty = true;
    if let Some(meta) = message
        .get_field_by_name_mut(METADATA)
        .and_then(Value::as_message_mut)
    {
        let fixed = meta.descriptor();
        for field in fixed
            .fields()
            .filter(|field| !WRITABLE_METADATA.contains(&field.name()))
        {
            meta.clear_field(&field);
        }
        is_empty = meta.fields().next().is_none();
    }
    if is_empty {
        message.clear_field_by_name(METADATA);
    }
    Ok(message)
}

fn typed<K: Kind>(message: &DynamicMessage) -> Result<K, ApiError> {
    message
        .transcode_to()
        .map_err(|cause| ApiError::internal("an object of fields", cause))
}

#[cfg(test)]
mod tests;
