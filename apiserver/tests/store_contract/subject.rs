//! A store under test, with what a test does to it from outside.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clone8s_apiserver::store::{
    Precondition, Store,
    embedded::{EmbeddedStore, Options},
};

/// A store, and a prefix for each history in it that no other test touches.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    run: String,
    prefixes: AtomicU32,
    backend: Backend,
}

enum Backend {
    Embedded { history: u32, _dir: tempfile::TempDir },
}

impl Subject {
    pub(crate) fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            history: 3_000,
            progress_every: Duration::from_millis(50),
            ..Options::default()
        };
        let store = EmbeddedStore::open_with(dir.path().join("store.db"), &options).unwrap();
        let backend = Backend::Embedded {
            history: options.history,
            _dir: dir,
        };
        Self::new(Arc::new(store), backend)
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
        }
    }
}
