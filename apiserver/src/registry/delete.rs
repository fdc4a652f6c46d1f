//! Deletion: at once where nothing holds the object, otherwise a mark that asks those who hold it to let go.

use std::time::SystemTime;

use clone8s::v1::Node;
use clone8s_daemon::clock;

use super::{Key, Registry, Seen, WriteOptions};
use crate::{access::Scope, error::ApiError, kind::Kind, time::timestamp};

/// Holds an owner until those that block its deletion are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an owner until nothing names it any more.
pub(crate) const ORPHAN: &str = "orphan";

/// What becomes of the objects that name a deleted one as their owner; `ownership` sees to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

impl Propagation {
    pub(crate) fn parse(word: &str) -> Result<Self, ApiError> {
        match word {
            "" | "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => Err(ApiError::field(
                "the deletion",
                "propagation_policy",
                format!("is {other:?}; it must be \"Background\", \"Foreground\" or \"Orphan\""),
            )),
        }
    }

    fn finalizer(self) -> Option<&'static str> {
        match self {
            Self::Background => None,
            Self::Foreground => Some(FOREGROUND),
            Self::Orphan => Some(ORPHAN),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) propagation: Propagation,
    pub(crate) seen: Seen,
    /// Seconds; None means the object's own grace period.
    pub(crate) grace: Option<i32>,
    pub(crate) write: WriteOptions,
}

impl Registry {
    /// Returns the object's last state.
    pub(crate) async fn delete<K: Kind>(
        &self,
        scope: &Scope,
        key: &Key<K>,
        options: &DeleteOptions,
    ) -> Result<K, ApiError> {
        self.delete_saying(scope, key, options, |_, _| Ok(())).await
    }

    /// The same, with a word about it on the object: `say` gets what it was and what the deletion made of it, and may
    /// refuse.
    pub(crate) async fn delete_saying<K: Kind>(
        &self,
        scope: &Scope,
        key: &Key<K>,
        options: &DeleteOptions,
        say: impl Fn(&K, &mut K) -> Result<(), ApiError>,
    ) -> Result<K, ApiError> {
        if let Some(grace) = options.grace.filter(|grace| *grace < 0) {
            return Err(ApiError::field(
                key.name().to_string(),
                "grace_period_seconds",
                format!("is {grace}; it must be 0 or more"),
            ));
        }
        let absent_node = self.absent_node(key).await?;
        self.modify(scope, key, &options.seen, &options.write, |current: &K| {
            if let Some(reason) = current.undeletable() {
                return Err(ApiError::WrongState {
                    object: key.name(),
                    reason: "UNDELETABLE",
                    description: reason.to_owned(),
                });
            }
            let nobody_to_stop_it = current
                .node()
                .is_none_or(|node| absent_node.as_deref() == Some(node));
            let grace = if nobody_to_stop_it {
                0
            } else {
                current.grace_period(options.grace)
            };
            scope.check_delete(current, grace)?;
            let mut next = mark(current, grace, options.propagation, clock::now());
            say(current, &mut next)?;
            Ok(next)
        })
        .await
    }

    /// The node that a pod is bound to, if there is no such node (any more): nobody will ever say that the pod
    /// has stopped.
    async fn absent_node<K: Kind>(&self, key: &Key<K>) -> Result<Option<String>, ApiError> {
        let object = match self.remembered(key) {
            Some(object) => object,
            None => match self.read(key).await {
                Ok(object) => object,
                Err(ApiError::NotFound(_)) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let Some(node) = object.node().filter(|_| object.grace_period(None) > 0) else {
            return Ok(None);
        };
        match self.read(&Key::<Node>::parse("", node)?).await {
            Ok(_) => Ok(None),
            Err(ApiError::NotFound(_)) => Ok(Some(node.to_owned())),
            Err(error) => Err(error),
        }
    }
}

/// Asked again, a deletion keeps its time and can only become shorter.
fn mark<K: Kind>(current: &K, grace: i32, propagation: Propagation, now: SystemTime) -> K {
    let mut next = current.clone();
    let meta = next.metadata_mut();
    if meta.deletion_timestamp.is_none() {
        meta.deletion_timestamp = Some(timestamp(now));
        // What was said first counts.
        let finalizer = propagation.finalizer().map(str::to_owned);
        meta.finalizers
            .extend(finalizer.filter(|it| !meta.finalizers.contains(it)));
    }
    let earlier = meta.deletion_grace_period_seconds.unwrap_or(grace);
    meta.deletion_grace_period_seconds = Some(earlier.min(grace));
    next.start_ending();
    next
}
