//! A bus that takes its time, fails now and then, and now and then has taken what it did not confirm.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clone8s_bus::{BusError, EventBus, Message, Queue, Receipt, Subscription};
use clone8s_integration::robustness::history::{Change, Kind, Verb};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;

/// What it says to have waited for a confirm.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clones share it.
#[derive(Debug, Clone)]
pub(super) struct FlakyBus(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    rng: StdRng,
    calm: bool,
    told: Vec<Change>,
}

impl FlakyBus {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            rng: StdRng::seed_from_u64(seed),
            calm: false,
            told: Vec::new(),
        })))
    }

    /// From now on nothing fails.
    pub(super) fn calm(&self) {
        self.with(|inner| inner.calm = true);
    }

    /// What it has taken of a run's objects.
    pub(super) fn told(&self) -> Vec<Change> {
        self.with(|inner| inner.told.clone())
    }

    pub(super) fn has_told(&self, order: &[Change]) -> bool {
        let told: BTreeSet<_> = self.told().iter().map(|change| change.revision).collect();
        order.iter().all(|change| told.contains(&change.revision))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl EventBus for FlakyBus {
    async fn publish(&self, _: &str, _: &str, message: Message) -> Result<Receipt, BusError> {
        let (delay, fate) =
            self.with(|inner| (inner.rng.random_range(0..10), inner.rng.random_range(0..100)));
        sleep(Duration::from_millis(delay)).await;
        let calm = self.with(|inner| inner.calm);
        if fate < 5 && !calm {
            return Err(BusError::NotConfirmed(PATIENCE));
        }
        if let Some(change) = change(&message) {
            self.with(|inner| inner.told.push(change));
        }
        if fate > 95 && !calm {
            return Err(BusError::NotConfirmed(PATIENCE));
        }
        Ok(Receipt::Taken)
    }

    async fn declare_node(&self, _: &str) -> Result<(), BusError> {
        Ok(())
    }

    async fn subscribe(&self, queue: Queue, _: u16) -> Result<Box<dyn Subscription>, BusError> {
        Err(BusError::Refused(format!("nobody listens to {queue} here")))
    }
}

/// None for what is not about an object of a run.
fn change(message: &Message) -> Option<Change> {
    let (name, version) = Kind::of_message(&message.kind)?.decode(&message.body).ok()?;
    Kind::of(&name)?;
    Some(Change {
        revision: message.headers.get("revision")?.parse().ok()?,
        verb: match message.headers.get("verb")?.as_str() {
            "added" => Verb::Added,
            "modified" => Verb::Modified,
            _ => Verb::Deleted,
        },
        state: version.state,
        name,
    })
}
