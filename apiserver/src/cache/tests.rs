use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use clone8s::{
    object::Object as _,
    v1::{ObjectMeta, Pod, WatchEventType},
    wire::WatchRequest,
};
use clone8s_daemon::Shutdown;
use futures::StreamExt as _;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Code;

use super::*;
use crate::{
    access::Scope,
    registry::{Registry, WatchEvent},
    store::{
        Dump, KeyValue, Listing, Page, Precondition, Record, Size, Unchanged, Watch,
        embedded::{EmbeddedStore, Options},
    },
};

/// A store whose watches end after so many items, and can be held back, and that may know its newest revision.
#[derive(Debug)]
pub(super) struct Breaking {
    inner: EmbeddedStore,
    _dir: tempfile::TempDir,
    items: usize,
    pub(super) watches: AtomicUsize,
    held: watch::Sender<bool>,
    /// 0 for unknown.
    known: AtomicI64,
}

impl Breaking {
    pub(super) fn new(items: usize, options: &Options) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Self {
            inner: EmbeddedStore::open_with(dir.path().join("store"), options).unwrap(),
            _dir: dir,
            items,
            watches: AtomicUsize::new(0),
            held: watch::Sender::new(false),
            known: AtomicI64::new(0),
        })
    }

    pub(super) async fn write(&self, name: &str) -> Revision {
        let pod = Pod {
            metadata: Some(ObjectMeta {
                name: name.into(),
                namespace: "default".into(),
                ..ObjectMeta::default()
            }),
            ..Pod::default()
        };
        let value = pod.encode_to_vec().into();
        self.inner
            .put(&pod.store_key(), value, Precondition::Any)
            .await
            .unwrap()
    }
}

#[async_trait]
impl Store for Breaking {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str, page: Page, at: Option<Revision>) -> Result<Listing, StoreError> {
        self.inner.list(prefix, page, at).await
    }
    async fn dump(&self, prefix: &str) -> Result<Dump, StoreError> {
        self.inner.dump(prefix).await
    }
    async fn delete_while(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.inner
            .delete_while(unchanged, record, key, precondition)
            .await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.watches.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        let ended = async move { held.wait_for(|held| *held).await.map(drop) };
        let items = self.inner.watch(prefix, after).await?.take(self.items);
        Ok(items.take_until(Box::pin(ended)).boxed())
    }
    async fn size(&self) -> Result<Size, StoreError> {
        self.inner.size().await
    }
    async fn put_while(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.inner.put_while(unchanged, key, value, precondition).await
    }
    fn newest_known(&self) -> Option<Revision> {
        let known = self.known.load(Ordering::SeqCst);
        (known > 0).then_some(Revision(known))
    }
}

/// A registry whose caches are kept.
pub(super) fn kept(store: &Arc<Breaking>) -> (Registry, JoinSet<Result<(), feed::WentBack>>) {
    let registry = Registry::new(Arc::clone(store) as Arc<dyn Store>, Shutdown::new());
    let mut running = JoinSet::new();
    running.spawn(feed(
        Arc::clone(registry.caches()),
        Arc::clone(registry.store()),
        Shutdown::new(),
    ));
    (registry, running)
}

async fn watch_pods(
    registry: &Registry,
    after: Revision,
) -> impl futures::Stream<Item = Result<WatchEvent, ApiError>> + Unpin + use<> {
    let request = WatchRequest {
        resource_version: after.0,
        ..WatchRequest::default()
    };
    let events = registry.watch::<Pod>(&Scope::Cluster, &request).await.unwrap();
    events.filter(|event| {
        let bookmark = matches!(event, Ok(event) if event.r#type() == WatchEventType::Bookmark);
        futures::future::ready(!bookmark)
    })
}

#[tokio::test]
async fn what_is_written_is_there_for_the_read_that_follows() {
    let store = Breaking::new(usize::MAX, &Options::default());
    let (registry, _running) = kept(&store);
    registry.caches().reach(Revision(0)).await;
    for at in 0..50 {
        let revision = store.write(&format!("web-{at}")).await;
        let current = registry.caches().current().await.unwrap();
        assert!(current.is_some_and(|current| current >= revision), "{current:?}");
        let key = format!("/clone8s/objects/pods/default/web-{at}");
        assert_eq!(
            Pod::cache(registry.caches()).get(&key).unwrap().revision(),
            revision
        );
    }
}

#[tokio::test]
async fn a_break_of_the_stores_watch_loses_nothing_and_repeats_nothing() {
    let store = Breaking::new(3, &Options::default());
    let (registry, _running) = kept(&store);
    let first = store.write("first").await;
    let mut events = watch_pods(&registry, first).await;
    let mut written = Vec::new();
    for at in 0..10 {
        written.push(store.write(&format!("web-{}", at % 3)).await.0);
    }
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        seen.push(events.next().await.unwrap().unwrap().resource_version);
    }
    assert_eq!(seen, written);
    assert!(store.watches.load(Ordering::SeqCst) > 2);
}

#[tokio::test]
async fn watchers_share_one_watch_of_the_store_and_the_bytes_of_an_event() {
    let store = Breaking::new(usize::MAX, &Options::default());
    let (registry, _running) = kept(&store);
    let first = store.write("first").await;
    registry.caches().reach(first).await;
    let mut watchers = Vec::new();
    for _ in 0..20 {
        watchers.push(watch_pods(&registry, first).await);
    }
    store.write("web").await;
    let mut bytes = Vec::new();
    for watcher in &mut watchers {
        let event = watcher.next().await.unwrap().unwrap();
        bytes.push(event.object.unwrap().0);
    }
    assert!(bytes.iter().all(|one| one.as_ptr() == bytes[0].as_ptr()));
    assert_eq!(store.watches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_gap_in_the_stores_history_is_told_and_then_all_goes_on() {
    let options = Options::keeping(10);
    let store = Breaking::new(usize::MAX, &options);
    let (registry, _running) = kept(&store);
    let first = store.write("first").await;
    registry.caches().reach(first).await;
    let mut events = watch_pods(&registry, first).await;

    store.held.send_replace(true);
    let mut last = first;
    for at in 0..40 {
        last = store.write(&format!("web-{at}")).await;
    }
    store.held.send_replace(false);

    let mut ended = events.next().await.unwrap();
    while ended.is_ok() {
        ended = events.next().await.unwrap();
    }
    assert_eq!(tonic::Status::from(ended.unwrap_err()).code(), Code::OutOfRange);
    assert!(registry.caches().reach(last).await >= last);
    let page = registry
        .list::<Pod>(&Scope::Cluster, &clone8s::wire::ListRequest::default())
        .await
        .unwrap();
    assert_eq!(page.items.len(), 41);
    let mut events = watch_pods(&registry, page.revision).await;
    let next = store.write("next").await;
    assert_eq!(events.next().await.unwrap().unwrap().resource_version, next.0);
}

#[tokio::test]
async fn what_the_caches_have_is_as_new_though_nobody_was_told_of_its_write() {
    let store = Breaking::new(usize::MAX, &Options::default());
    let acknowledged = store.write("a").await;
    let unanswered = store.write("b").await;
    let (registry, _running) = kept(&store);
    registry.caches().reach(unanswered).await;
    store.known.store(acknowledged.0, Ordering::SeqCst);
    // Or else nobody could watch from the revision of a list.
    assert_eq!(registry.caches().newest().await.unwrap(), unanswered);
    assert_eq!(registry.caches().current().await.unwrap(), Some(unanswered));
    let _watch = watch_pods(&registry, unanswered).await;
}
