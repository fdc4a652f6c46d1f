//! The store's order, by object.

use std::{collections::BTreeMap, time::Duration};

use super::{Rule, Violations};
use crate::robustness::history::{Change, Kind, Revision, Selector, Verb, Version};

/// Every object's life, and who made which change.
pub(super) struct Order<'h> {
    pub(super) changes: &'h [Change],
    lives: BTreeMap<&'h str, Vec<Epoch>>,
    /// When the call that made a change began; a change that nobody asked for has none.
    pub(super) begun: BTreeMap<Revision, Duration>,
}

/// A state of an object's name, from one revision to the next change of it.
#[derive(Debug, Clone)]
pub(super) struct Epoch {
    pub(super) from: Revision,
    pub(super) until: Option<Revision>,
    /// None while there is no such object.
    pub(super) version: Option<Version>,
}

impl<'h> Order<'h> {
    pub(super) fn new(changes: &'h [Change], found: &mut Violations) -> Self {
        let mut lives: BTreeMap<&str, Vec<Epoch>> = BTreeMap::new();
        let mut last = 0;
        for change in changes {
            if change.revision <= last {
                found.add(
                    Rule::OrderIsOne,
                    format!("revision {} comes after {last}", change.revision),
                );
            }
            last = change.revision;
            let life = lives.entry(&change.name).or_insert_with(|| vec![absent(0)]);
            let before = life.last_mut().expect("a life begins with nothing");
            let fits = match (&before.version, change.verb) {
                (None, Verb::Added) => true,
                (Some(before), Verb::Modified) => before.state.uid == change.state.uid,
                (Some(before), Verb::Deleted) => before.state == change.state,
                _ => false,
            };
            if !fits {
                let detail = format!("{change:?} follows {:?}", before.version);
                found.add(Rule::OrderIsOne, detail);
            }
            before.until = Some(change.revision);
            life.push(match change.verb {
                Verb::Deleted => absent(change.revision),
                Verb::Added | Verb::Modified => Epoch {
                    from: change.revision,
                    until: None,
                    version: Some(Version {
                        revision: change.revision,
                        state: change.state.clone(),
                    }),
                },
            });
        }
        Self {
            changes,
            lives,
            begun: BTreeMap::new(),
        }
    }

    /// All that a name was; a name that nobody used has always been free.
    pub(super) fn life(&self, name: &str) -> &[Epoch] {
        const FREE: &[Epoch] = &[absent(0)];
        self.lives.get(name).map_or(FREE, Vec::as_slice)
    }

    /// A name's life from the state that it had at a revision on.
    pub(super) fn since(&self, name: &str, revision: Revision) -> &[Epoch] {
        let life = self.life(name);
        let over = life.partition_point(|epoch| epoch.until.is_some_and(|until| until <= revision));
        &life[over..]
    }

    /// What a name was at a revision.
    pub(super) fn at(&self, name: &str, revision: Revision) -> Option<&Version> {
        self.since(name, revision).first()?.version.as_ref()
    }

    /// What a name was just before a change of it.
    pub(super) fn before(&self, change: &Change) -> Option<&Version> {
        self.at(&change.name, change.revision - 1)
    }

    /// Whether what began a state began only after a moment.
    pub(super) fn begins_after(&self, epoch: &Epoch, moment: Duration) -> bool {
        self.begun.get(&epoch.from).is_some_and(|begun| *begun > moment)
    }

    /// Everything that a selector chooses at a revision.
    pub(super) fn selected(&self, kind: Kind, selector: &Selector, at: Revision) -> Vec<(&'h str, &Version)> {
        let present = self
            .lives
            .keys()
            .filter_map(|name| Some((*name, self.at(name, at)?)));
        present
            .filter(|(name, version)| Kind::of(name) == Some(kind) && selector.admits(name, &version.state))
            .collect()
    }

    /// What a watch with a selector is told: what comes into the selection is added, what leaves it is deleted, as it
    /// was last seen.
    pub(super) fn seen_through(&self, kind: Kind, selector: &Selector) -> Vec<Change> {
        let seen = |change: &Change| {
            let before = self.before(change);
            let was = before.is_some_and(|before| selector.admits(&change.name, &before.state));
            let is = change.verb != Verb::Deleted && selector.admits(&change.name, &change.state);
            let (verb, state) = match (was, is) {
                (false, false) => return None,
                (false, true) => (Verb::Added, &change.state),
                (true, true) => (Verb::Modified, &change.state),
                (true, false) => (Verb::Deleted, &before?.state),
            };
            Some(Change {
                verb,
                state: state.clone(),
                ..change.clone()
            })
        };
        let of_kind = self
            .changes
            .iter()
            .filter(|change| Kind::of(&change.name) == Some(kind));
        of_kind.filter_map(seen).collect()
    }

    /// Whether something held of a name from before a call began until after it ended: at every moment at which the call
    /// can have looked.
    pub(super) fn held_throughout(
        &self,
        name: &str,
        known: Revision,
        ended: Duration,
        what: impl Fn(Option<&Version>) -> bool,
    ) -> bool {
        // What had ended by the time that the call began cannot be what it saw.
        let mut possible = self
            .since(name, known)
            .iter()
            .filter(|epoch| !self.begins_after(epoch, ended));
        possible.all(|epoch| what(epoch.version.as_ref()))
    }
}

const fn absent(from: Revision) -> Epoch {
    Epoch {
        from,
        until: None,
        version: None,
    }
}
