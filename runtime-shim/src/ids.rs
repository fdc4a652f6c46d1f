//! Names that cannot be mistaken for one another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) struct $name(String);

        impl $name {
            /// A new one, unlike any other: 32 hexadecimal digits.
            pub(crate) fn random() -> Self {
                Self(uuid::Uuid::new_v4().simple().to_string())
            }

            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A pod sandbox; the id of its containerd container object too.
    SandboxId
}
impl ContainerId {
    /// Whether a text has the form of [`Self::random`].
    pub(crate) fn is_one(text: &str) -> bool {
        text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl LeaseId {
    /// What the shim's leases begin with: others may hold leases in the namespace too.
    pub(crate) const PREFIX: &str = "clone8s-";
    /// What the purpose of a pull's lease begins with, which the next pull goes on with. An import begins anew: what a
    /// cut-off one has left is of no use.
    pub(crate) const OF_PULL: &str = "pull-";

    /// One that nobody has yet.
    pub(crate) fn new(purpose: &str) -> Self {
        Self(format!("{}{purpose}-{}", Self::PREFIX, Self::random()))
    }

    pub(crate) fn is_the_shims(&self) -> bool {
        self.as_str().starts_with(Self::PREFIX)
    }

    /// Of a call that another goes on with: its id tells what it is for.
    pub(crate) fn is_for_later(&self) -> bool {
        let purpose = self.as_str().strip_prefix(Self::PREFIX);
        purpose.is_some_and(|purpose| purpose.starts_with(Self::OF_PULL))
    }
}

id! {
    /// A container; the id of its containerd container, task and snapshot too.
    ContainerId
}
id! {
    /// A containerd lease, which keeps what is under construction from being collected as garbage.
    LeaseId
}
