//! A store in memory for several apiservers, far away: what goes there and comes back takes a while or is lost. For
//! simulations, which read its log to know what is true.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::watch, time::sleep};

use super::{
    Change, Dump, KeyValue, Listing, Page, Precondition, Record, Revision, Size, Store, StoreError,
    Unchanged, Watch, WatchItem,
};

/// Of a thousand ways to the store or back, those on which something is lost.
const LOST: u32 = 30;
/// Of a thousand items of a watch, those after which it breaks.
const BROKEN: u32 = 20;

/// Of an empty store.
const FIRST: Revision = Revision(1);

/// A store that is empty at first. Clones share it.
#[derive(Clone)]
pub struct FarStore(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    newest: watch::Sender<Revision>,
    rng: Mutex<StdRng>,
    away: AtomicBool,
    calm: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    present: BTreeMap<String, KeyValue>,
    changes: Vec<Change>,
}

impl FarStore {
    /// The seed decides how long each way takes, and what is lost.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            newest: watch::Sender::new(FIRST),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            away: AtomicBool::new(false),
            calm: AtomicBool::new(false),
        }))
    }

    /// While it is away, nothing reaches it.
    pub fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }

    /// From now on nothing is lost.
    pub fn calm(&self) {
        self.0.calm.store(true, Ordering::Relaxed);
        self.set_away(false);
    }

    /// Every write after a revision, in order; after the first (0), every write.
    pub fn changes_after(&self, revision: Revision) -> Vec<Change> {
        let state = self.0.state();
        state.changes[state.first_after(revision)..].to_vec()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn happens(&self, of_a_thousand: u32) -> bool {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        !self.calm.load(Ordering::Relaxed) && rng.random_range(0..1000) < of_a_thousand
    }

    /// One way, to the store or back.
    async fn way(&self) -> Result<(), StoreError> {
        let millis = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            rng.random_range(0..15)
        };
        sleep(Duration::from_millis(millis)).await;
        if self.away.load(Ordering::Relaxed) || self.happens(LOST) {
            return Err(lost());
        }
        Ok(())
    }

    fn put(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let mut state = self.state();
        state.check_unchanged(unchanged)?;
        state.check(key, precondition)?;
        let revision = state.write(key, Some(value));
        // With the state locked, so that nobody sees a revision whose change is not there.
        self.newest.send_replace(revision);
        Ok(revision)
    }

    fn delete(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        let mut state = self.state();
        state.check_unchanged(unchanged)?;
        if let Some(record) = &record {
            state.check(&record.key, Precondition::Absent)?;
        }
        state.check(key, precondition)?;
        if !state.present.contains_key(key) {
            return Err(StoreError::NotFound { key: key.to_owned() });
        }
        let deleted = state.write(key, None);
        let newest = record.map_or(deleted, |record| state.write(&record.key, Some(record.value)));
        self.newest.send_replace(newest);
        Ok(deleted)
    }

    fn change_after(&self, prefix: &str, after: Revision) -> Option<Change> {
        let state = self.state();
        let mut later = state.changes[state.first_after(after)..].iter();
        later.find(|change| change.key.starts_with(prefix)).cloned()
    }
}

impl State {
    fn check_unchanged(&self, unchanged: &[Unchanged]) -> Result<(), StoreError> {
        unchanged
            .iter()
            .try_for_each(|other| self.check(&other.key, Precondition::Revision(other.revision)))
    }

    fn first_after(&self, revision: Revision) -> usize {
        self.changes.partition_point(|change| change.revision <= revision)
    }

    fn check(&self, key: &str, precondition: Precondition) -> Result<(), StoreError> {
        let key = key.to_owned();
        match (precondition, self.present.get(&key)) {
            (Precondition::Absent, Some(_)) => Err(StoreError::Exists { key }),
            (Precondition::Revision(_), None) => Err(StoreError::NotFound { key }),
            (Precondition::Revision(seen), Some(found)) if found.revision != seen => {
                Err(StoreError::Stale { key })
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) -> Revision {
        let newest = self.changes.last().map_or(FIRST, |change| change.revision);
        let revision = Revision(newest.0 + 1);
        let previous = self.present.remove(key);
        if let Some(value) = value.clone() {
            let written = KeyValue {
                key: key.to_owned(),
                value,
                revision,
            };
            self.present.insert(key.to_owned(), written);
        }
        self.changes.push(Change {
            key: key.to_owned(),
            value,
            previous,
            revision,
        });
        revision
    }

    fn at(&self, revision: Revision) -> BTreeMap<String, KeyValue> {
        let mut then = BTreeMap::new();
        for change in self
            .changes
            .iter()
            .take_while(|change| change.revision <= revision)
        {
            then.remove(&change.key);
            if let Some(value) = change.value.clone() {
                let key = change.key.clone();
                let written = KeyValue {
                    key: key.clone(),
                    value,
                    revision: change.revision,
                };
                then.insert(key, written);
            }
        }
        then
    }
}

impl fmt::Debug for FarStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for FarStore {
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.0.way().await?;
        let found = {
            let state = self.0.state();
            (state.present.get(key).cloned(), *self.0.newest.borrow())
        };
        self.0.way().await?;
        Ok(found)
    }

    async fn list(&self, prefix: &str, page: Page, at: Option<Revision>) -> Result<Listing, StoreError> {
        self.0.way().await?;
        let listing = {
            let state = self.0.state();
            let revision = at.unwrap_or(*self.0.newest.borrow());
            let then = state.at(revision);
            let after = page.after.unwrap_or_default();
            let mut items: Vec<_> = then
                .into_values()
                .filter(|item| item.key.starts_with(prefix) && item.key > after)
                .collect();
            let limit = page.limit.unwrap_or(usize::MAX);
            let more = items.len() > limit;
            items.truncate(limit);
            Listing {
                items,
                more,
                revision,
            }
        };
        self.0.way().await?;
        Ok(listing)
    }

    async fn dump(&self, prefix: &str) -> Result<Dump, StoreError> {
        let listing = self.list(prefix, Page::default(), None).await?;
        Ok(Dump {
            revision: listing.revision,
            parts: stream::iter([Ok(listing.items)]).boxed(),
        })
    }

    async fn put_while(
        &self,
        unchanged: &[Unchanged],
        key: &str,
        value: Bytes,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.0.way().await?;
        let written = self.0.put(unchanged, key, value, precondition);
        self.0.way().await?;
        written
    }

    async fn delete_while(
        &self,
        unchanged: &[Unchanged],
        record: Option<Record>,
        key: &str,
        precondition: Precondition,
    ) -> Result<Revision, StoreError> {
        self.0.way().await?;
        let deleted = self.0.delete(unchanged, record, key, precondition);
        self.0.way().await?;
        deleted
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.0.way().await?;
        let newest = self.0.newest.subscribe();
        let prefix = prefix.to_owned();
        let store = Arc::clone(&self.0);
        Ok(stream::try_unfold((newest, after), move |(mut newest, after)| {
            let (store, prefix) = (Arc::clone(&store), prefix.clone());
            async move {
                loop {
                    let now = *newest.borrow_and_update();
                    store.way().await?;
                    if store.happens(BROKEN) {
                        return Err(lost());
                    }
                    if let Some(change) = store.change_after(&prefix, after) {
                        let revision = change.revision;
                        return Ok(Some((WatchItem::Change(change), (newest, revision))));
                    }
                    if now > after {
                        return Ok(Some((WatchItem::Progress(now), (newest, now))));
                    }
                    newest.changed().await.map_err(|_| lost())?;
                }
            }
        })
        .boxed())
    }

    async fn size(&self) -> Result<Size, StoreError> {
        self.0.way().await?;
        Ok(Size {
            bytes: 0,
            revision: *self.0.newest.borrow(),
        })
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("lost on the way".into())
}
