//! The calls of a store as spans, where there is a collector for them.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use clone8s_daemon::traces;
use tracing::{Instrument as _, Span};

use super::{
    Dump, KeyValue, Listing, Page, Precondition, Record, Revision, Size, Store, StoreError, Unchanged, Watch,
};

/// A store around another. The spans name keys, and never what is kept under them.
#[derive(Debug)]
pub(crate) struct Traced(Arc<dyn Store>);

/// The span in which a store is opened.
pub(crate) fn opening() -> Span {
    span("open", "")
}

/// The store itself where its opening was no span, because nothing wants any: then nothing is paid for them.
pub(crate) fn traced(store: Arc<dyn Store>, opening: &Span) -> Arc<dyn Store> {
    if opening.is_disabled() {
        return store;
    }
    Arc::new(Traced(store))
}

fn span(call: &'static str, key: &str) -> Span {
    tracing::trace_span!(
        target: traces::TARGET,
        "store",
        otel.name = format!("store {call}"),
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        store.call = call,
        store.key = key,
    )
}

/// That the store says no, as on a stale revision, is its work; that it cannot answer is an error.
async fn within<T>(span: Span, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let outcome = call.instrument(span.clone()).await;
    if let Err(StoreError::Unavailable(_) | StoreError::Broken(_)) = &outcome {
        span.record("otel.status_code", "ERROR");
    }
    outcome
}

#[async_trait]
impl Store for Traced {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        within(span("get", key), self.0.get(key)).await
    }

    async fn list(&self, prefix: &str, page: Page, at: Option<Revision>) -> Result<Listing, StoreError> {
        within(span("list", prefix), self.0.list(prefix, page, at)).await
    }

    async fn dump(&self, prefix: &str) -> Result<Dump, StoreError> {
        within(span("dump", prefix), self.0.dump(prefix)).await
    }

    async fn put_while(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        within(
            span("put", key),
            self.0.put_while(unchanged, key, value, precondition),
        )
        .await
    }

    async fn delete_while(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        within(
            span("delete", key),
            self.0.delete_while(unchanged, record, key, precondition),
        )
        .await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        within(span("watch", prefix), self.0.watch(prefix, after)).await
    }

    async fn size(&self) -> Result<Size, StoreError> {
        within(span("size", ""), self.0.size()).await
    }

    fn is_exclusive(&self) -> bool {
        self.0.is_exclusive()
    }

    fn newest_known(&self) -> Option<Revision> {
        self.0.newest_known()
    }
}
