//! The messages that the services of all kinds have in common, for code that works on any kind.
//!
//! Each stands for one generated message of every kind, such as [`GetRequest`] for `GetPodRequest` and
//! `GetNodeRequest`: field numbers and types are the same for all kinds, which a test holds the contract to. Kinds
//! without namespaces leave `namespace` out.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use pbjson_types::FieldMask;
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};

use crate::v1::{ApplyOutcome, CallError, ObjectDeletion, WatchEventType};

/// What may stand for an object in a message: an object, or its [`Encoded`] form.
pub trait Payload: Message + Default + Clone + PartialEq + fmt::Debug + 'static {}

impl<P: Message + Default + Clone + PartialEq + fmt::Debug + 'static> Payload for P {}

#[derive(Clone, PartialEq, Message)]
pub struct CreateRequest<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub object: Option<O>,
    #[prost(bool, tag = "2")]
    pub validate_only: bool,
    #[prost(string, tag = "3")]
    pub request_id: String,
    #[prost(string, tag = "4")]
    pub field_manager: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetRequest {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListRequest {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub label_selector: String,
    #[prost(string, tag = "3")]
    pub field_selector: String,
    #[prost(int32, tag = "4")]
    pub page_size: i32,
    #[prost(string, tag = "5")]
    pub page_token: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateRequest<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub object: Option<O>,
    #[prost(bool, tag = "2")]
    pub validate_only: bool,
    #[prost(string, tag = "3")]
    pub request_id: String,
    #[prost(message, optional, tag = "4")]
    pub update_mask: Option<FieldMask>,
    #[prost(string, tag = "5")]
    pub field_manager: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApplyRequest<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub object: Option<O>,
    #[prost(bool, tag = "2")]
    pub validate_only: bool,
    #[prost(string, tag = "3")]
    pub request_id: String,
    #[prost(string, tag = "4")]
    pub field_manager: String,
    #[prost(bool, tag = "5")]
    pub force: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteRequest {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(int64, tag = "3")]
    pub resource_version: i64,
    #[prost(string, tag = "4")]
    pub uid: String,
    /// Pods alone have it.
    #[prost(int32, optional, tag = "5")]
    pub grace_period_seconds: Option<i32>,
    #[prost(string, tag = "6")]
    pub propagation_policy: String,
    #[prost(bool, tag = "7")]
    pub validate_only: bool,
    #[prost(string, tag = "8")]
    pub request_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteManyRequest {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub label_selector: String,
    #[prost(string, tag = "3")]
    pub field_selector: String,
    #[prost(int32, tag = "4")]
    pub page_size: i32,
    #[prost(string, tag = "5")]
    pub page_token: String,
    #[prost(bool, tag = "6")]
    pub all: bool,
    /// Pods alone have it.
    #[prost(int32, optional, tag = "7")]
    pub grace_period_seconds: Option<i32>,
    #[prost(string, tag = "8")]
    pub propagation_policy: String,
    #[prost(bool, tag = "9")]
    pub validate_only: bool,
    #[prost(int64, tag = "10")]
    pub resource_version: i64,
    #[prost(string, tag = "11")]
    pub request_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteManyResponse {
    #[prost(message, repeated, tag = "1")]
    pub deletions: Vec<ObjectDeletion>,
    #[prost(string, tag = "2")]
    pub next_page_token: String,
    #[prost(int32, tag = "3")]
    pub deleted_count: i32,
    #[prost(int32, tag = "4")]
    pub ending_count: i32,
    #[prost(int32, tag = "5")]
    pub failed_count: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub label_selector: String,
    #[prost(string, tag = "3")]
    pub field_selector: String,
    #[prost(int64, tag = "4")]
    pub resource_version: i64,
    #[prost(bool, tag = "5")]
    pub send_initial_state: bool,
    #[prost(bool, tag = "6")]
    pub include_previous: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateStatusRequest<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub object: Option<O>,
    /// For pods alone.
    #[prost(string, repeated, tag = "2")]
    pub condition_types: Vec<String>,
    #[prost(bool, tag = "3")]
    pub validate_only: bool,
    #[prost(string, tag = "4")]
    pub request_id: String,
}

/// The response of every call that answers with one object.
#[derive(Clone, PartialEq, Message)]
pub struct ObjectResponse<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub object: Option<O>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApplyResponse<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub object: Option<O>,
    #[prost(enumeration = "ApplyOutcome", tag = "2")]
    pub outcome: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct BatchRequest<O: Payload> {
    #[prost(message, repeated, tag = "1")]
    pub writes: Vec<Write<O>>,
}

/// One of these; the contract says so by a oneof, which is the same on the wire.
#[derive(Clone, PartialEq, Message)]
pub struct Write<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub create: Option<CreateRequest<O>>,
    #[prost(message, optional, tag = "2")]
    pub update: Option<UpdateRequest<O>>,
    #[prost(message, optional, tag = "3")]
    pub delete: Option<DeleteRequest>,
    #[prost(message, optional, tag = "4")]
    pub apply: Option<ApplyRequest<O>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BatchResponse<O: Payload> {
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<WriteResult<O>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WriteResult<O: Payload> {
    #[prost(message, optional, tag = "1")]
    pub object: Option<O>,
    #[prost(enumeration = "ApplyOutcome", tag = "2")]
    pub outcome: i32,
    #[prost(message, optional, tag = "3")]
    pub error: Option<CallError>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListResponse<O: Payload> {
    #[prost(message, repeated, tag = "1")]
    pub objects: Vec<O>,
    #[prost(string, tag = "2")]
    pub next_page_token: String,
    #[prost(int64, tag = "3")]
    pub resource_version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse<O: Payload> {
    #[prost(enumeration = "WatchEventType", tag = "1")]
    pub r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub object: Option<O>,
    #[prost(int64, tag = "3")]
    pub resource_version: i64,
    #[prost(message, optional, tag = "4")]
    pub previous: Option<O>,
}

/// An object as bytes: encoded once, and put as it is into any number of messages. It is only ever written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Encoded(pub Bytes);

/// Its size alone: it may be a secret.
impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} bytes)", self.0.len())
    }
}

impl Message for Encoded {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests;
