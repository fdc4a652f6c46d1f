//! Holds a history to what the API promises. Pure: it knows no cluster, and its tests break histories by hand.
//!
//! The store's own log is the order that everything is measured by. It is trusted to be one order, and nothing else:
//!
//! ```text
//! writes ──► every acknowledged one is in the order, where its answer said; a refused one is not; none is twice
//! reads ──► show the order at a revision that is no older than what anybody knew before the read began
//! watches ──► tell all that a selector sees of the order, each once and in order, over all their streams
//! messages ──► tell all of the order; of each object, nothing before what came before it
//! ```

mod messages;
mod order;
mod reads;
mod watches;
mod writes;

use std::time::Duration;

use self::order::Order;
use super::history::{History, Outcome, Revision, Shown};

/// A promise of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The order itself makes sense: nothing is added twice, nothing changes that is not there.
    OrderIsOne,
    EveryChangeWasAskedFor,
    AcknowledgedWritesAreKept,
    RefusedWritesAreNotDone,
    WritesAreDoneOnce,
    PreconditionsHold,
    RefusalsAreTrue,
    ReadsAreCurrent,
    ReadsShowWhatWas,
    WatchesAreOrdered,
    WatchesAreComplete,
    WatchesTellWhatWas,
    MessagesAreComplete,
    MessagesAreOrdered,
    MessagesTellWhatWas,
    /// A call was told something that no call of a run should be.
    NothingElseFails,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub detail: String,
}

/// Every broken promise of a history; none for a good one.
pub fn verify(history: &History) -> Vec<Violation> {
    let mut found = Violations::default();
    let mut order = Order::new(&history.order, &mut found);
    let known = Known::of(history);
    writes::verify(&history.writes, &mut order, &known, &mut found);
    reads::verify(&history.reads, &order, &known, &mut found);
    for watch in &history.watches {
        watches::verify(watch, &order, &known, history.compacted, &mut found);
    }
    messages::verify(&history.messages, &history.order, &mut found);
    for failure in &history.failures {
        found.add(Rule::NothingElseFails, failure);
    }
    found.0
}

#[derive(Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, rule: Rule, detail: impl Into<String>) {
        self.0.push(Violation {
            rule,
            detail: detail.into(),
        });
    }
}

/// What revisions had been told to anybody by when.
struct Known {
    /// Times and the highest revision told until then, both growing.
    told: Vec<(Duration, Revision)>,
}

impl Known {
    fn of(history: &History) -> Self {
        let writes = history.writes.iter().filter_map(|write| match write.outcome {
            Outcome::Done(revision) => Some((write.span.ended, revision)),
            _ => None,
        });
        let reads = history.reads.iter().filter_map(|read| match &read.shown {
            Shown::Object { version, .. } => Some((read.span.ended, version.as_ref()?.revision)),
            Shown::List { revision, .. } => Some((read.span.ended, *revision)),
            Shown::Failed(_) => None,
        });
        let watches = history.watches.iter().flat_map(|watch| &watch.told);
        let watches = watches.filter_map(|(at, told)| Some((*at, told.revision()?)));
        let mut told: Vec<_> = writes.chain(reads).chain(watches).collect();
        told.sort_unstable();
        let mut highest = 0;
        for (_, revision) in &mut told {
            highest = highest.max(*revision);
            *revision = highest;
        }
        Self { told }
    }

    /// The highest revision that had been told before a moment.
    fn before(&self, moment: Duration) -> Revision {
        let count = self.told.partition_point(|(at, _)| *at < moment);
        count.checked_sub(1).map_or(0, |last| self.told[last].1)
    }
}

#[cfg(test)]
mod tests;
