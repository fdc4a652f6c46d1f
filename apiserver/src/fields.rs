//! The fields of objects, whatever their kind: by the contract's descriptors, so that a new kind needs no code here.

mod mask;

use clone8s::descriptors;
use prost_reflect::{DynamicMessage, MessageDescriptor};

pub(crate) use self::mask::Mask;
use crate::{error::ApiError, kind::Kind};

/// What a writer may change of the metadata.
const WRITABLE_METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "owner_references"];

const METADATA: &str = "metadata";
const STATUS: &str = "status";

fn descriptor<K: Kind>() -> MessageDescriptor {
    descriptors()
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

fn typed<K: Kind>(message: &DynamicMessage) -> Result<K, ApiError> {
    message
        .transcode_to()
        .map_err(|cause| ApiError::internal("an object of fields", cause))
}
