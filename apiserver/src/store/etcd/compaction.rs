//! Keeps etcd's history within its bounds.
//!
//! Every apiserver does so for itself: to forget what another has forgotten already costs a call. None of them knows
//! when a revision was written that it has not seen as the newest, so after a start the bound by age takes one such
//! age to have an effect; the bound by number holds at once.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use clone8s_daemon::{Shutdown, supervisor::chain};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{EtcdStore, History, Revision, Store as _, StoreError, base::STEP};

/// Looks at the store for each age: the history is older than its bound by this part of it at most.
const LOOKS: u32 = 60;
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_mins(1);

/// Compacts until shutdown. A store that is not there is asked again at the next look.
pub(crate) async fn keep(store: EtcdStore, history: History, shutdown: Shutdown) -> Result<(), Infallible> {
    let mut looks = Looks::default();
    let mut ticks = interval((history.age / LOOKS).clamp(LOOK_AT_MOST_EVERY, LOOK_AT_LEAST_EVERY));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let looked = async {
            ticks.tick().await;
            look(&store, history, &mut looks).await
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            looked = looked => if let Err(error) = looked {
                tracing::warn!(error = chain(&error), "etcd's history is not compacted");
            }
        }
    }
}

async fn look(store: &EtcdStore, history: History, looks: &mut Looks) -> Result<(), StoreError> {
    let now = Instant::now();
    looks.note(now, store.size().await?.revision, store.groups.beside());
    if let Some(revision) = looks.outdated(now, history) {
        store.compact(revision).await?;
        looks.forgotten = revision;
    }
    Ok(())
}

/// The store at each look that is not too old to tell anything.
#[derive(Debug)]
struct Looks {
    seen: VecDeque<Seen>,
    /// Compacted up to here.
    forgotten: Revision,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    newest: Revision,
    /// So many changes were made until then: one for each transaction, and those that this apiserver made beside another.
    changes: i64,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            seen: VecDeque::new(),
            forgotten: Revision(0),
        }
    }
}

impl Looks {
    fn note(&mut self, at: Instant, newest: Revision, beside: i64) {
        if self.seen.back().is_some_and(|before| newest < before.newest) {
            // A store that went back is another one.
            *self = Self::default();
        }
        self.seen.push_back(Seen {
            at,
            newest,
            changes: newest.0 / STEP + beside,
        });
    }

    /// The revision up to which nothing has to be kept any more, where that is news.
    fn outdated(&mut self, now: Instant, history: History) -> Option<Revision> {
        let mut forget = self.so_many_ago(history.changes)?;
        while let Some(&Seen { at, newest, .. }) = self.seen.front() {
            if now.duration_since(at) < history.age {
                break;
            }
            forget = forget.max(newest);
            self.seen.pop_front();
        }
        (forget > self.forgotten).then_some(forget)
    }

    /// The newest revision so many changes ago, as if they had come evenly between two looks.
    fn so_many_ago(&self, changes: u32) -> Option<Revision> {
        let mut later = self.seen.back()?;
        let mut left = i64::from(changes);
        for earlier in self.seen.iter().rev().skip(1) {
            let between = later.changes - earlier.changes;
            if between >= left {
                let revisions = later.newest.0 - earlier.newest.0;
                let back = i128::from(revisions) * i128::from(left) / i128::from(between.max(1));
                return Some(Revision(
                    later.newest.0 - i64::try_from(back).unwrap_or(revisions),
                ));
            }
            left -= between;
            later = earlier;
        }
        Some(Revision(later.newest.0 - left * STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: History = History {
        changes: 100,
        age: Duration::from_mins(10),
    };

    /// What is forgotten at each of some looks, by the minute; the revisions are etcd's.
    fn forgotten(looks: &[(u64, i64)]) -> Vec<Option<i64>> {
        let looks: Vec<_> = looks
            .iter()
            .map(|&(minute, newest)| (minute, newest, 0))
            .collect();
        forgotten_of_groups(&looks)
    }

    /// The same with changes that were made beside others.
    fn forgotten_of_groups(looks: &[(u64, i64, i64)]) -> Vec<Option<i64>> {
        let start = Instant::now();
        let mut all = Looks::default();
        looks
            .iter()
            .map(|&(minute, newest, beside)| {
                let now = start + Duration::from_mins(minute);
                all.note(now, Revision(newest * STEP), beside);
                let forget = all.outdated(now, HISTORY)?;
                all.forgotten = forget;
                Some(forget.0 / STEP)
            })
            .collect()
    }

    #[test]
    fn what_was_the_newest_an_age_ago_is_forgotten() {
        assert_eq!(
            forgotten(&[(0, 50), (5, 60), (10, 70), (14, 80), (15, 80), (16, 80)]),
            [None, None, Some(50), None, Some(60), None]
        );
    }

    #[test]
    fn more_changes_than_the_bound_are_forgotten_at_once() {
        assert_eq!(
            forgotten(&[(0, 100), (1, 101), (2, 1_000), (3, 1_000), (12, 1_000)]),
            [None, Some(1), Some(900), None, Some(1_000)]
        );
    }

    #[test]
    fn changes_that_went_together_count_each() {
        // 40 changes in 10 transactions, 90 in 10, and 200 in 20.
        assert_eq!(
            forgotten_of_groups(&[(0, 100, 0), (1, 110, 30), (2, 120, 110), (3, 140, 290)]),
            [None, Some(40), Some(107), Some(130)]
        );
    }

    #[test]
    fn a_store_that_went_back_is_looked_at_anew() {
        assert_eq!(
            forgotten(&[(0, 1_000), (20, 30), (29, 40), (30, 40)]),
            [Some(900), None, None, Some(30)]
        );
    }
}
