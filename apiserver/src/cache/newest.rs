//! The store's newest revision, asked for once for all who ask at the same time.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use clone8s::object::OBJECTS_PREFIX;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

use crate::{
    error::ApiError,
    store::{Revision, Store, StoreError},
};

type Answer = Shared<BoxFuture<'static, Result<Revision, Arc<StoreError>>>>;

/// Asks the store in rounds. Whoever comes while a question is on its way takes part in the next one: the answer to
/// the present one may be older than the asking.
pub(super) struct Newest {
    store: Arc<dyn Store>,
    round: Mutex<Option<Round>>,
}

struct Round {
    begun: Arc<AtomicBool>,
    answer: Answer,
}

impl std::fmt::Debug for Newest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Newest")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Newest {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            round: Mutex::new(None),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What needs no asking.
    pub(super) fn known(&self) -> Option<Revision> {
        self.store.newest_known()
    }

    /// A revision that was the newest at some moment after this call.
    pub(super) async fn get(&self) -> Result<Revision, ApiError> {
        self.join().await.map_err(|error| match &*error {
            StoreError::Unavailable(_) => ApiError::StoreUnavailable(Box::new(error)),
            _ => ApiError::internal("store", error),
        })
    }

    fn join(&self) -> Answer {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = round
            .as_ref()
            .filter(|round| !round.begun.load(Ordering::Acquire))
        {
            return waiting.answer.clone();
        }
        let next = self.after(round.take());
        round.insert(next).answer.clone()
    }

    /// Its question is asked once the round before has its answer, by whoever awaits it.
    fn after(&self, before: Option<Round>) -> Round {
        let begun = Arc::new(AtomicBool::new(false));
        let store = Arc::clone(&self.store);
        let begins = Arc::clone(&begun);
        let answer = async move {
            if let Some(before) = before {
                // Whatever it says, it is an answer to others.
                let _ = before.answer.await;
            }
            begins.store(true, Ordering::Release);
            let (_, revision) = store.get(OBJECTS_PREFIX).await.map_err(Arc::new)?;
            Ok(revision)
        };
        Round {
            begun,
            answer: answer.boxed().shared(),
        }
    }
}

#[cfg(test)]
mod tests;
