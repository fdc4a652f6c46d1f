//! A store and a bus with faults, and outboxes that run, crash and are asked what they have told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use clone8s::{
    object::Object as _,
    v1::{ObjectMeta, Pod, PodSpec},
};
use clone8s_bus::{BusError, EVENTS_EXCHANGE, Message, Queue, Receipt, Subscription, local::LocalBus};
use prost::Message as _;
use tokio::{task::JoinSet, time::timeout};

use super::{super::*, SOON};
use crate::{
    cache,
    store::{
        Precondition, Revision,
        embedded::{EmbeddedStore, Options},
    },
};

/// A store in a folder of its own.
pub(super) struct Cluster {
    pub(super) store: Arc<dyn Store>,
    pub(super) bus: Arc<FaultyBus>,
    _dir: tempfile::TempDir,
}

/// The local bus, with everything that was confirmed written down, and with faults.
#[derive(Debug, Default)]
pub(super) struct FaultyBus {
    pub(super) bus: LocalBus,
    /// `<exchange> <routing key>`, object and revision of each confirmed message.
    pub(super) confirmed: Mutex<Vec<(String, String, i64)>>,
    /// Fails the first attempt at every second message.
    pub(super) flaky: AtomicBool,
    pub(super) tried: Mutex<BTreeSet<(String, String)>>,
    /// The nodes whose queues were asked for.
    pub(super) declared: Mutex<Vec<String>>,
    pub(super) down: AtomicBool,
    pub(super) attempts: AtomicU32,
}

#[async_trait]
impl EventBus for FaultyBus {
    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
    ) -> Result<Receipt, BusError> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        // Others get their turn, in whatever order.
        for _ in 0..attempt % 4 {
            tokio::task::yield_now().await;
        }
        let first_attempt = || {
            let message = (routing_key.to_owned(), message.message_id.clone());
            self.tried.lock().unwrap().insert(message)
        };
        let flakes = self.flaky.load(Ordering::Relaxed) && attempt.is_multiple_of(2) && first_attempt();
        let fails = self.down.load(Ordering::Relaxed) || flakes;
        if fails {
            return Err(BusError::NotConfirmed(Duration::ZERO));
        }
        let (object, revision) = message.message_id.split_once('/').unwrap();
        let line = (
            format!("{exchange} {routing_key}"),
            object.to_owned(),
            revision.rsplit('/').next().unwrap().parse().unwrap(),
        );
        let receipt = self.bus.publish(exchange, routing_key, message).await?;
        self.confirmed.lock().unwrap().push(line);
        Ok(receipt)
    }

    async fn declare_node(&self, node: &str) -> Result<(), BusError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(BusError::NotConfirmed(Duration::ZERO));
        }
        self.declared.lock().unwrap().push(node.to_owned());
        Ok(())
    }

    async fn subscribe(&self, queue: Queue, prefetch: u16) -> Result<Box<dyn Subscription>, BusError> {
        self.bus.subscribe(queue, prefetch).await
    }
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self::with(&Options {
            progress_every: Duration::from_millis(20),
            ..Options::default()
        })
    }

    pub(super) fn with(options: &Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Arc::new(EmbeddedStore::open_with(dir.path().join("store.db"), options).unwrap()),
            bus: Arc::new(FaultyBus::default()),
            _dir: dir,
        }
    }

    pub(super) fn caches(&self) -> Arc<Caches> {
        Arc::new(Caches::new(Arc::clone(&self.store)))
    }

    pub(super) fn outbox(&self, identity: &str, timing: Timing) -> Outbox {
        Outbox {
            store: Arc::clone(&self.store),
            caches: self.caches(),
            publisher: Publisher::new(
                Arc::clone(&self.bus) as Arc<dyn EventBus>,
                watch::Sender::new(true),
            ),
            identity: identity.to_owned(),
            timing,
        }
    }

    /// Runs an outbox until the set is dropped, which is its crash, or until shutdown.
    pub(super) fn start(&self, identity: &str, timing: Timing, shutdown: &Shutdown) -> JoinSet<()> {
        let outbox = self.outbox(identity, timing);
        let (caches, store) = (Arc::clone(&outbox.caches), Arc::clone(&self.store));
        let feeding = cache::feed(caches, store, shutdown.clone());
        let publishing = outbox.run(shutdown.clone());
        let mut running = JoinSet::new();
        running.spawn(async {
            let (fed, ()) = tokio::join!(feeding, publishing);
            fed.unwrap();
        });
        running
    }

    pub(super) async fn put(&self, name: &str, node: &str) -> Revision {
        let pod = Pod {
            metadata: Some(ObjectMeta {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                uid: name.to_owned(),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                node_name: node.to_owned(),
                ..PodSpec::default()
            }),
            ..Pod::default()
        };
        let value = pod.encode_to_vec().into();
        self.store
            .put(&pod.store_key(), value, Precondition::Any)
            .await
            .unwrap()
    }

    pub(super) async fn delete(&self, name: &str) -> Revision {
        let key = clone8s::object::store_key::<Pod>("default", name);
        self.store.delete(&key, Precondition::Any).await.unwrap()
    }

    pub(super) fn events(&self) -> Vec<(String, i64)> {
        let confirmed = self.bus.confirmed.lock().unwrap();
        let events = confirmed
            .iter()
            .filter(|(to, ..)| to.starts_with(EVENTS_EXCHANGE));
        events
            .map(|(_, object, revision)| (object.clone(), *revision))
            .collect()
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(SOON, waiting).await;
        assert!(
            waited.is_ok(),
            "not within {SOON:?}: {what}; told so far: {:?}",
            self.events()
        );
    }

    pub(super) async fn until_told(&self, revision: Revision) {
        let told = |cluster: &Self| cluster.events().iter().any(|(_, told)| *told == revision.0);
        self.until(&format!("revision {revision} is told"), told).await;
    }

    pub(super) async fn saved_cursor(&self) -> i64 {
        let (found, _) = self.store.get(CURSOR_KEY).await.unwrap();
        let value: serde_yaml::Value = serde_yaml::from_slice(&found.unwrap().value).unwrap();
        value["revision"].as_i64().unwrap()
    }

    pub(super) async fn leader(&self) -> Option<String> {
        let (found, _) = self.store.get(LEADER_KEY).await.unwrap();
        found.map(|found| String::from_utf8(found.value.to_vec()).unwrap())
    }

    /// The order per object, first tellings only: what a consumer that drops revisions it has seen is left with.
    pub(super) fn assert_all_told_in_order(&self, expected: &[Revision]) {
        let mut latest = HashMap::new();
        let mut told = BTreeSet::new();
        for (object, revision) in self.events() {
            if told.insert(revision) {
                let before = latest.insert(object.clone(), revision);
                assert!(
                    before.is_none_or(|before| before < revision),
                    "{object}: {revision} after {before:?}"
                );
            }
        }
        let expected: BTreeSet<_> = expected.iter().map(|revision| revision.0).collect();
        assert_eq!(told, expected);
    }
}
