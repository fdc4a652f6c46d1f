//! Lists, in pages of one state of the store.

use std::collections::BTreeMap;

use clone8s::selector::{FieldSelector, LabelSelector, SelectorError};

use super::{Registry, decode, key::prefix};
use crate::{
    access::Scope,
    error::ApiError,
    kind::Kind,
    page_token::{Position, Query},
    store::{Page, Revision},
};

const DEFAULT_PAGE: usize = 500;
const LARGEST_PAGE: usize = 1_000;

/// A page ends early when its objects take this much, so that it fits the 4 MiB that gRPC clients take by default.
const PAGE_BYTES: usize = 3 * 1024 * 1024 / 2;

/// How many keys the store is asked for at a time.
pub(super) const CHUNK: usize = 500;
/// Selectors may pass over most of them, so a small page does not ask for as few.
const SMALLEST_CHUNK: usize = 50;

#[derive(Debug, Clone, Default)]
pub(crate) struct ListRequest {
    /// Empty means every namespace.
    pub(crate) namespace: String,
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) page_size: i32,
    pub(crate) page_token: String,
}

#[derive(Debug, Clone)]
pub(crate) struct ListPage<K> {
    pub(crate) items: Vec<K>,
    pub(crate) next_page_token: String,
    pub(crate) revision: Revision,
}

/// Which objects a caller asked for and may see.
pub(super) struct Filter<K: Kind> {
    labels: LabelSelector,
    fields: FieldSelector<K>,
    scope: Scope,
}

impl<K: Kind> Filter<K> {
    pub(super) fn parse(label_selector: &str, field_selector: &str, scope: &Scope) -> Result<Self, ApiError> {
        let bad = |field, error: SelectorError| ApiError::field("the selection", field, error.to_string());
        Ok(Self {
            labels: LabelSelector::parse(label_selector).map_err(|error| bad("label_selector", error))?,
            fields: FieldSelector::parse(field_selector).map_err(|error| bad("field_selector", error))?,
            scope: scope.clone(),
        })
    }

    pub(super) fn admits(&self, object: &K) -> bool {
        self.scope.admits(object) && self.labels.matches(labels(object)) && self.fields.matches(object)
    }
}

fn labels<K: Kind>(object: &K) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    object.metadata().map_or(&NONE, |meta| &meta.labels)
}

impl Registry {
    pub(crate) async fn list<K: Kind>(
        &self,
        scope: &Scope,
        request: &ListRequest,
    ) -> Result<ListPage<K>, ApiError> {
        let size = page_size(request.page_size)?;
        let prefix = prefix::<K>(&request.namespace)?;
        let query = Query {
            prefix: &prefix,
            label_selector: &request.label_selector,
            field_selector: &request.field_selector,
        };
        let filter = Filter::<K>::parse(&request.label_selector, &request.field_selector, scope)?;
        let (mut at, mut after) = match Position::parse(&request.page_token, &query)? {
            Some(position) => (Some(position.revision), Some(position.after)),
            None => (None, None),
        };
        let mut items = Vec::new();
        let mut bytes = 0;
        loop {
            let page = Page {
                limit: Some((size + 1).clamp(SMALLEST_CHUNK, CHUNK)),
                after: after.clone(),
            };
            let listing = self.store.list(&prefix, page, at).await?;
            let revision = at.unwrap_or(listing.revision);
            at = Some(revision);
            for stored in &listing.items {
                let object: K = decode(stored)?;
                if filter.admits(&object) {
                    let full = items.len() == size || (bytes + stored.value.len() > PAGE_BYTES && bytes > 0);
                    if full {
                        let after = after.unwrap_or_default();
                        return Ok(ListPage {
                            items,
                            next_page_token: Position { revision, after }.token(&query),
                            revision,
                        });
                    }
                    bytes += stored.value.len();
                    items.push(object);
                }
                after = Some(stored.key.clone());
            }
            if !listing.more || listing.items.is_empty() {
                return Ok(ListPage {
                    items,
                    next_page_token: String::new(),
                    revision,
                });
            }
        }
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
