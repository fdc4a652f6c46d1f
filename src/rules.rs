//! What an object must be: defaults, validity, and what an update may change. The apiserver and the kubelet hold
//! every pod to the same rules, wherever it comes from.

mod check;
mod data;
mod event;
mod image;
mod lease;
mod limits;
mod meta;
mod node;
mod pod;
mod priority_class;

pub use image::ImageReference;
pub use lease::NODE_LEASE_NAMESPACE;
pub use pod::{DISRUPTION_TARGET, NODE_CONDITIONS, NODE_NOT_READY, check_added_container, subscript, sysctl};
pub use priority_class::{DEFAULT_PREEMPTION_POLICY, SYSTEM_CLASSES};

use crate::{
    for_each_kind,
    object::{AnyObject, Object},
};

/// The most bytes that an object may have, encoded. Below what etcd takes for one request.
pub const MAX_OBJECT_BYTES: usize = 1_400_000;

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where: "spec.containers[0].image". Empty for the object as a whole.
    pub field: String,
    /// A sentence that follows the field: "must not be empty".
    pub description: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.description);
        }
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// The rules of a kind.
pub trait Rules: Object {
    /// Moves what can be written in two ways to where it is stored. Doing it again changes nothing.
    fn normalize(&mut self) {}
    /// Normalizes, and fills in what was left out. Doing it again changes nothing.
    fn set_defaults(&mut self);
    /// Everything that is wrong with an object whose defaults are set.
    fn validate(&self) -> Vec<Violation>;
    /// Everything that an object cannot begin with, beside what is wrong with it anyway.
    fn validate_new(&self) -> Vec<Violation> {
        Vec::new()
    }
    /// Everything that an update from `old` may not change. Both objects are valid by themselves.
    fn validate_update(&self, old: &Self) -> Vec<Violation>;
}

macro_rules! any_object_rules {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        impl AnyObject {
            /// As [`Rules::set_defaults`].
            pub fn set_defaults(&mut self) {
                match self { $(Self::$kind(object) => object.set_defaults()),* }
            }
            /// As [`Rules::validate`].
            pub fn validate(&self) -> Vec<Violation> {
                match self { $(Self::$kind(object) => object.validate()),* }
            }
        }
    };
}
for_each_kind!(any_object_rules);
