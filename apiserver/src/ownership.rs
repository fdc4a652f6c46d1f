//! What becomes of the objects that name others as their owners.
//!
//! ```text
//! owner gone ─────────────────────────────► what names it, and no owner that is there, is deleted
//! owner waits (finalizer foregroundDeletion) ► what names it is deleted; when nothing that blocks is left, the owner goes
//! owner waits (finalizer orphan) ──────────► what names it loses the reference; then the owner goes
//! ```
//! Level, not edge: each round looks at what there is, in memory. Several apiservers may do it side by side.

use std::{collections::HashMap, time::Duration};

use clone8s::{
    for_each_kind,
    object::{Object as _, store_key},
    v1::{self, ObjectMeta, OwnerReference},
};
use clone8s_daemon::{Shutdown, supervisor::chain};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    access::Scope,
    cache::{Cached as _, Caches},
    error::ApiError,
    kind::Kind,
    registry::{DeleteOptions, FOREGROUND, Key, ORPHAN, Propagation, Registry, Seen, WriteOptions},
    store::Revision,
};

/// A round comes no sooner after the one before, and takes a tenth of the time at most.
const SETTLE: Duration = Duration::from_millis(250);
const SHARE: u32 = 10;
/// For an object whose owner was gone before it came.
const AT_LEAST_EVERY: Duration = Duration::from_mins(5);

/// Runs until shutdown.
pub(crate) async fn keep(registry: Registry, shutdown: Shutdown) -> Result<(), ApiError> {
    let mut ended = None;
    loop {
        let work = async {
            let now = wait(registry.caches(), ended).await;
            let begun = Instant::now();
            let outcome = round(&registry).await;
            sleep(SETTLE.max(begun.elapsed() * SHARE)).await;
            (now, outcome)
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            (now, outcome) = work => match outcome {
                Ok(true) => ended = Some(now),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot follow owners now");
                }
            }
        }
    }
}

/// Waits until something has ended that had not when it was last looked.
async fn wait(caches: &Caches, seen: Option<Revision>) -> Revision {
    let mut written = caches.subscribe();
    let news = async {
        while seen == Some(caches.ended()) {
            // The sender lives as long as the caches.
            let _ = written.changed().await;
        }
    };
    let _ = timeout(AT_LEAST_EVERY, news).await;
    caches.ended()
}

/// An object that is tied to others, as it is now.
#[derive(Debug)]
struct Tied {
    plural: &'static str,
    namespace: String,
    name: String,
    uid: String,
    revision: i64,
    owners: Vec<OwnerReference>,
    finalizers: Vec<String>,
    is_ending: bool,
}

impl Tied {
    fn of<K: Kind>(mut object: K) -> Self {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        let meta = std::mem::take(object.metadata_mut());
        Self {
            plural: K::PLURAL,
            namespace,
            name,
            uid: meta.uid,
            revision: meta.resource_version,
            owners: meta.owner_references,
            finalizers: meta.finalizers,
            is_ending: meta.deletion_timestamp.is_some(),
        }
    }

    fn waits(&self, finalizer: &str) -> bool {
        self.is_ending && self.finalizers.iter().any(|own| own == finalizer)
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.block_owner_deletion)
    }
}

/// False when somebody was faster, so that it is to be looked again.
async fn round(registry: &Registry) -> Result<bool, ApiError> {
    let caches = registry.caches();
    let tied = all_tied(caches)?;
    let mut settled = true;
    let mut dependents: HashMap<&str, Vec<&Tied>> = HashMap::new();
    for object in &tied {
        for owner in &object.owners {
            dependents.entry(&owner.uid).or_default().push(object);
        }
    }
    for owner in &tied {
        let own = dependents.get(owner.uid.as_str()).map_or(&[][..], Vec::as_slice);
        if owner.waits(ORPHAN) {
            for dependent in own {
                settled &= act(registry, dependent, &Act::Forget(owner.uid.clone())).await?;
            }
            settled &= act(registry, owner, &Act::LetGo(ORPHAN)).await?;
        } else if owner.waits(FOREGROUND) {
            for dependent in own.iter().filter(|dependent| !dependent.is_ending) {
                settled &= act(registry, dependent, &Act::Delete(Propagation::Foreground)).await?;
            }
            // Those that were asked to go may still be there: the next round sees.
            if !own.iter().any(|dependent| dependent.blocks(&owner.uid)) {
                settled &= act(registry, owner, &Act::LetGo(FOREGROUND)).await?;
            }
        }
    }
    for object in tied
        .iter()
        .filter(|object| !object.is_ending && !object.owners.is_empty())
    {
        if !object
            .owners
            .iter()
            .any(|owner| is_there(caches, &object.namespace, owner))
        {
            settled &= act(registry, object, &Act::Delete(Propagation::Background)).await?;
        }
    }
    Ok(settled)
}

/// What a round does to one object.
#[derive(Debug)]
enum Act {
    /// As it was looked at: somebody may have taken its references away since.
    Delete(Propagation),
    /// Takes away the reference to this owner.
    Forget(String),
    /// Takes away this finalizer.
    LetGo(&'static str),
}

macro_rules! kinds {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        fn all_tied(caches: &Caches) -> Result<Vec<Tied>, ApiError> {
            let mut tied = Vec::new();
            $(for entry in v1::$kind::cache(caches).tied() {
                tied.push(Tied::of::<v1::$kind>(entry.decode()?));
            })*
            Ok(tied)
        }

        /// An owner of a kind that is not known is taken to be there.
        fn is_there(caches: &Caches, namespace: &str, owner: &OwnerReference) -> bool {
            match owner.kind.as_str() {
                $(stringify!($kind) => {
                    let key = store_key::<v1::$kind>(namespace, &owner.name);
                    let found = v1::$kind::cache(caches).get(&key);
                    // What cannot be read may be the owner.
                    found.is_some_and(|entry| {
                        entry.decode::<v1::$kind>().map_or(true, |found| found.uid() == owner.uid)
                    })
                })*
                _ => true,
            }
        }

        async fn act(registry: &Registry, object: &Tied, act: &Act) -> Result<bool, ApiError> {
            match object.plural {
                $(stringify!($plural) => act_on::<v1::$kind>(registry, object, act).await,)*
                _ => Ok(true),
            }
        }
    };
}
for_each_kind!(kinds);

async fn act_on<K: Kind>(registry: &Registry, object: &Tied, act: &Act) -> Result<bool, ApiError> {
    let key = Key::<K>::parse(&object.namespace, &object.name)?;
    let seen = Seen {
        uid: object.uid.clone(),
        resource_version: 0,
    };
    let done = match act {
        Act::Delete(propagation) => {
            let options = DeleteOptions {
                seen: Seen {
                    resource_version: object.revision,
                    ..seen
                },
                propagation: *propagation,
                ..DeleteOptions::default()
            };
            registry.delete(&Scope::Cluster, &key, &options).await
        }
        Act::Forget(owner) => {
            let forget = |meta: &mut ObjectMeta| meta.owner_references.retain(|own| own.uid != *owner);
            edit(registry, &key, &seen, forget).await
        }
        Act::LetGo(finalizer) => {
            let let_go = |meta: &mut ObjectMeta| meta.finalizers.retain(|own| own != finalizer);
            edit(registry, &key, &seen, let_go).await
        }
    };
    match done {
        // It has gone, or another has taken its name.
        Ok(_) | Err(ApiError::NotFound(_) | ApiError::WrongState { .. }) => Ok(true),
        Err(ApiError::Stale { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn edit<K: Kind>(
    registry: &Registry,
    key: &Key<K>,
    seen: &Seen,
    change: impl Fn(&mut ObjectMeta),
) -> Result<K, ApiError> {
    let changed = |current: &K| {
        let mut next = current.clone();
        change(next.metadata_mut());
        Ok(next)
    };
    registry
        .modify(&Scope::Cluster, key, seen, &WriteOptions::default(), changed)
        .await
}
