//! What the kinds have in common: identity, metadata, and where an object is stored.

use std::fmt::Debug;

use prost::Message as _;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    selector::Fields,
    v1::{self, ObjectMeta},
};

/// Calls a macro with every kind of the API: its message, its plural in the names of calls, its plural in keys and on
/// the command line, and whether it is in a namespace. A new kind is its two protos, one line here, its fields in
/// `selector::field`, its rules in `rules`, and what the apiserver must know of it beside (`Kind`).
#[macro_export]
macro_rules! for_each_kind {
    ($callback:ident $($more:tt)*) => {
        $callback! {
            $($more)*
            Pod, Pods, pods, true;
            Node, Nodes, nodes, false;
            Namespace, Namespaces, namespaces, false;
            ConfigMap, ConfigMaps, configmaps, true;
            Secret, Secrets, secrets, true;
            Event, Events, events, true;
            Lease, Leases, leases, true;
            ServiceAccount, ServiceAccounts, serviceaccounts, true;
            PriorityClass, PriorityClasses, priorityclasses, false;
            ResourceQuota, ResourceQuotas, resourcequotas, true;
            LimitRange, LimitRanges, limitranges, true;
        }
    };
}

/// The paths of the calls that kinds have in common.
#[derive(Debug, Clone, Copy)]
pub struct Calls {
    pub create: &'static str,
    pub get: &'static str,
    pub list: &'static str,
    pub update: &'static str,
    pub delete: &'static str,
    pub delete_many: &'static str,
    pub apply: &'static str,
    pub batch: &'static str,
    pub watch: &'static str,
    /// Not every kind has it.
    pub update_status: &'static str,
}

/// An object of the API; [`for_each_kind`] says what a new kind takes.
pub trait Object:
    Fields
    + prost::Message
    + Debug
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
    /// "clone8s.v1.ConfigMapService".
    const SERVICE: &'static str;
    const CALLS: Calls;

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

/// A kind's plural, and whether its objects are in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plural {
    pub name: &'static str,
    pub namespaced: bool,
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

macro_rules! call {
    ($kind:ident $verb:literal $what:ident $($rest:literal)?) => {
        concat!("/clone8s.v1.", stringify!($kind), "Service/", $verb, stringify!($what) $(, $rest)?)
    };
}

macro_rules! kinds {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        $(impl Object for v1::$kind {
            const KIND: &'static str = stringify!($kind);
            const PLURAL: &'static str = stringify!($plural);
            const NAMESPACED: bool = $namespaced;
            const SERVICE: &'static str = concat!("clone8s.v1.", stringify!($kind), "Service");
            const CALLS: Calls = Calls {
                create: call!($kind "Create" $kind),
                get: call!($kind "Get" $kind),
                list: call!($kind "List" $many),
                update: call!($kind "Update" $kind),
                delete: call!($kind "Delete" $kind),
                delete_many: call!($kind "Delete" $many),
                apply: call!($kind "Apply" $kind),
                batch: call!($kind "BatchWrite" $many),
                watch: call!($kind "Watch" $many),
                update_status: call!($kind "Update" $kind "Status"),
            };

            fn metadata(&self) -> Option<&ObjectMeta> {
                self.metadata.as_ref()
            }
            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                self.metadata.get_or_insert_default()
            }
        })*

        /// An object of any kind.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "held one at a time, and most are pods")]
        pub enum AnyObject { $($kind(v1::$kind)),* }

        impl AnyObject {
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$kind(_) => v1::$kind::KIND),* }
            }
            pub fn plural(&self) -> &'static str {
                match self { $(Self::$kind(_) => v1::$kind::PLURAL),* }
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
                    $(v1::$kind::PLURAL => Some(v1::$kind::decode(bytes).map(Self::$kind)),)*
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
                    $(v1::$kind::KIND => serde_json::from_value(value).map(Self::$kind),)*
                    other => Err(serde::de::Error::custom(format!("unknown kind {other:?}"))),
                }
            }
            /// The contract's JSON form.
            pub(crate) fn to_value(&self) -> serde_yaml::Value {
                match self { $(Self::$kind(object) => serde_yaml::to_value(object)),* }
                    .expect("a message has no value that JSON has not")
            }
        }

        $(impl From<v1::$kind> for AnyObject {
            fn from(object: v1::$kind) -> Self {
                Self::$kind(object)
            }
        })*

        /// Every kind's plural.
        pub const PLURALS: &[Plural] = &[
            $(Plural { name: stringify!($plural), namespaced: $namespaced }),*
        ];

        /// Every kind's name, as in a manifest.
        pub const KINDS: &[&str] = &[$(v1::$kind::KIND),*];
    };
}

for_each_kind!(kinds);
