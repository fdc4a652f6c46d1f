//! Every object in memory, and what happened to it lately: what gets, lists and watches are served from.
//!
//! ```text
//! store ──(one watch, whatever the number of clients)──► feed ──► Cache<Pod>, Cache<Node>, …
//!                                                                   │ state ──► gets, lists, the start of watches
//!                                                                   └ recent events ──► watches, each from its place
//! ```
//! An object is decoded and encoded once, when it comes in, and its bytes go as they are into every response. A read
//! is answered once the caches have come to a revision that was the store's newest after the read began, so it is as
//! current as a read of the store itself.

mod changes;
mod entry;
mod event;
mod feed;
mod newest;
mod state;

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use clone8s::{for_each_kind, object::OBJECTS_PREFIX, v1};
use tokio::{sync::watch, time::timeout};

#[cfg(test)]
pub(crate) use self::feed::WentBack;
use self::{changes::Batch, newest::Newest, state::State};
pub(crate) use self::{entry::Entry, event::ObjectEvent, feed::feed, state::Part};
use crate::{
    error::ApiError,
    kind::Kind,
    store::{Change, Revision, Store, StoreError, Watch},
};

/// How long a read waits for the caches to come to the store's revision before it asks the store itself.
const LAG: Duration = Duration::from_millis(100);

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    /// The last event that watchers may see.
    changed: watch::Sender<Revision>,
}

impl<K: Kind> Cache<K> {
    fn new() -> Self {
        Self {
            state: RwLock::new(State::empty(Revision(0))),
            changed: watch::Sender::new(Revision(0)),
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.state().get(key).cloned()
    }

    /// At most `limit` entries after a key, at a revision that [`Caches`] has given; None when it is too long ago.
    pub(crate) fn page(&self, part: &Part, after: &str, limit: usize, at: Revision) -> Option<Vec<Entry>> {
        self.state().page(part, after, limit, at)
    }

    /// The present entries that are tied to others.
    pub(crate) fn tied(&self) -> Vec<Entry> {
        self.state().tied().cloned().collect()
    }

    /// The present entries of a namespace, or with "" of all.
    pub(crate) fn all(&self, namespace: &str) -> Vec<Entry> {
        self.state()
            .entries(&within::<K>(namespace), "")
            .cloned()
            .collect()
    }

    /// How many entries a namespace has.
    pub(crate) fn count(&self, namespace: &str) -> usize {
        self.state().entries(&within::<K>(namespace), "").count()
    }

    /// Some events after one revision and up to another, in order; None when they are no longer in memory.
    pub(crate) fn events(&self, after: Revision, up_to: Revision) -> Option<Vec<Arc<ObjectEvent<K>>>> {
        self.state().events(after, up_to)
    }

    /// Whether everything that happened after a revision is in memory.
    pub(crate) fn reaches_back_to(&self, revision: Revision) -> bool {
        self.state().floor() <= revision
    }

    /// Tells of events that a watcher has not looked at yet.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    fn replace(&self, state: State<K>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn apply(&self, change: &Change) {
        self.state
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(change);
    }

    fn wake(&self) {
        let newest = self.state().newest_event();
        self.changed.send_if_modified(|seen| {
            let news = newest > *seen;
            *seen = newest.max(*seen);
            news
        });
    }
}

/// A kind that has a cache among [`Caches`].
pub(crate) trait Cached: Sized {
    fn cache(caches: &Caches) -> &Cache<Self>;
}

fn within<K: Kind>(namespace: &str) -> Part {
    Part {
        prefix: clone8s::object::store_prefix::<K>(namespace),
        node: None,
    }
}

macro_rules! caches {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        /// The caches of all kinds, which one watch of the store keeps.
        #[derive(Debug)]
        pub(crate) struct Caches {
            $($plural: Cache<v1::$kind>,)*
            newest: Newest,
            /// Every write up to here is in every cache; None until all that is stored was read.
            complete: watch::Sender<Option<Revision>>,
        }

        $(impl Cached for v1::$kind {
            fn cache(caches: &Caches) -> &Cache<Self> {
                &caches.$plural
            }
        })*

        impl Caches {
            pub(crate) fn new(store: Arc<dyn Store>) -> Self {
                Self {
                    $($plural: Cache::new(),)*
                    newest: Newest::new(store),
                    complete: watch::Sender::new(None),
                }
            }

            /// Reads all that is stored, at one revision.
            async fn load(&self, store: &dyn Store) -> Result<Revision, StoreError> {
                let mut at = None;
                $(
                    let (state, revision) = State::load(store, at).await?;
                    at = Some(revision);
                    self.$plural.replace(state);
                )*
                Ok(at.unwrap_or(Revision(0)))
            }

            fn apply(&self, change: &Change) {
                let kind = change.key.strip_prefix(OBJECTS_PREFIX).and_then(|path| path.split_once('/'));
                match kind.map_or("", |(plural, _)| plural) {
                    $(stringify!($plural) => self.$plural.apply(change),)*
                    _ => {}
                }
            }

            /// The last time that something went, or began to wait for those that name it.
            pub(crate) fn ended(&self) -> Revision {
                [$(self.$plural.state().ended()),*].into_iter().max().unwrap_or(Revision(0))
            }

            /// Some changes after one revision and up to another; None when they are no longer in memory.
            fn changes_between(&self, after: Revision, up_to: Revision) -> Option<Batch> {
                let mut batch = Batch::new(up_to);
                $(batch.take(&self.$plural.events(after, up_to)?);)*
                Some(batch)
            }

            /// Whether everything that happened after a revision is in memory.
            fn reach_back_to(&self, revision: Revision) -> bool {
                $(self.$plural.reaches_back_to(revision))&&*
            }

            fn wake(&self) {
                $(self.$plural.wake();)*
            }
        }
    };
}

for_each_kind!(caches);

impl Caches {
    /// Every write up to here is in every cache; None until all that is stored was read.
    pub(crate) fn complete(&self) -> Option<Revision> {
        *self.complete.borrow()
    }

    /// Reads all that is stored, before anything is served.
    pub(crate) async fn fill(&self, store: &dyn Store) -> Result<(), ApiError> {
        let complete = self.load(store).await?;
        self.publish(complete);
        Ok(())
    }

    /// Every change of an object after a revision, as the store's own watch would give it: from memory as far as that
    /// reaches back.
    pub(crate) fn changes(self: &Arc<Self>, after: Revision) -> Watch {
        changes::follow(Arc::clone(self), after)
    }

    /// Tells of everything that is written.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Revision>> {
        self.complete.subscribe()
    }

    /// Lets readers and watchers see what happened up to a revision.
    fn publish(&self, complete: Revision) {
        if self.complete() == Some(complete) {
            return;
        }
        self.complete.send_replace(Some(complete));
        self.wake();
    }

    /// A revision that the caches have come to and that is as current as a read of the store begun now; None when
    /// they do not come to it soon, and the store is to be asked.
    pub(crate) async fn current(&self) -> Result<Option<Revision>, ApiError> {
        if self.complete().is_none() {
            return Ok(None);
        }
        let newest = self.newest().await?;
        Ok(timeout(LAG, self.reach(newest)).await.ok())
    }

    /// The store's newest revision, as a read begun now sees it.
    pub(crate) async fn newest(&self) -> Result<Revision, ApiError> {
        match self.newest.known() {
            // The caches may be further: what the store has written need not be acknowledged to be seen.
            Some(known) => Ok(self.complete().map_or(known, |complete| complete.max(known))),
            None => self.newest.get().await,
        }
    }

    /// Waits until the caches have come to a revision, and says how far they are then.
    pub(crate) async fn reach(&self, revision: Revision) -> Revision {
        let mut complete = self.complete.subscribe();
        let reached = complete
            .wait_for(|complete| complete.is_some_and(|complete| complete >= revision))
            .await;
        // The sender is `self`.
        reached.ok().and_then(|complete| *complete).unwrap_or(revision)
    }
}

#[cfg(test)]
mod tests;
