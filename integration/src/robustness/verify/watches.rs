//! Watches against the order: one watcher's streams, one after another, are one sequence without repetition or gap.

use std::time::Duration;

use super::{Known, Rule, Violations, order::Order, reads::check_state};
use crate::robustness::history::{Change, Revision, Start, Told, Version, Watch};

pub(super) fn verify(
    watch: &Watch,
    order: &Order<'_>,
    known: &Known,
    compacted: Revision,
    found: &mut Violations,
) {
    let mut follower = Follower {
        watch,
        expected: order.seen_through(watch.kind, &watch.selector),
        position: None,
        initial: None,
    };
    for (at, told) in &watch.told {
        match told {
            Told::Opened(Start::State) => follower.initial = Some((*at, Vec::new())),
            Told::Opened(Start::After(revision)) => {
                follower.initial = None;
                follower.position.get_or_insert(*revision);
            }
            Told::Event(change) => match &mut follower.initial {
                Some((_, items)) => items.push((
                    change.name.clone(),
                    Version {
                        revision: change.revision,
                        state: change.state.clone(),
                    },
                )),
                None => follower.event(change, found),
            },
            Told::Synced(revision) => follower.synced(*revision, order, known, found),
            Told::Bookmark(revision) => follower.come_to(*revision, found),
            // It begins again with the present state, and what it was not told is in that.
            Told::Compacted(after) if *after >= compacted => {
                let what = format!("what comes after {after} was never forgotten, only up to {compacted}");
                follower.add(Rule::RefusalsAreTrue, &what, found);
            }
            Told::Compacted(_) => {}
            Told::Failed(error) => found.add(
                Rule::NothingElseFails,
                format!("watcher {}: {error}", watch.watcher),
            ),
        }
    }
    follower.end(found);
}

struct Follower<'w> {
    watch: &'w Watch,
    /// Everything that the watcher's selector sees, over the whole run.
    expected: Vec<Change>,
    /// All up to here was told, by whatever stream; None before the first.
    position: Option<Revision>,
    /// While the present state is being told: since when, and what of it.
    initial: Option<(Duration, Vec<(String, Version)>)>,
}

impl Follower<'_> {
    /// What should be told after one revision and up to another.
    fn between(&self, after: Revision, up_to: Revision) -> &[Change] {
        let begin = self.expected.partition_point(|change| change.revision <= after);
        let end = self.expected.partition_point(|change| change.revision <= up_to);
        &self.expected[begin..end]
    }

    fn add(&self, rule: Rule, what: &str, found: &mut Violations) {
        let watcher = &self.watch.watcher;
        let position = self.position;
        found.add(
            rule,
            format!("watcher {watcher}, told up to {position:?}: {what}"),
        );
    }

    fn event(&mut self, change: &Change, found: &mut Violations) {
        let position = self.position.unwrap_or(0);
        if change.revision <= position {
            self.add(
                Rule::WatchesAreOrdered,
                &format!("{change:?} comes late or again"),
                found,
            );
            return;
        }
        self.come_to(change.revision - 1, found);
        self.position = Some(change.revision);
        let expected = self.between(change.revision - 1, change.revision).first();
        if expected != Some(change) {
            let what = format!("{change:?} should be {expected:?}");
            self.add(Rule::WatchesTellWhatWas, &what, found);
        }
    }

    /// The stream says that all up to a revision has been told.
    fn come_to(&mut self, revision: Revision, found: &mut Violations) {
        let position = self.position.unwrap_or(0);
        if revision < position {
            let what = format!("it goes back to {revision}");
            return self.add(Rule::WatchesAreOrdered, &what, found);
        }
        for change in self.between(position, revision) {
            self.add(Rule::WatchesAreComplete, &format!("{change:?} never came"), found);
        }
        self.position = Some(revision);
    }

    fn synced(&mut self, revision: Revision, order: &Order<'_>, known: &Known, found: &mut Violations) {
        let Some((since, items)) = self.initial.take() else {
            return self.add(Rule::WatchesTellWhatWas, "a state ends that never began", found);
        };
        let known = known.before(since);
        if revision < known {
            let what = format!("the state is of {revision}; {known} was known before it was asked for");
            self.add(Rule::ReadsAreCurrent, &what, found);
        }
        let selection = (self.watch.kind, &self.watch.selector);
        let rule = Rule::WatchesTellWhatWas;
        check_state("a watch", selection, revision, &items, order, rule, found);
        self.position = Some(revision);
    }

    /// Every watcher is followed until it has been told the whole run.
    fn end(&mut self, found: &mut Violations) {
        if let Some(last) = self.expected.last().map(|change| change.revision) {
            let position = self.position.unwrap_or(0);
            self.come_to(last.max(position), found);
        }
    }
}
