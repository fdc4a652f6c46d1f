//! The store's own log, read while it is written: a compaction takes it away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clone8s_daemon::etcd::value;
use etcd_client::{Client, ConnectOptions, Event, EventType, WatchOptions};
use tokio::time::{sleep, timeout};

use super::history::{Change, Revision, Verb};
use crate::wait;

/// Read by whoever takes over the outbox: what comes after its revision has to be there.
const CURSOR: &str = "/clone8s/system/outbox/cursor";

/// The store's revisions for each of etcd's: a transaction's puts have one each, and the last one's is the transaction's.
const STEP: i64 = value::MOST_PUTS as i64;

/// An etcd that does not answer for so long is one of the members that are cut off or paused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that the store has taken of a run, so far.
#[derive(Debug, Clone)]
pub(super) struct Log {
    endpoints: Vec<String>,
    read: Arc<Mutex<Read>>,
}

#[derive(Debug)]
struct Read {
    changes: BTreeMap<Revision, Change>,
    /// The newest revision of etcd's of which something has come; what belongs to it may come still.
    position: i64,
    /// The outbox's, as it last saved it.
    cursor: Revision,
    /// The highest revision that etcd was asked to forget.
    compacted: Revision,
    /// What cannot be read, or was gone before it was.
    failures: Vec<String>,
}

impl Log {
    pub(super) fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            read: Arc::new(Mutex::new(Read {
                changes: BTreeMap::new(),
                position: 1,
                cursor: 0,
                compacted: 0,
                failures: Vec::new(),
            })),
        }
    }

    /// Reads for ever.
    pub(super) async fn follow(self) {
        loop {
            // With members that come and go, a connection's error says nothing.
            let _ = self.read_on().await;
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn read_on(&self) -> anyhow::Result<()> {
        let client = self.client().await?;
        let options = WatchOptions::new()
            .with_range("\0")
            .with_start_revision(self.with(|read| read.position))
            .with_prev_key()
            .with_fragment();
        let mut watch = client.watch_client().max_decoding_message_size(usize::MAX);
        let mut stream = timeout(PATIENCE, watch.watch("\0", Some(options))).await??;
        loop {
            let response = stream.message().await?.context("etcd ends the watch")?;
            if response.canceled() {
                let lost = format!("the log is gone up to {}", response.compact_revision());
                self.with(|read| read.failures.push(lost));
            }
            ensure!(!response.canceled(), "etcd cancels the watch");
            for event in response.events() {
                self.with(|read| read.take(event))?;
            }
        }
    }

    /// Compacts etcd up to before what was read last, as far as the outbox has come.
    pub(super) async fn compact(&self) {
        let up_to = self.with(|read| {
            let up_to = (read.cursor / STEP).min(read.position - 1);
            read.compacted = read.compacted.max(up_to * STEP);
            up_to
        });
        // It is asked for while members are down: then this one fails, and another follows.
        let compact = async {
            let client = self.client().await?;
            client.kv_client().compact(up_to, None).await?;
            anyhow::Ok(())
        };
        let done = timeout(PATIENCE, compact).await.is_ok_and(|done| done.is_ok());
        eprintln!(
            "compaction up to {up_to}: {}",
            if done { "done" } else { "not done" }
        );
    }

    /// The highest revision that may have been forgotten on this run's own request.
    pub(super) fn compacted(&self) -> Revision {
        self.with(|read| read.compacted)
    }

    /// Everything that the store took until now, in its order, and what went wrong with reading it.
    pub(super) async fn whole(&self) -> anyhow::Result<(Vec<Change>, Vec<String>)> {
        const END: &str = "/robustness/end";
        let newest = wait::until("etcd takes a last write", || async {
            // A member that was away may still be on its way back.
            let client = self.client().await?;
            let written = client.kv_client().put(END, "", None).await?;
            Ok(written.header().context("a header")?.revision())
        })
        .await;
        wait::until("the log is read to its end", || async {
            let position = self.with(|read| read.position);
            ensure!(position >= newest, "it is read up to {position} of {newest}");
            Ok(())
        })
        .await;
        Ok(self.with(|read| (read.changes.values().cloned().collect(), read.failures.clone())))
    }

    async fn client(&self) -> anyhow::Result<Client> {
        let options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_keep_alive(Duration::from_secs(1), Duration::from_secs(1))
            .with_keep_alive_while_idle(true);
        Ok(timeout(PATIENCE, Client::connect(&self.endpoints, Some(options))).await??)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Read) -> T) -> T {
        act(&mut self.read.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Read {
    fn take(&mut self, event: &Event) -> anyhow::Result<()> {
        let kv = event.kv().context("an event without a key")?;
        let key = kv.key_str()?;
        let (value, distance) = value::read(kv.value());
        let revision = kv.mod_revision() * STEP - i64::from(distance);
        self.position = self.position.max(kv.mod_revision());
        if key == CURSOR {
            self.cursor = cursor(value)?;
        }
        let (verb, value) = match event.event_type() {
            EventType::Put if kv.version() == 1 => (Verb::Added, value),
            EventType::Put => (Verb::Modified, value),
            EventType::Delete => {
                let before = event.prev_kv().map(etcd_client::KeyValue::value);
                (Verb::Deleted, value::read(before.unwrap_or_default()).0)
            }
        };
        match Change::of(key, revision, verb, value) {
            Ok(Some(change)) => drop(self.changes.insert(revision, change)),
            Ok(None) => {}
            Err(error) => self.failures.push(format!("{key} at {revision}: {error}")),
        }
        Ok(())
    }
}

/// The revision of the outbox's cursor in its stored form.
fn cursor(stored: &[u8]) -> anyhow::Result<Revision> {
    let fields: BTreeMap<String, Revision> = serde_yaml::from_slice(stored)?;
    fields
        .get("revision")
        .copied()
        .context("a cursor without a revision")
}
