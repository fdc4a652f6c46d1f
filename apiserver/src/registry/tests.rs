//! What only a store that is meddled with can show: races, histories that were forgotten, and a store that is away.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use clone8s::{
    object::Object as _,
    rules::Rules as _,
    v1::{Container, Namespace, NamespaceStatus, Node, Pod, PodSpec, WatchEventType},
    wire::{ListRequest, WatchRequest},
};
use futures::StreamExt as _;
use prost::Message as _;
use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::namespaces;
use crate::store::{
    Dump, Listing, Page, Record, Size, Unchanged, Watch,
    embedded::{EmbeddedStore, Options},
};

/// What somebody else writes before a put of a key.
type Meddling = dyn Fn(&str) -> Option<(String, Bytes)> + Send + Sync;

/// A store in which somebody else writes just before one's own write.
struct Meddled {
    inner: EmbeddedStore,
    _dir: TempDir,
    before_put: Box<Meddling>,
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddled").finish_non_exhaustive()
    }
}

impl Meddled {
    fn with(
        options: &Options,
        before_put: impl Fn(&str) -> Option<(String, Bytes)> + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            inner: EmbeddedStore::open_with(dir.path().join("store"), options).unwrap(),
            _dir: dir,
            before_put: Box::new(before_put),
        }
    }
}

#[async_trait]
impl Store for Meddled {
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
        self.inner.watch(prefix, after).await
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
        if let Some((other, value)) = (self.before_put)(key) {
            self.inner.put(&other, value, Precondition::Any).await?;
        }
        self.inner.put_while(unchanged, key, value, precondition).await
    }
}

/// A store that cannot be reached.
#[derive(Debug)]
struct Away;

fn away<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable(
        "connection refused by 10.0.0.5:2379".into(),
    ))
}

#[async_trait]
impl Store for Away {
    async fn get(&self, _key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        away()
    }
    async fn list(&self, _prefix: &str, _page: Page, _at: Option<Revision>) -> Result<Listing, StoreError> {
        away()
    }
    async fn dump(&self, _prefix: &str) -> Result<Dump, StoreError> {
        away()
    }
    async fn delete_while(
        &self,
        _unchanged: &[Unchanged],
        _record: Option<Record>,
        _key: &str,
        _precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        away()
    }
    async fn watch(&self, _prefix: &str, _after: Revision) -> Result<Watch, StoreError> {
        away()
    }
    async fn size(&self) -> Result<Size, StoreError> {
        away()
    }
    async fn put_while(
        &self,
        _unchanged: &[Unchanged],
        _key: &str,
        _value: Bytes,
        _precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        away()
    }
}

fn pod(name: &str) -> Pod {
    Pod {
        metadata: Some(ObjectMeta {
            name: name.into(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".into(),
                image: "registry.example/app:1".into(),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}

async fn registry(store: impl Store + 'static) -> Registry {
    let registry = Registry::new(Arc::new(store), Shutdown::new());
    namespaces::ensure_own(&registry).await.unwrap();
    registry
}

fn reason(error: ApiError) -> (Code, String) {
    let status = tonic::Status::from(error);
    let details = tonic_types::StatusExt::get_error_details(&status);
    (status.code(), details.error_info().unwrap().reason.clone())
}

#[tokio::test]
async fn a_pod_created_while_its_namespace_begins_to_end_does_not_stay() {
    let terminating = Namespace {
        metadata: Some(ObjectMeta {
            name: "default".into(),
            ..ObjectMeta::default()
        }),
        status: Some(NamespaceStatus {
            phase: "Terminating".into(),
        }),
    };
    let store = Meddled::with(&Options::default(), move |key| {
        key.contains("/pods/")
            .then(|| (terminating.store_key(), terminating.encode_to_vec().into()))
    });
    let registry = registry(store).await;
    let error = registry
        .create(&Scope::Cluster, Some(pod("web")), &WriteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        reason(error),
        (Code::FailedPrecondition, "NAMESPACE_TERMINATING".into())
    );
    let key = Key::<Pod>::parse("default", "web").unwrap();
    assert!(matches!(registry.read(&key).await, Err(ApiError::NotFound(_))));
}

#[tokio::test]
async fn memory_that_is_behind_decides_nothing_but_what_the_store_takes() {
    let registry = registry(Meddled::with(&Options::default(), |_| None)).await;
    let labelled = |stored: &Pod, version: &str| {
        let mut pod = stored.clone();
        pod.metadata_mut().labels.insert("version".into(), version.into());
        pod
    };
    let update = async |pod: Pod| {
        registry
            .update(&Scope::Cluster, Some(pod), None, &WriteOptions::default())
            .await
    };
    let anywhere = |mut pod: Pod| {
        pod.metadata_mut().resource_version = 0;
        pod
    };
    let created = registry
        .create(&Scope::Cluster, Some(pod("web")), &WriteOptions::default())
        .await
        .unwrap();
    // Nothing keeps the memory: it stays at this.
    registry.caches().fill(registry.store().as_ref()).await.unwrap();
    let first = update(labelled(&created, "1")).await.unwrap();
    let second = update(labelled(&first, "2")).await.unwrap();
    assert!(second.resource_version() > first.resource_version());

    let same = update(anywhere(second.clone())).await.unwrap();
    assert_eq!(same.resource_version(), second.resource_version());
    let error = update(labelled(&created, "3")).await.unwrap_err();
    assert_eq!(reason(error), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
    // What memory has already is not what there is.
    let back = update(anywhere(created.clone())).await.unwrap();
    assert!(back.resource_version() > second.resource_version());

    let key = Key::<Pod>::parse("default", "web").unwrap();
    registry
        .delete(&Scope::Cluster, &key, &DeleteOptions::default())
        .await
        .unwrap();
    let error = update(anywhere(created)).await.unwrap_err();
    assert_eq!(reason(error).0, Code::NotFound);
}

/// Somebody who writes the pod anew before each of the first `times` puts of it after its creation.
fn overtaken(times: usize) -> Meddled {
    let puts = AtomicUsize::new(0);
    Meddled::with(&Options::default(), move |key| {
        if !key.contains("/pods/") {
            return None;
        }
        let put = puts.fetch_add(1, Ordering::Relaxed);
        let mut theirs = pod("web");
        theirs.set_defaults();
        let meta = theirs.metadata_mut();
        meta.namespace = "default".into();
        meta.labels.insert("put".into(), put.to_string());
        (1..=times)
            .contains(&put)
            .then(|| (theirs.store_key(), theirs.encode_to_vec().into()))
    })
}

fn annotated() -> Pod {
    let mut pod = pod("web");
    pod.metadata_mut()
        .annotations
        .insert("note".into(), "mine".into());
    pod
}

#[tokio::test]
async fn a_write_to_any_revision_is_made_again_on_what_overtook_it() {
    let registry = registry(overtaken(3)).await;
    registry
        .create(&Scope::Cluster, Some(pod("web")), &WriteOptions::default())
        .await
        .unwrap();
    let key = Key::<Pod>::parse("", "web").unwrap();
    let bound = registry
        .modify(
            &Scope::Cluster,
            &key,
            &Seen::default(),
            &WriteOptions::default(),
            |current: &Pod| {
                let mut next = current.clone();
                next.metadata_mut()
                    .annotations
                    .insert("note".into(), "mine".into());
                Ok(next)
            },
        )
        .await
        .unwrap();
    let meta = bound.metadata().unwrap();
    assert_eq!(meta.annotations["note"], "mine");
    assert_eq!(meta.labels["put"], "3", "the last writer's change is kept");
}

#[tokio::test]
async fn a_write_that_is_overtaken_again_and_again_gives_up() {
    let registry = registry(overtaken(usize::MAX - 1)).await;
    registry
        .create(&Scope::Cluster, Some(pod("web")), &WriteOptions::default())
        .await
        .unwrap();
    let error = registry
        .update(&Scope::Cluster, Some(annotated()), None, &WriteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(reason(error), (Code::Aborted, "CONTENDED".into()));
}

#[tokio::test]
async fn a_write_to_a_revision_is_not_made_on_another() {
    let registry = registry(overtaken(1)).await;
    let created = registry
        .create(&Scope::Cluster, Some(pod("web")), &WriteOptions::default())
        .await
        .unwrap();
    let mut mine = annotated();
    mine.metadata_mut().resource_version = created.resource_version();
    let error = registry
        .update(&Scope::Cluster, Some(mine), None, &WriteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(reason(error), (Code::Aborted, "STALE_RESOURCE_VERSION".into()));
}

#[tokio::test]
async fn what_the_store_has_forgotten_is_out_of_range() {
    let options = Options::keeping(10);
    let registry = registry(Meddled::with(&options, |_| None)).await;
    let first = registry
        .create(&Scope::Cluster, Some(pod("web-0")), &WriteOptions::default())
        .await
        .unwrap();
    let page = registry
        .list::<Pod>(&Scope::Cluster, &ListRequest::default())
        .await
        .unwrap();
    for at in 1..40 {
        registry
            .create(
                &Scope::Cluster,
                Some(pod(&format!("web-{at}"))),
                &WriteOptions::default(),
            )
            .await
            .unwrap();
    }
    let _running = kept(&registry);
    let request = WatchRequest {
        resource_version: first.resource_version(),
        ..WatchRequest::default()
    };
    let error = match registry.watch::<Pod>(&Scope::Cluster, &request).await {
        Ok(mut events) => events.next().await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(reason(error), (Code::OutOfRange, "REVISION_COMPACTED".into()));

    let query = crate::page_token::Query {
        prefix: "/clone8s/objects/pods/",
        label_selector: "",
        field_selector: "",
    };
    let old = crate::page_token::Position {
        revision: page.revision,
        after: "/clone8s/objects/pods/default/web-0".into(),
    };
    let request = ListRequest {
        page_token: old.token(&query),
        ..ListRequest::default()
    };
    let error = registry.list::<Pod>(&Scope::Cluster, &request).await.unwrap_err();
    assert_eq!(reason(error), (Code::OutOfRange, "REVISION_COMPACTED".into()));
}

#[tokio::test]
async fn a_store_that_is_away_is_unavailable_with_a_time_to_try_again() {
    let registry = Registry::new(Arc::new(Away), Shutdown::new());
    let key = Key::<Pod>::parse("", "web").unwrap();
    let error = registry.get(&Scope::Cluster, &key).await.unwrap_err();
    let status = tonic::Status::from(error);
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!status.message().contains("10.0.0.5"), "{}", status.message());
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert!(details.retry_info().unwrap().retry_delay.is_some());
}

#[tokio::test]
async fn a_node_that_a_kubelet_wrote_to_the_store_is_listed_like_any_other() {
    let registry = registry(Meddled::with(&Options::default(), |_| None)).await;
    let mut node = Node::default();
    node.metadata_mut().name = "alone".into();
    let revision = registry
        .store
        .put(&node.store_key(), node.encode_to_vec().into(), Precondition::Any)
        .await
        .unwrap();
    let page = registry
        .list::<Node>(&Scope::Cluster, &ListRequest::default())
        .await
        .unwrap();
    let listed: Vec<Node> = page.objects().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name(), "alone");
    assert_eq!(listed[0].resource_version(), revision.0);
}

#[tokio::test]
async fn data_that_is_not_an_object_is_an_internal_error_without_its_content() {
    let registry = registry(Meddled::with(&Options::default(), |_| None)).await;
    let key = Key::<Pod>::parse("", "web").unwrap();
    registry
        .store
        .put(
            &key.path(),
            Bytes::from_static(b"\xff\xffsecret"),
            Precondition::Any,
        )
        .await
        .unwrap();
    let error = registry.get(&Scope::Cluster, &key).await.unwrap_err();
    let status = tonic::Status::from(error);
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(
        status.message(),
        "internal error; the apiserver's log has the details"
    );
}

#[tokio::test]
async fn a_watch_of_which_nothing_matches_is_told_how_far_it_is() {
    let mut registry = registry(Meddled::with(&Options::default(), |_| None)).await;
    registry.bookmark_interval = Duration::from_millis(20);
    let _running = kept(&registry);
    let request = WatchRequest {
        field_selector: "spec.nodeName=n1".into(),
        ..WatchRequest::default()
    };
    let mut events = registry.watch::<Pod>(&Scope::Cluster, &request).await.unwrap();
    let created = registry
        .create(&Scope::Cluster, Some(pod("web")), &WriteOptions::default())
        .await
        .unwrap();
    loop {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.r#type(), WatchEventType::Bookmark);
        if event.resource_version == created.resource_version() {
            break;
        }
    }
}

/// While it lives, the registry's caches are kept.
fn kept(registry: &Registry) -> tokio::task::JoinSet<Result<(), crate::cache::WentBack>> {
    let mut running = tokio::task::JoinSet::new();
    running.spawn(crate::cache::feed(
        Arc::clone(registry.caches()),
        Arc::clone(registry.store()),
        Shutdown::new(),
    ));
    running
}

#[test]
fn a_generation_counts_content_alone() {
    let mut one = pod("web");
    let other = Pod {
        metadata: None,
        ..one.clone()
    };
    one.start_status();
    assert_eq!(one.content(), other.content());
    one.spec.as_mut().unwrap().host_network = true;
    assert_ne!(one.content(), other.content());
}
