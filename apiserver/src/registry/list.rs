//! Lists, in pages of one state: from memory, or from the store where memory does not reach back to that state.

use clone8s::wire::ListRequest;

use super::{Registry, filter::Filter, key::prefix};
use crate::{
    access::Scope,
    cache::{Entry, Part},
    error::ApiError,
    kind::Kind,
    page_token::{Position, Query},
    store::{Page, Revision},
};

const DEFAULT_PAGE: usize = 500;
const LARGEST_PAGE: usize = 1_000;

/// A page ends early when its objects take this much, so that it fits the 4 MiB that gRPC clients take by default.
const PAGE_BYTES: usize = 3 * 1024 * 1024 / 2;

/// How many entries are looked at at a time.
const CHUNK: usize = 500;
/// Selectors may pass over most of them, so a small page does not ask for as few.
const SMALLEST_CHUNK: usize = 50;

#[derive(Debug, Clone)]
pub(crate) struct ListPage {
    pub(crate) items: Vec<Entry>,
    pub(crate) next_page_token: String,
    pub(crate) revision: Revision,
}

impl ListPage {
    pub(crate) fn objects<K: Kind>(&self) -> Result<Vec<K>, ApiError> {
        self.items.iter().map(Entry::decode).collect()
    }
}

/// Some entries of one state.
struct Chunk {
    entries: Vec<Entry>,
    more: bool,
    revision: Revision,
}

impl Registry {
    pub(crate) async fn list<K: Kind>(
        &self,
        scope: &Scope,
        request: &ListRequest,
    ) -> Result<ListPage, ApiError> {
        let size = page_size(request.page_size)?;
        let prefix = prefix::<K>(&request.namespace)?;
        let query = Query {
            prefix: &prefix,
            label_selector: &request.label_selector,
            field_selector: &request.field_selector,
        };
        let filter = Filter::<K>::parse(&request.label_selector, &request.field_selector, scope)?;
        let part = filter.part(prefix.clone());
        let (mut at, mut after) = match Position::parse(&request.page_token, &query)? {
            Some(position) => (Some(position.revision), position.after),
            None => (None, String::new()),
        };
        let mut items = Vec::new();
        let mut bytes = 0;
        loop {
            let limit = (size + 1).clamp(SMALLEST_CHUNK, CHUNK);
            let chunk = self.chunk::<K>(&part, &after, limit, at).await?;
            let revision = chunk.revision;
            at = Some(revision);
            let end = !chunk.more || chunk.entries.is_empty();
            for entry in chunk.entries {
                let admitted = filter.admits(&entry)?;
                if admitted {
                    let full = items.len() == size || (bytes + entry.len() > PAGE_BYTES && bytes > 0);
                    if full {
                        return Ok(ListPage {
                            items,
                            next_page_token: Position { revision, after }.token(&query),
                            revision,
                        });
                    }
                    bytes += entry.len();
                }
                entry.key().as_ref().clone_into(&mut after);
                if admitted {
                    items.push(entry);
                }
            }
            if end {
                return Ok(ListPage {
                    items,
                    next_page_token: String::new(),
                    revision,
                });
            }
        }
    }

    /// Entries after a key, now or at a revision.
    async fn chunk<K: Kind>(
        &self,
        part: &Part,
        after: &str,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Chunk, ApiError> {
        let in_memory = match at {
            None => self.caches.current().await?,
            Some(at) => self
                .caches
                .complete()
                .filter(|complete| at <= *complete)
                .and(Some(at)),
        };
        if let Some(revision) = in_memory
            && let Some(mut entries) = K::cache(&self.caches).page(part, after, limit + 1, revision)
        {
            let more = entries.len() > limit;
            entries.truncate(limit);
            return Ok(Chunk {
                entries,
                more,
                revision,
            });
        }
        let page = Page {
            limit: Some(limit),
            after: Some(after.to_owned()).filter(|after| !after.is_empty()),
        };
        let listing = self.store.list(&part.prefix, page, at).await?;
        Ok(Chunk {
            entries: listing.items.iter().map(Entry::read::<K>).collect(),
            more: listing.more,
            revision: at.unwrap_or(listing.revision),
        })
    }
}

fn page_size(asked: i32) -> Result<usize, ApiError> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_PAGE),
        Ok(size) => Ok(size.min(LARGEST_PAGE)),
        Err(_) => Err(ApiError::field(
            "the list",
            "page_size",
            format!("is {asked}; it must be 0 or more"),
        )),
    }
}
