//! Creation: named, admitted, and written where nothing has the name.

use clone8s_daemon::clock;

use super::{ATTEMPTS, Commit, Key, Registry, RequestId, WriteOptions, encode, given, name, validate, what};
use crate::{
    access::Scope,
    admission::Admission,
    error::ApiError,
    fields,
    kind::Kind,
    namespaces,
    store::{Precondition, StoreError},
    time::timestamp,
};

impl Registry {
    pub(crate) async fn create<K: Kind>(
        &self,
        scope: &Scope,
        object: Option<K>,
        options: &WriteOptions,
    ) -> Result<K, ApiError> {
        let object = given(object)?;
        let Some(base) = name::base(&object) else {
            return self.create_named(scope, object, options).await;
        };
        let mut attempts = 1;
        loop {
            let named = match &options.request {
                // The same name again for the same request.
                Some(request) => name::derived(&object, &base, request.id(), attempts),
                None => name::generated(&object, &base),
            };
            match self.create_named(scope, named, options).await {
                Err(ApiError::Exists(_)) if attempts < ATTEMPTS => attempts += 1,
                created => return created,
            }
        }
    }

    async fn create_named<K: Kind>(
        &self,
        scope: &Scope,
        mut object: K,
        options: &WriteOptions,
    ) -> Result<K, ApiError> {
        let asked_for = object.resource_version();
        if asked_for != 0 {
            return Err(ApiError::field(
                what(&object),
                "metadata.resourceVersion",
                format!("is {asked_for}; an object that is to be created has none"),
            ));
        }
        let managed_fields = match &options.manager {
            Some(manager) => fields::managed_at_creation(&object, manager, timestamp(clock::now()))?,
            None => Vec::new(),
        };
        object.set_defaults();
        let key = Key::<K>::of(&object)?;
        let meta = object.metadata_mut();
        key.namespace().clone_into(&mut meta.namespace);
        meta.uid = uuid::Uuid::new_v4().to_string();
        meta.generation = 1;
        meta.creation_timestamp = Some(timestamp(clock::now()));
        meta.deletion_timestamp = None;
        meta.deletion_grace_period_seconds = None;
        meta.managed_fields = managed_fields;
        meta.handled_requests.clear();
        object.start_status();
        scope.check_create(&object)?;
        if let Some(request) = &options.request {
            // First of all: what it has made may be what leaves no room for another.
            if let Some(made) = self.made_by(request, scope, &key).await? {
                return Ok(made);
            }
            request.record(&mut object);
        }
        let mut namespace = namespaces::open(self, &key).await?;
        let admission = Admission::of_new(self, &key).await?;
        let mut violations = admission.complete(&mut object, None);
        violations.extend(object.validate_new());
        validate(&object, violations)?;
        admission.check_room(&key, None, &object)?;
        let value = encode(&object, &key)?;
        if options.commit == Commit::ValidateOnly {
            return match self.store.get(&key.path()).await? {
                (Some(_), _) => Err(ApiError::Exists(key.name())),
                (None, _) => Ok(object),
            };
        }
        let mut attempts = 1;
        let revision = loop {
            // While its namespace stays what it is: one that begins to end is emptied of all that was written before.
            let written = self
                .store
                .put_while(
                    namespace.as_slice(),
                    &key.path(),
                    value.clone(),
                    Precondition::Absent,
                )
                .await;
            match written {
                Ok(revision) => break revision,
                Err(StoreError::Exists { .. }) => {
                    // The same request may have come twice at once.
                    let made = match &options.request {
                        Some(request) => self.made_by(request, scope, &key).await?,
                        None => None,
                    };
                    return made.ok_or_else(|| ApiError::Exists(key.name()));
                }
                // The namespace is not what it was.
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) if attempts < ATTEMPTS => {
                    attempts += 1;
                    namespace = namespaces::open_in_store(self, &key).await?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        // Another apiserver may have filled the quota between the count and the write: then the object goes again.
        if let Err(full) = admission.check_room_again(self, &key, &object).await {
            return match self
                .store
                .delete(&key.path(), Precondition::Revision(revision))
                .await
            {
                Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Stale { .. }) => Err(full),
                Err(error) => Err(error.into()),
            };
        }
        object.metadata_mut().resource_version = revision.0;
        self.settle::<K>(revision).await;
        Ok(object)
    }

    /// The object, if there is one and this request has made it.
    async fn made_by<K: Kind>(
        &self,
        request: &RequestId,
        scope: &Scope,
        key: &Key<K>,
    ) -> Result<Option<K>, ApiError> {
        let found = match self.read(key).await {
            Ok(found) => found,
            Err(ApiError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        scope.check(&found, "create")?;
        Ok(request.is_done(&found)?.then_some(found))
    }
}
