//! In which order places are asked, how often, and what is told when none had it.
//!
//! ```text
//! mirror ─► mirror ─► server ─► (wait) ─► those that may do better now, in the same order ─► …
//! ```

use std::{collections::BTreeMap, time::Duration};

use clone8s_daemon::backoff::{self, ExponentialBackoff};

use super::failure::Failure;

/// How often all places are asked again, without any of them getting on.
const REPEATS: usize = 4;
/// A registry that asks for more gets no second question.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Asks places in turn, until one gets on or all have failed for good.
#[derive(Debug)]
pub(super) struct Rounds {
    /// Those still worth asking, by their place in the list of hosts.
    left: Vec<usize>,
    /// Where in this round.
    at: usize,
    delays: ExponentialBackoff,
    /// What a place has asked for in this round.
    wait: Duration,
    failures: BTreeMap<usize, Failure>,
}

impl Rounds {
    pub(super) fn new(places: Vec<usize>) -> Self {
        Self {
            left: places,
            at: 0,
            delays: backoff::retries(REPEATS),
            wait: Duration::ZERO,
            failures: BTreeMap::new(),
        }
    }

    /// The place to ask now, after waiting where that is due; none when it is over.
    pub(super) async fn next(&mut self) -> Option<usize> {
        if self.at >= self.left.len() {
            let worth = |place: &usize| self.failures.get(place).is_some_and(Failure::is_passing);
            self.left.retain(worth);
            if self.left.is_empty() {
                return None;
            }
            let delay = self.delays.next()?;
            tokio::time::sleep(delay.max(self.wait)).await;
            self.at = 0;
            self.wait = Duration::ZERO;
        }
        self.left.get(self.at).copied()
    }

    /// The place has failed: the next one is asked.
    pub(super) fn failed(&mut self, place: usize, failure: Failure) {
        self.wait = self.wait.max(failure.wait().unwrap_or_default());
        self.failures.insert(place, failure);
        self.at += 1;
    }

    /// The place works: whatever fails later is a new matter.
    pub(super) fn got_on(&mut self) {
        self.delays = backoff::retries(REPEATS);
        self.wait = Duration::ZERO;
    }

    pub(super) fn into_failures(self) -> BTreeMap<usize, Failure> {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_are_asked_in_order_and_again_only_where_that_may_help() {
        let mut rounds = Rounds::new(vec![0, 1, 2]);
        let mut asked = Vec::new();
        while let Some(place) = rounds.next().await {
            asked.push(place);
            rounds.failed(
                place,
                match place {
                    0 => Failure::Absent,
                    1 => Failure::passing("broken"),
                    _ => Failure::Wrong("nonsense".into()),
                },
            );
        }
        assert_eq!(asked, [0, 1, 2, 1, 1, 1, 1]);
        assert_eq!(rounds.into_failures().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_asks_to_wait_is_left_alone_so_long() {
        let throttled = |seconds| Failure::Throttled {
            wait: Some(Duration::from_secs(seconds)),
            problem: String::new(),
        };
        let mut rounds = Rounds::new(vec![0]);
        rounds.next().await.unwrap();
        rounds.failed(0, throttled(20));
        let began = Instant::now();
        assert_eq!(rounds.next().await, Some(0));
        assert!(began.elapsed() >= Duration::from_secs(20));
        rounds.failed(0, throttled(3600));
        assert_eq!(rounds.next().await, None, "an hour is not waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_gives_new_rounds() {
        let mut rounds = Rounds::new(vec![0]);
        for _ in 0..20 {
            assert_eq!(rounds.next().await, Some(0));
            rounds.got_on();
            rounds.failed(0, Failure::passing("broken"));
        }
    }
}
