//! The one path of every object of every kind: default → validate → write with a precondition → the object with
//! its revision.
//!
//! ```text
//!            create                update, status, bind            delete
//!   (absent) ──────► stored ◄────────────────────────► stored ──────────────► deletion asked for
//!                      ▲                                  │ nothing holds it        │ nothing holds it any more
//!                      └── never the same uid again       ▼                         ▼
//!                                                       gone ◄──────────────────── gone
//! ```
//! What holds an object whose deletion was asked for: finalizers, and for some kinds what [`Kind::lingers`] says.

mod apply;
mod create;
mod delete;
mod delete_many;
mod filter;
mod key;
mod list;
mod name;
mod options;
mod request;
mod watch;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clone8s::{rules::Violation, v1::ObjectMeta, wire::Encoded};
use clone8s_daemon::{Shutdown, clock};
use tokio::time::timeout;

pub(crate) use self::{
    apply::Conflicts,
    delete::{DeleteOptions, FOREGROUND, ORPHAN, Propagation},
    key::Key,
    options::{Commit, Seen, WriteOptions},
    request::{RequestId, sweep as sweep_requests},
    watch::WatchEvent,
};
use crate::{
    access::Scope,
    admission::{Admission, quota::Quotas},
    cache::{Caches, Entry},
    error::ApiError,
    fields::{self, Mask},
    kind::Kind,
    store::{KeyValue, Precondition, Revision, Store, StoreError, VALUE_LIMIT},
    time::timestamp,
};

/// How often a write to whatever revision there is starts over when others were faster.
const ATTEMPTS: usize = 16;

/// How long the writer of a policy waits for it to hold.
const SETTLE: Duration = Duration::from_secs(1);

/// What became of one attempt to change an object.
enum Attempt<K> {
    Written(K),
    /// There was nothing to write.
    Left(K),
    /// It is no longer what the change was made on.
    Overtaken,
}

/// The objects of every kind, on the store.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
    quotas: Arc<Quotas>,
    /// Ends watches.
    shutdown: Shutdown,
    bookmark_interval: Duration,
}

impl Registry {
    pub(crate) fn new(store: Arc<dyn Store>, shutdown: Shutdown) -> Self {
        Self {
            caches: Arc::new(Caches::new(Arc::clone(&store))),
            quotas: Arc::default(),
            store,
            shutdown,
            bookmark_interval: Duration::from_secs(5),
        }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What gets, lists and watches are served from; [`crate::cache::feed`] keeps it.
    pub(crate) fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    pub(crate) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// From memory, as it is now; from the store where memory is not that far.
    pub(crate) async fn get<K: Kind>(&self, scope: &Scope, key: &Key<K>) -> Result<Encoded, ApiError> {
        self.entry(scope, key).await?.encoded::<K>()
    }

    pub(crate) async fn get_object<K: Kind>(&self, scope: &Scope, key: &Key<K>) -> Result<K, ApiError> {
        self.entry(scope, key).await?.decode()
    }

    async fn entry<K: Kind>(&self, scope: &Scope, key: &Key<K>) -> Result<Entry, ApiError> {
        let path = key.path();
        let found = match self.caches.current().await? {
            Some(_) => K::cache(&self.caches).get(&path),
            None => self.store.get(&path).await?.0.as_ref().map(Entry::read::<K>),
        };
        let entry = found.ok_or_else(|| ApiError::NotFound(key.name()))?;
        scope.check_of_node(entry.node(), "get", || key.name().to_string())?;
        Ok(entry)
    }

    /// Replaces metadata and content, or what a mask names of them; the status stays.
    pub(crate) async fn update<K: Kind>(
        &self,
        scope: &Scope,
        object: Option<K>,
        mask: Option<&Mask<K>>,
        options: &WriteOptions,
    ) -> Result<K, ApiError> {
        let object = given(object)?;
        let key = Key::<K>::of(&object)?;
        let seen = object.metadata().map(Seen::of).unwrap_or_default();
        let admission = Admission::of_change(self, &key).await?;
        self.modify(scope, &key, &seen, options, |current: &K| {
            let next = match mask {
                Some(mask) => mask.over(&object, current)?,
                None => object.clone(),
            };
            let mut next = admit_change(scope, &admission, &key, next, current)?;
            let now = timestamp(clock::now());
            let manager = options.manager.as_ref();
            if let Some(managed) = fields::managed_after_update(current, &next, manager, now)? {
                next.metadata_mut().managed_fields = managed;
            }
            Ok(next)
        })
        .await
    }

    /// Replaces the status; all else stays.
    pub(crate) async fn update_status<K: Kind>(
        &self,
        scope: &Scope,
        object: Option<K>,
        condition_types: &[String],
        options: &WriteOptions,
    ) -> Result<K, ApiError> {
        let object = given(object)?;
        let key = Key::<K>::of(&object)?;
        let seen = object.metadata().map(Seen::of).unwrap_or_default();
        self.modify(scope, &key, &seen, options, |current: &K| {
            let mut next = current.clone();
            next.merge_status(&object, condition_types);
            Ok(next)
        })
        .await
    }

    /// Changes an object from what it is to what `change` makes of it, once, whatever others do meanwhile. When
    /// the writer has not said which revision it has seen, a change that others overtook is made again on theirs.
    pub(crate) async fn modify<K: Kind>(
        &self,
        scope: &Scope,
        key: &Key<K>,
        seen: &Seen,
        options: &WriteOptions,
        change: impl Fn(&K) -> Result<K, ApiError>,
    ) -> Result<K, ApiError> {
        // What memory has is nearly always what there is, which saves a question to the store. Where it is not, the
        // write does not happen; all else that may come out is decided on what the store has. A request that may have
        // come before is kept out of this: what it has removed is asked of the store.
        if options.request.is_none()
            && let Some(current) = self.remembered(key)
        {
            match self.change(scope, key, seen, options, &change, current).await {
                Ok(Attempt::Written(object)) => return Ok(object),
                // It may have been written.
                Err(error @ ApiError::StoreUnavailable(_)) => return Err(error),
                _ => {}
            }
        }
        for _ in 0..ATTEMPTS {
            let read = self.read(key).await;
            // After the object was read: where another sending of the request removes it from now on, this one is overtaken.
            if let Some(request) = &options.request
                && let Some(removed) = self.removed_by(request, key).await?
            {
                scope.check(&removed, "change")?;
                return Ok(removed);
            }
            let current = read?;
            match self.change(scope, key, seen, options, &change, current).await? {
                // Read again, it is told to who named a revision.
                Attempt::Overtaken => {}
                Attempt::Written(object) | Attempt::Left(object) => return Ok(object),
            }
        }
        Err(ApiError::Contended(key.name()))
    }

    /// The object as memory has it, which may be less than there is.
    pub(crate) fn remembered<K: Kind>(&self, key: &Key<K>) -> Option<K> {
        K::cache(&self.caches).get(&key.path())?.decode().ok()
    }

    /// One attempt of [`Self::modify`], on what the object is or was.
    async fn change<K: Kind>(
        &self,
        scope: &Scope,
        key: &Key<K>,
        seen: &Seen,
        options: &WriteOptions,
        change: impl Fn(&K) -> Result<K, ApiError>,
        current: K,
    ) -> Result<Attempt<K>, ApiError> {
        scope.check(&current, "change")?;
        if let Some(request) = &options.request
            && request.is_done(&current)?
        {
            return Ok(Attempt::Left(current));
        }
        seen.check(key, &current)?;
        let mut next = change(&current)?;
        if next.content() != current.content() {
            next.metadata_mut().generation += 1;
        }
        if next == current && !is_deletion_done(&next) {
            return Ok(Attempt::Left(next));
        }
        if options.commit == Commit::ValidateOnly {
            encode(&next, key)?;
            return Ok(Attempt::Left(next));
        }
        match self.write(key, &current, next, options).await {
            // Gone, changed, or removed by the same request: the next attempt sees which.
            Err(StoreError::Stale { .. } | StoreError::NotFound { .. } | StoreError::Exists { .. }) => {
                Ok(Attempt::Overtaken)
            }
            Err(error) => Err(error.into()),
            Ok(written) => Ok(Attempt::Written(written?)),
        }
    }

    /// The outer error is the store's, for the caller to judge; the inner one is the object's own.
    async fn write<K: Kind>(
        &self,
        key: &Key<K>,
        current: &K,
        mut next: K,
        options: &WriteOptions,
    ) -> Result<Result<K, ApiError>, StoreError> {
        let precondition = Precondition::Revision(Revision(current.resource_version()));
        if let Some(request) = &options.request {
            request.record(&mut next);
        }
        let value = match encode(&next, key) {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        };
        let revision = if is_deletion_done(&next) {
            let record = options.request.as_ref().map(|request| request.removal(&next));
            let revision = self
                .store
                .delete_while(&[], record, &key.path(), precondition)
                .await?;
            self.delete_belonging(&next).await?;
            revision
        } else {
            self.store.put(&key.path(), value, precondition).await?
        };
        next.metadata_mut().resource_version = revision.0;
        self.settle::<K>(revision).await;
        Ok(Ok(next))
    }

    /// Waits until what others are held to is in memory; not for ever, as one that is written already.
    async fn settle<K: Kind>(&self, revision: Revision) {
        if K::IS_POLICY {
            let _ = timeout(SETTLE, self.caches.reach(revision)).await;
        }
    }

    async fn delete_belonging<K: Kind>(&self, object: &K) -> Result<(), StoreError> {
        let Some(key) = object.goes_with() else {
            return Ok(());
        };
        match self.store.delete(&key, Precondition::Any).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The object as it is now.
    pub(crate) async fn read<K: Kind>(&self, key: &Key<K>) -> Result<K, ApiError> {
        match self.store.get(&key.path()).await? {
            (Some(found), _) => decode(&found),
            (None, _) => Err(ApiError::NotFound(key.name())),
        }
    }
}

/// The object as the store holds it, with its revision.
pub(crate) fn decode<K: Kind>(stored: &KeyValue) -> Result<K, ApiError> {
    let mut object = K::decode(stored.value.clone())
        .map_err(|cause| ApiError::internal(format!("{}: not a {}", stored.key, K::KIND), cause))?;
    object.metadata_mut().resource_version = stored.revision.0;
    Ok(object)
}

fn encode<K: Kind>(object: &K, key: &Key<K>) -> Result<Bytes, ApiError> {
    let mut stored = object.clone();
    // The store's own revision is the only one.
    stored.metadata_mut().resource_version = 0;
    let bytes = stored.encoded_len();
    if bytes > VALUE_LIMIT {
        return Err(ApiError::TooLarge {
            object: key.name(),
            bytes,
            limit: VALUE_LIMIT,
        });
    }
    Ok(stored.encode_to_vec().into())
}

fn given<K: Kind>(object: Option<K>) -> Result<K, ApiError> {
    object.ok_or_else(|| ApiError::field("the request", &field_name(K::KIND), "is missing"))
}

/// "ConfigMap" → "config_map": the request's field for the object.
fn field_name(kind: &str) -> String {
    let mut name = String::with_capacity(kind.len() + 2);
    for (at, letter) in kind.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

fn what<K: Kind>(object: &K) -> String {
    if object.namespace().is_empty() {
        format!("{} {:?}", K::KIND, object.name())
    } else {
        format!("{} \"{}/{}\"", K::KIND, object.namespace(), object.name())
    }
}

pub(crate) fn validate<K: Kind>(object: &K, mut violations: Vec<Violation>) -> Result<(), ApiError> {
    violations.extend(object.validate());
    if violations.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid {
        what: what(object),
        violations,
    })
}

/// Holds what is to become of an object to all that an update is held to; its status stays.
fn admit_change<K: Kind>(
    scope: &Scope,
    admission: &Admission,
    key: &Key<K>,
    mut next: K,
    current: &K,
) -> Result<K, ApiError> {
    next.set_defaults();
    *next.metadata_mut() = replace_metadata(&next, current)?;
    next.take_status(current);
    scope.check(&next, "update")?;
    check_writable(key, current)?;
    let mut violations = admission.complete(&mut next, Some(current));
    violations.extend(next.validate_update(current));
    validate(&next, violations)?;
    admission.check_room(key, Some(current), &next)?;
    Ok(next)
}

pub(crate) fn check_writable<K: Kind>(key: &Key<K>, current: &K) -> Result<(), ApiError> {
    match current.read_only() {
        None => Ok(()),
        Some(reason) => Err(ApiError::WrongState {
            object: key.name(),
            reason: "READ_ONLY",
            description: reason.to_owned(),
        }),
    }
}

/// What a writer may change of the metadata, on top of what it may not.
fn replace_metadata<K: Kind>(asked: &K, current: &K) -> Result<ObjectMeta, ApiError> {
    let mut meta = current.metadata().cloned().unwrap_or_default();
    let new = asked.metadata().cloned().unwrap_or_default();
    let deleting = meta.deletion_timestamp.is_some();
    if deleting && let Some(added) = new.finalizers.iter().find(|name| !meta.finalizers.contains(name)) {
        return Err(ApiError::field(
            what(current),
            "metadata.finalizers",
            format!("{added:?} cannot be added: the object is being deleted"),
        ));
    }
    meta.labels = new.labels;
    meta.annotations = new.annotations;
    meta.finalizers = new.finalizers;
    meta.owner_references = new.owner_references;
    Ok(meta)
}

/// Deletion was asked for, and nothing holds the object any more.
fn is_deletion_done<K: Kind>(object: &K) -> bool {
    object
        .metadata()
        .is_some_and(|meta| meta.deletion_timestamp.is_some() && meta.finalizers.is_empty())
        && !object.lingers()
}

#[cfg(test)]
mod tests;
