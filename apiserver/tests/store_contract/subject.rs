//! A store under test, with what a test does to it from outside.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clone8s_apiserver::store::{
    History, Precondition, Store,
    embedded::{EmbeddedStore, Options},
    etcd::{ClientIdentity, EtcdConfig, EtcdStore},
};
use clone8s_integration::{Etcd, Sandbox};
use tokio::sync::Mutex;

/// A store, and a prefix for each history in it that no other test touches.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    run: String,
    prefixes: AtomicU32,
    backend: Backend,
}

enum Backend {
    Embedded { history: u32, _dir: tempfile::TempDir },
    Etcd(Arc<Member>),
}

struct Member {
    etcd: Etcd,
    // After etcd, which writes to its folder.
    _sandbox: Sandbox,
}

async fn start_etcd() -> Arc<Member> {
    let sandbox = Sandbox::new();
    Arc::new(Member {
        etcd: Etcd::start(&sandbox).await,
        _sandbox: sandbox,
    })
}

/// The etcd that the tests of this program share while any of them runs.
async fn shared_etcd() -> Arc<Member> {
    static SHARED: Mutex<Weak<Member>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(running) = shared.upgrade() {
        return running;
    }
    let started = start_etcd().await;
    *shared = Arc::downgrade(&started);
    started
}

/// As an apiserver would reach it: verified against its root CA, with a client certificate.
pub(crate) fn config_of(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig {
        ca: Some(etcd.ca().certificate_file()),
        identity: Some(ClientIdentity {
            certificate: etcd.client_pair().certificate_file.clone(),
            key: etcd.client_pair().key_file.clone(),
        }),
        ..EtcdConfig::new([etcd.endpoint()])
    }
}

impl Subject {
    pub(crate) fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            history: History {
                changes: 3_000,
                ..History::default()
            },
            progress_every: Duration::from_millis(50),
            ..Options::default()
        };
        let store = EmbeddedStore::open_with(dir.path().join("store.db"), &options).unwrap();
        let backend = Backend::Embedded {
            history: options.history.changes,
            _dir: dir,
        };
        Self::new(Arc::new(store), backend)
    }

    pub(crate) async fn etcd() -> Self {
        Self::on(shared_etcd().await).await
    }

    pub(crate) async fn own_etcd() -> Self {
        Self::on(start_etcd().await).await
    }

    async fn on(member: Arc<Member>) -> Self {
        let store = EtcdStore::connect(&config_of(&member.etcd)).await.unwrap();
        Self::new(Arc::new(store), Backend::Etcd(member))
    }

    fn new(store: Arc<dyn Store>, backend: Backend) -> Self {
        Self {
            store,
            run: uuid::Uuid::new_v4().simple().to_string(),
            prefixes: AtomicU32::new(0),
            backend,
        }
    }

    /// A prefix under which nothing has been written yet.
    pub(crate) fn fresh_prefix(&self) -> String {
        let number = self.prefixes.fetch_add(1, Ordering::Relaxed);
        format!("/test/{}/{number}/", self.run)
    }

    /// How many random histories are worth their time here.
    pub(crate) fn cases(&self) -> u32 {
        match self.backend {
            Backend::Embedded { .. } => 64,
            Backend::Etcd(_) => 24,
        }
    }

    /// Makes the store forget the history up to now.
    pub(crate) async fn compact(&self) {
        match &self.backend {
            Backend::Embedded { history, .. } => {
                let filler = self.fresh_prefix();
                let puts = (0..=*history).map(|number| {
                    let key = format!("{filler}{}", number % 7);
                    async move { self.store.put(&key, Bytes::new(), Precondition::Any).await }
                });
                futures::future::try_join_all(puts).await.unwrap();
            }
            Backend::Etcd(member) => {
                let mut client = member.etcd.client().await.unwrap();
                let newest = client.get("/", None).await.unwrap();
                let newest = newest.header().unwrap().revision();
                client.compact(newest, None).await.unwrap();
            }
        }
    }
}
