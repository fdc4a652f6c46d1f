//! Applying: an object becomes what its manager says, beside what others say.

use std::sync::atomic::{AtomicBool, Ordering};

use clone8s::v1::ApplyOutcome;
use clone8s_daemon::clock;

use super::{ATTEMPTS, Key, Registry, Seen, WriteOptions, admit_change, given};
use crate::{
    access::Scope,
    admission::Admission,
    error::ApiError,
    fields::{self, Manager},
    kind::Kind,
    time::timestamp,
};

/// What becomes of fields that are another manager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflicts {
    Refuse,
    TakeOver,
}

impl Registry {
    /// Makes the object where there is none. The manager is that of the options.
    pub(crate) async fn apply<K: Kind>(
        &self,
        scope: &Scope,
        object: Option<K>,
        conflicts: Conflicts,
        options: &WriteOptions,
    ) -> Result<(K, ApplyOutcome), ApiError> {
        let Some(manager) = &options.manager else {
            return Err(ApiError::field("the request", "field_manager", "is empty"));
        };
        let mut object = given(object)?;
        object.normalize();
        let key = Key::<K>::of(&object)?;
        let seen = object.metadata().map(Seen::of).unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let changed = self
                .apply_to_present(scope, &key, &object, &seen, (manager, conflicts), options)
                .await;
            match changed {
                Err(ApiError::NotFound(_)) if seen.is_nothing() => {}
                done => return done,
            }
            match self.create(scope, Some(object.clone()), options).await {
                Err(ApiError::Exists(_)) => {}
                created => return Ok((created?, ApplyOutcome::Created)),
            }
        }
        Err(ApiError::Contended(key.name()))
    }

    async fn apply_to_present<K: Kind>(
        &self,
        scope: &Scope,
        key: &Key<K>,
        object: &K,
        seen: &Seen,
        (manager, conflicts): (&Manager, Conflicts),
        options: &WriteOptions,
    ) -> Result<(K, ApplyOutcome), ApiError> {
        let admission = Admission::of_change(self, key).await?;
        let has_changed = AtomicBool::new(false);
        let apply = |current: &K| {
            let mut applied = fields::apply(object, current, manager, timestamp(clock::now()))?;
            if conflicts == Conflicts::Refuse && !applied.conflicts.is_empty() {
                return Err(ApiError::FieldConflicts {
                    object: key.name(),
                    conflicts: applied.conflicts,
                });
            }
            applied.object.keep_what_stays(current);
            let mut next = admit_change(scope, &admission, key, applied.object, current)?;
            // Who has what is written too, but it is no news of the object.
            has_changed.store(next != *current, Ordering::Relaxed);
            next.metadata_mut().managed_fields = applied.managed_fields;
            Ok(next)
        };
        let applied = self.modify(scope, key, seen, options, apply).await?;
        let outcome = if has_changed.into_inner() {
            ApplyOutcome::Configured
        } else {
            ApplyOutcome::Unchanged
        };
        Ok((applied, outcome))
    }
}
