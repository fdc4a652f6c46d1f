//! What a writer may say about a write beside what is to be written.

use clone8s::v1::ObjectMeta;

use super::{Key, RequestId};
use crate::{
    error::ApiError,
    fields::{Manager, Operation},
    kind::Kind,
};

/// The reason for refusing a write of an object that has another uid.
pub(super) const UID_MISMATCH: &str = "UID_MISMATCH";

/// Whether a write is to happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Commit {
    #[default]
    Store,
    ValidateOnly,
}

/// How a write is to be made; by default it is made, and nothing knows it again.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) commit: Commit,
    pub(crate) request: Option<RequestId>,
    /// Whose fields what is written becomes.
    pub(crate) manager: Option<Manager>,
}

impl WriteOptions {
    /// Of a request for a call such as "Create".
    pub(crate) fn parse(call: &'static str, validate_only: bool, request_id: &str) -> Result<Self, ApiError> {
        Ok(Self {
            commit: if validate_only {
                Commit::ValidateOnly
            } else {
                Commit::Store
            },
            request: RequestId::parse(request_id, call)?,
            manager: None,
        })
    }

    /// The same, by a field manager; empty means nobody in particular.
    pub(crate) fn by(self, field_manager: &str, operation: Operation) -> Result<Self, ApiError> {
        Ok(Self {
            manager: Manager::parse(field_manager, operation)?,
            ..self
        })
    }
}

/// What the writer of a change has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Empty means any.
    pub(crate) uid: String,
    /// 0 means any.
    pub(crate) resource_version: i64,
}

impl Seen {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.uid.is_empty() && self.resource_version == 0
    }

    pub(super) fn check<K: Kind>(&self, key: &Key<K>, current: &K) -> Result<(), ApiError> {
        if !self.uid.is_empty() && self.uid != current.uid() {
            return Err(ApiError::WrongState {
                object: key.name(),
                reason: UID_MISMATCH,
                description: format!(
                    "its uid is {}, not {}: it is another object of that name",
                    current.uid(),
                    self.uid
                ),
            });
        }
        if self.resource_version != 0 && self.resource_version != current.resource_version() {
            return Err(ApiError::Stale {
                object: key.name(),
                seen: self.resource_version,
            });
        }
        Ok(())
    }
}
