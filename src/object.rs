//! What the kinds have in common: identity, metadata, and where an object is stored.

use prost::Message as _;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    selector::Fields,
    v1::{ConfigMap, Event, Namespace, Node, ObjectMeta, Pod, Secret},
};

/// An object of the API. A new kind is its proto, one line of [`kinds!`], its fields in `selector::field`, and its
/// rules in `rules`.
pub trait Object:
    Fields
    + prost::Message
    + Default
    + Clone
    + PartialEq
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + Into<AnyObject>
    + 'static
{
    /// As in a manifest: "ConfigMap".
    const KIND: &'static str;
    /// As in keys, routing keys and on the command line: "configmaps".
    const PLURAL: &'static str;
    const NAMESPACED: bool;

    /// None only before an object has passed the apiserver's door.
    fn metadata(&self) -> Option<&ObjectMeta>;
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    /// The metadata's name, or "".
    fn name(&self) -> &str {
        self.metadata().map_or("", |meta| &meta.name)
    }
    /// The metadata's namespace, or "".
    fn namespace(&self) -> &str {
        self.metadata().map_or("", |meta| &meta.namespace)
    }
    fn uid(&self) -> &str {
        self.metadata().map_or("", |meta| &meta.uid)
    }
    /// The revision of the last write, or 0 for an object that was never stored.
    fn resource_version(&self) -> i64 {
        self.metadata().map_or(0, |meta| meta.resource_version)
    }
    fn store_key(&self) -> String {
        store_key::<Self>(self.namespace(), self.name())
    }
}

/// Every object's key in the store starts with this.
pub const OBJECTS_PREFIX: &str = "/clone8s/objects/";

/// The prefix of a kind's keys, or of those in one namespace (which may be empty for every namespace).
pub fn store_prefix<O: Object>(namespace: &str) -> String {
    if O::NAMESPACED && !namespace.is_empty() {
        format!("{OBJECTS_PREFIX}{}/{namespace}/", O::PLURAL)
    } else {
        format!("{OBJECTS_PREFIX}{}/", O::PLURAL)
    }
}

/// `/clone8s/objects/<plural>/<namespace>/<name>`, without the namespace for a kind that has none.
pub fn store_key<O: Object>(namespace: &str, name: &str) -> String {
    format!("{}{name}", store_prefix::<O>(namespace))
}

macro_rules! kinds {
    ($($kind:ident $plural:literal $namespaced:literal),* $(,)?) => {
        $(impl Object for $kind {
            const KIND: &'static str = stringify!($kind);
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;

            fn metadata(&self) -> Option<&ObjectMeta> {
                self.metadata.as_ref()
            }
            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                self.metadata.get_or_insert_default()
            }
        })*

        /// An object of any kind.
        #[derive(Debug, Clone, PartialEq)]
        pub enum AnyObject { $($kind($kind)),* }

        impl AnyObject {
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$kind(_) => $kind::KIND),* }
            }
            pub fn plural(&self) -> &'static str {
                match self { $(Self::$kind(_) => $kind::PLURAL),* }
            }
            pub fn name(&self) -> &str {
                match self { $(Self::$kind(object) => object.name()),* }
            }
            pub fn namespace(&self) -> &str {
                match self { $(Self::$kind(object) => object.namespace()),* }
            }
            pub fn uid(&self) -> &str {
                match self { $(Self::$kind(object) => object.uid()),* }
            }
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Self::$kind(object) => object.metadata_mut()),* }
            }
            /// Reads the protobuf form of an object of the kind with this plural; None for a plural that no kind has.
            pub fn decode(plural: &str, bytes: impl prost::bytes::Buf) -> Option<Result<Self, prost::DecodeError>> {
                match plural {
                    $($kind::PLURAL => Some($kind::decode(bytes).map(Self::$kind)),)*
                    _ => None,
                }
            }
            /// The protobuf form.
            pub fn encode_to_vec(&self) -> Vec<u8> {
                match self { $(Self::$kind(object) => object.encode_to_vec()),* }
            }
            /// An object from the contract's JSON form, which knows no `kind`.
            pub(crate) fn from_json(kind: &str, value: serde_json::Value) -> serde_json::Result<Self> {
                match kind {
                    $($kind::KIND => serde_json::from_value(value).map(Self::$kind),)*
                    other => Err(serde::de::Error::custom(format!("unknown kind {other:?}"))),
                }
            }
            /// The contract's JSON form.
            pub(crate) fn to_value(&self) -> serde_yaml::Value {
                match self { $(Self::$kind(object) => serde_yaml::to_value(object)),* }
                    .expect("a message has no value that JSON has not")
            }
        }

        $(impl From<$kind> for AnyObject {
            fn from(object: $kind) -> Self {
                Self::$kind(object)
            }
        })*

        /// Every kind's name, as in a manifest.
        pub const KINDS: &[&str] = &[$($kind::KIND),*];
    };
}

kinds! {
    Pod "pods" true,
    Node "nodes" false,
    Namespace "namespaces" false,
    ConfigMap "configmaps" true,
    Secret "secrets" true,
    Event "events" true,
}
