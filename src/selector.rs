//! Choosing objects: by labels in Kubernetes' selector syntax, and by the value of a field.

pub mod field;
pub mod label;

pub use field::{Field, FieldSelector, Fields};
pub use label::LabelSelector;

/// The most bytes that a selector may have.
pub const MAX_SELECTOR: usize = 16 * 1024;

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("the selector has {0} bytes, but {MAX_SELECTOR} is the most")]
    TooLong(usize),
    #[error("{part:?}: {reason}")]
    Syntax { part: String, reason: String },
    #[error("{part:?}: the label key {reason}")]
    Key { part: String, reason: String },
    #[error("{part:?}: the label value {reason}")]
    Value { part: String, reason: String },
    #[error("{path:?} is not a selectable field of a {kind}; selectable are {}", known.join(", "))]
    UnknownField {
        path: String,
        kind: &'static str,
        known: Vec<&'static str>,
    },
}
