//! The changes that are on their way to the bus, and up to where all are confirmed.
//!
//! ```text
//! taken, in order ──► (behind a change of the same object) ──► on its way ──► confirmed
//!                                                                                │
//!                   the cursor follows ◄──(every change before it is confirmed)──┘
//! ```
//! A change waits for the confirm of the one before it of the same object: on a connection that breaks in between, a
//! later message could otherwise arrive and an earlier one be repeated behind it. Changes of different objects do not wait
//! for each other.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::publish::{Publisher, Routed};
use crate::store::Revision;

/// Changes that are not confirmed, or wait for an earlier one to be: so many are published again after a crash, and a
/// follower of the store that has so many reads on only when the bus has taken the oldest.
const SIZE: usize = 256;

/// Counts what was taken, from 0.
type Place = u64;

pub(super) struct Window<'p> {
    publisher: &'p Publisher,
    on_their_way: FuturesUnordered<BoxFuture<'p, (Place, String)>>,
    /// Of each object with a change that is on its way, the changes behind it.
    behind: HashMap<String, VecDeque<(Place, Routed)>>,
    /// What the cursor has not passed yet, in the order in which it was taken.
    taken: VecDeque<Taken>,
    /// The place of the first of `taken`.
    first: Place,
    cursor: Revision,
    told: Revision,
}

struct Taken {
    revision: Revision,
    confirmed: bool,
    is_change: bool,
}

impl<'p> Window<'p> {
    /// Everything up to `cursor` is confirmed.
    pub(super) fn new(publisher: &'p Publisher, cursor: Revision) -> Self {
        Self {
            publisher,
            on_their_way: FuturesUnordered::new(),
            behind: HashMap::new(),
            taken: VecDeque::new(),
            first: 0,
            cursor,
            told: cursor,
        }
    }

    /// Everything up to here is confirmed.
    pub(super) fn cursor(&self) -> Revision {
        self.cursor
    }

    /// The last change up to the cursor.
    pub(super) fn told(&self) -> Revision {
        self.told
    }

    pub(super) fn has_room(&self) -> bool {
        self.taken.len() < SIZE
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Takes what comes next in the store's log, which has brought it to `revision`: a change, or nothing to tell.
    pub(super) fn take(&mut self, revision: Revision, change: Option<Routed>) {
        let place = self.first + self.taken.len() as Place;
        self.taken.push_back(Taken {
            revision,
            confirmed: change.is_none(),
            is_change: change.is_some(),
        });
        let Some(change) = change else {
            self.pass();
            return;
        };
        match self.behind.entry(change.key.clone()) {
            Entry::Occupied(mut behind) => behind.get_mut().push_back((place, change)),
            Entry::Vacant(none) => {
                none.insert(VecDeque::new());
                self.send(place, change);
            }
        }
    }

    /// Waits for the next confirm; returns at once when there is none to wait for. May be cancelled without losing one.
    pub(super) async fn confirm(&mut self) {
        let Some((place, object)) = self.on_their_way.next().await else {
            return;
        };
        let index = usize::try_from(place - self.first).ok();
        if let Some(taken) = index.and_then(|index| self.taken.get_mut(index)) {
            taken.confirmed = true;
        }
        match self.behind.get_mut(&object).and_then(VecDeque::pop_front) {
            Some((place, change)) => self.send(place, change),
            None => drop(self.behind.remove(&object)),
        }
        self.pass();
    }

    /// Waits until all is confirmed.
    pub(super) async fn confirm_all(&mut self) {
        while !self.is_empty() {
            self.confirm().await;
        }
    }

    fn send(&self, place: Place, change: Routed) {
        let publisher = self.publisher;
        let publishing = async move {
            publisher.tell(&change).await;
            (place, change.key)
        };
        self.on_their_way.push(publishing.boxed());
    }

    /// Moves the cursor over what is confirmed.
    fn pass(&mut self) {
        while self.taken.front().is_some_and(|first| first.confirmed)
            && let Some(passed) = self.taken.pop_front()
        {
            self.first += 1;
            self.cursor = self.cursor.max(passed.revision);
            if passed.is_change {
                self.told = self.cursor;
            }
        }
    }
}

#[cfg(test)]
mod tests;
