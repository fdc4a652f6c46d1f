//! Who may do what: the one place that decides it.
//!
//! A caller's [`Identity`] comes from its connection. The [`table`] says for every RPC what each identity may do
//! with it; the answer is a [`Scope`], which the path of the objects then holds every object to.

pub(crate) mod identity;
mod table;

use std::{collections::BTreeSet, sync::Arc};

pub(crate) use self::identity::Identity;
use crate::{error::ApiError, kind::Kind};

/// Which objects a caller may see and touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    /// What belongs to one node: itself, its pods, and the events that it tells.
    Node(Arc<str>),
    /// No object at all: a caller before its registration.
    Nothing,
}

impl Scope {
    /// Whether it has the objects that belong to a node, or to none.
    pub(crate) fn admits_node(&self, node: Option<&str>) -> bool {
        match self {
            Self::Cluster => true,
            Self::Node(own) => node == Some(own),
            Self::Nothing => false,
        }
    }

    /// A node makes what tells of it; what it is to run is for others to say.
    pub(crate) fn check_create<K: Kind>(&self, object: &K) -> Result<(), ApiError> {
        self.check(object, "create")?;
        match self {
            Self::Node(_) if !object.is_told_by_node() => Err(self.forbidden(
                format!("create {} {}", K::KIND, object.name()),
                "a node makes no pods but the mirrors of its own",
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn check<K: Kind>(&self, object: &K, verb: &str) -> Result<(), ApiError> {
        self.check_of_node(object.node(), verb, || format!("{} {}", K::KIND, object.name()))
    }

    /// As [`Self::check`], for an object of which only its node is known.
    pub(crate) fn check_of_node(
        &self,
        node: Option<&str>,
        verb: &str,
        object: impl FnOnce() -> String,
    ) -> Result<(), ApiError> {
        if self.admits_node(node) {
            return Ok(());
        }
        Err(self.forbidden(format!("{verb} {}", object()), "it does not belong to that node"))
    }

    /// A node says that its pod has stopped; it does not decide that a pod is to go.
    pub(crate) fn check_delete<K: Kind>(&self, object: &K, grace: i32) -> Result<(), ApiError> {
        match self {
            Self::Node(_) if grace != 0 => Err(self.forbidden(
                format!("delete {} {}", K::KIND, object.name()),
                "a node can only confirm a deletion, with a grace period of 0",
            )),
            _ => Ok(()),
        }
    }

    /// The node whose own calls these are.
    pub(crate) fn check_node(&self, node: &str, verb: &str) -> Result<(), ApiError> {
        match self {
            Self::Cluster => Ok(()),
            Self::Node(own) if own.as_ref() == node => Ok(()),
            Self::Node(_) | Self::Nothing => {
                Err(self.forbidden(format!("{verb} node {node}"), "it is another node"))
            }
        }
    }

    pub(crate) fn forbidden(&self, action: String, why: &'static str) -> ApiError {
        let caller = match self {
            Self::Cluster => "an administrator".to_owned(),
            Self::Node(node) => format!("node {node}"),
            Self::Nothing => "a caller without a certificate".to_owned(),
        };
        ApiError::Forbidden { caller, action, why }
    }
}

/// Decides whether a caller may make a call at all, and on which objects.
pub(crate) fn authorize(identity: &Identity, path: &str) -> Result<Scope, ApiError> {
    let access = table::access(path);
    match (identity, access) {
        (Identity::Root | Identity::Admin { .. }, _) => Ok(Scope::Cluster),
        (Identity::Node(name), table::Access::Node | table::Access::Everyone) => {
            Ok(Scope::Node(name.clone()))
        }
        (Identity::Anonymous | Identity::Stranger { .. }, table::Access::Everyone) => Ok(Scope::Nothing),
        (Identity::Anonymous, _) => Err(ApiError::Unauthenticated(
            "this call needs a client certificate that the cluster's root CA has signed",
        )),
        (Identity::Node(_) | Identity::Stranger { .. }, _) => Err(ApiError::Forbidden {
            caller: identity.to_string(),
            action: format!("call {}", path.trim_start_matches('/')),
            why: match identity {
                Identity::Node(_) => "it is not among the calls for nodes",
                _ => "its certificate's subject is neither an administrator's nor a node's",
            },
        }),
    }
}

/// The path of a call, if the API has it.
pub(crate) fn known(path: &str) -> Option<&'static str> {
    table::RPCS.iter().map(|(rpc, _)| *rpc).find(|rpc| *rpc == path)
}

/// The name of every service, once.
pub(crate) fn services() -> BTreeSet<&'static str> {
    let paths = table::RPCS.iter().map(|(rpc, _)| *rpc);
    paths
        .filter_map(|path| Some(path.strip_prefix('/')?.split_once('/')?.0))
        .collect()
}

/// The scope that the layer in front of every service has given this request.
pub(crate) fn scope<T>(request: &tonic::Request<T>) -> Result<Scope, ApiError> {
    request
        .extensions()
        .get::<Scope>()
        .cloned()
        .ok_or_else(|| ApiError::internal("authorization", "the request did not pass the access layer"))
}

#[cfg(test)]
mod tests;
