//! Deletion of what selectors choose, a page at a time.

use clone8s::{
    v1::{CallError, ObjectDeletion},
    wire::{DeleteManyRequest, DeleteManyResponse, ListRequest},
};
use futures::{StreamExt as _, stream};

use super::{DeleteOptions, Key, Registry, is_deletion_done};
use crate::{access::Scope, cache::Entry, error::ApiError, kind::Kind};

/// Deletions of one call that are under way at a time: the store takes them in one commit, and others come in between.
const AT_ONCE: usize = 16;

impl Registry {
    /// Each as a deletion of its own, with these options.
    pub(crate) async fn delete_many<K: Kind>(
        &self,
        scope: &Scope,
        request: &DeleteManyRequest,
        options: &DeleteOptions,
    ) -> Result<DeleteManyResponse, ApiError> {
        let chooses = |selector: &str| !selector.trim().is_empty();
        if !request.all && !chooses(&request.label_selector) && !chooses(&request.field_selector) {
            return Err(ApiError::field(
                format!("the deletion of every {}", K::KIND),
                "all",
                "must be true where neither label_selector nor field_selector chooses",
            ));
        }
        let list = ListRequest {
            namespace: request.namespace.clone(),
            label_selector: request.label_selector.clone(),
            field_selector: request.field_selector.clone(),
            page_size: request.page_size,
            page_token: request.page_token.clone(),
        };
        let page = self.list::<K>(scope, &list).await?;
        let deletions: Vec<_> = stream::iter(page.items)
            .map(|entry| self.delete_chosen::<K>(scope, entry, options))
            .buffered(AT_ONCE)
            .collect()
            .await;
        let deletions = deletions.into_iter().collect::<Result<Vec<_>, _>>()?;
        let count = |fits: fn(&ObjectDeletion) -> bool| {
            let count = deletions.iter().filter(|deletion| fits(deletion)).count();
            i32::try_from(count).unwrap_or(i32::MAX)
        };
        Ok(DeleteManyResponse {
            deleted_count: count(|deletion| deletion.gone),
            ending_count: count(|deletion| !deletion.gone && deletion.error.is_none()),
            failed_count: count(|deletion| deletion.error.is_some()),
            deletions,
            next_page_token: page.next_page_token,
        })
    }

    /// The outer error is that of the whole call.
    async fn delete_chosen<K: Kind>(
        &self,
        scope: &Scope,
        entry: Entry,
        options: &DeleteOptions,
    ) -> Result<ObjectDeletion, ApiError> {
        let chosen: K = entry.decode()?;
        let key = Key::of(&chosen)?;
        let mut options = options.clone();
        chosen.uid().clone_into(&mut options.seen.uid);
        let seen = options.seen.resource_version;
        let outcome = if seen != 0 && chosen.resource_version() > seen {
            let object = key.name();
            Err(ApiError::Stale { object, seen })
        } else {
            if seen != 0 {
                options.seen.resource_version = chosen.resource_version();
            }
            self.delete(scope, &key, &options).await
        };
        let (gone, error) = match outcome {
            Ok(last) => (is_deletion_done(&last), None),
            // Somebody else was faster.
            Err(ApiError::NotFound(_)) => (true, None),
            Err(error) if error.reason() == super::options::UID_MISMATCH => (true, None),
            Err(error) => (false, Some(CallError::from(error))),
        };
        Ok(ObjectDeletion {
            namespace: chosen.namespace().to_owned(),
            name: chosen.name().to_owned(),
            uid: chosen.uid().to_owned(),
            gone,
            error,
        })
    }
}
