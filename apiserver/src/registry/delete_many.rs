//! Deletion of what selectors choose, a page at a time.

mod chosen;

use clone8s::{
    v1::{CallError, ObjectDeletion},
    wire::{DeleteManyRequest, DeleteManyResponse, ListRequest},
};
use futures::{StreamExt as _, stream};

use self::chosen::{Chosen, ChosenPage};
use super::{Commit, DeleteOptions, Key, Registry, is_deletion_done};
use crate::{access::Scope, error::ApiError, kind::Kind};

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
        let page = match &options.write.request {
            Some(id) if options.write.commit == Commit::Store => {
                self.choose_once::<K>(scope, request, id).await?
            }
            _ => self.choose::<K>(scope, request).await?,
        };
        let changed_after = request.resource_version;
        let deletions: Vec<_> = stream::iter(page.chosen)
            .map(|chosen| self.delete_chosen::<K>(scope, chosen, changed_after, options))
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

    async fn choose<K: Kind>(
        &self,
        scope: &Scope,
        request: &DeleteManyRequest,
    ) -> Result<ChosenPage, ApiError> {
        let list = ListRequest {
            namespace: request.namespace.clone(),
            label_selector: request.label_selector.clone(),
            field_selector: request.field_selector.clone(),
            page_size: request.page_size,
            page_token: request.page_token.clone(),
        };
        let page = self.list::<K>(scope, &list).await?;
        let chosen = page.items.iter().map(|entry| {
            let object: K = entry.decode()?;
            Ok(Chosen {
                namespace: object.namespace().to_owned(),
                name: object.name().to_owned(),
                uid: object.uid().to_owned(),
                resource_version: object.resource_version(),
            })
        });
        let chosen = chosen.collect::<Result<_, ApiError>>()?;
        Ok(ChosenPage::new(chosen, page.next_page_token))
    }

    /// The outer error is that of the whole call.
    async fn delete_chosen<K: Kind>(
        &self,
        scope: &Scope,
        chosen: Chosen,
        changed_after: i64,
        options: &DeleteOptions,
    ) -> Result<ObjectDeletion, ApiError> {
        let key = Key::<K>::parse(&chosen.namespace, &chosen.name)?;
        let mut options = options.clone();
        chosen.uid.clone_into(&mut options.seen.uid);
        options.write.request = options.write.request.map(|id| id.on(&chosen.uid));
        let outcome = if changed_after != 0 && chosen.resource_version > changed_after {
            Err(ApiError::Stale {
                object: key.name(),
                seen: changed_after,
            })
        } else {
            if changed_after != 0 {
                options.seen.resource_version = chosen.resource_version;
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
            namespace: chosen.namespace,
            name: chosen.name,
            uid: chosen.uid,
            gone,
            error,
        })
    }
}
