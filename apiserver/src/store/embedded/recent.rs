//! The most recent changes, in memory: what nearly every watch reads.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::store::{Change, Revision};

/// Changes beyond these bounds leave the memory, oldest first; a watch that still needs them reads the file.
const MAX_CHANGES: usize = 1_024;
const MAX_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Recent {
    ring: Mutex<Ring>,
    /// None once the store is closed.
    newest: watch::Sender<Option<Revision>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Without holes: each has the revision after the one before.
    changes: VecDeque<Change>,
    bytes: usize,
}

/// What a reader at some revision gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Everything up to the revision, filtered by the prefix.
    Changes(Vec<Change>, Revision),
    /// The memory no longer reaches back that far.
    Behind,
}

impl Recent {
    pub(super) fn new(newest: Revision) -> Self {
        Self {
            ring: Mutex::default(),
            newest: watch::Sender::new(Some(newest)),
        }
    }

    /// Takes in committed changes and wakes the watches.
    pub(super) fn extend(&self, changes: Vec<Change>) {
        let Some(newest) = changes.last().map(|change| change.revision) else {
            return;
        };
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                ring.bytes += size(&change);
                ring.changes.push_back(change);
            }
            while ring.changes.len() > MAX_CHANGES || ring.bytes > MAX_BYTES {
                let Some(oldest) = ring.changes.pop_front() else {
                    break;
                };
                ring.bytes -= size(&oldest);
            }
        }
        self.newest.send_replace(Some(newest));
    }

    /// The last change, which is here before its writer is answered; None once the store is closed.
    pub(super) fn newest(&self) -> Option<Revision> {
        *self.newest.borrow()
    }

    /// The changes after a revision under a prefix, looking at no more than `at_most` changes.
    pub(super) fn after(&self, prefix: &str, after: Revision, at_most: usize) -> Look {
        let newest = self.newest();
        if newest.is_none_or(|newest| after >= newest) {
            return Look::Changes(Vec::new(), after);
        }
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(oldest) = ring.changes.front().map(|change| change.revision) else {
            return Look::Behind;
        };
        let Ok(skip) = usize::try_from(after.0 + 1 - oldest.0) else {
            return Look::Behind;
        };
        let seen = ring.changes.iter().skip(skip).take(at_most);
        let up_to = seen.clone().last().map_or(after, |change| change.revision);
        let wanted = seen.filter(|change| change.key.starts_with(prefix));
        Look::Changes(wanted.cloned().collect(), up_to)
    }

    /// Tells of every new revision, and of the end by None.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Revision>> {
        self.newest.subscribe()
    }

    pub(super) fn close(&self) {
        self.newest.send_replace(None);
    }
}

fn size(change: &Change) -> usize {
    let value = |value: &bytes::Bytes| value.len();
    change.key.len()
        + change.value.as_ref().map_or(0, value)
        + change
            .previous
            .as_ref()
            .map_or(0, |previous| value(&previous.value))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn change(revision: i64, key: &str, bytes: usize) -> Change {
        Change {
            key: key.to_owned(),
            value: Some(Bytes::from(vec![0; bytes])),
            previous: None,
            revision: Revision(revision),
        }
    }

    fn revisions(look: Look) -> (Vec<i64>, i64) {
        match look {
            Look::Changes(changes, up_to) => (changes.iter().map(|c| c.revision.0).collect(), up_to.0),
            Look::Behind => panic!("behind"),
        }
    }

    #[test]
    fn a_reader_gets_what_follows_its_revision_and_knows_how_far_it_is() {
        let recent = Recent::new(Revision(5));
        recent.extend(vec![
            change(6, "a/1", 1),
            change(7, "b/1", 1),
            change(8, "a/2", 1),
        ]);
        assert_eq!(revisions(recent.after("a/", Revision(5), 10)), (vec![6, 8], 8));
        assert_eq!(revisions(recent.after("a/", Revision(6), 1)), (vec![], 7));
        assert_eq!(revisions(recent.after("", Revision(8), 10)), (vec![], 8));
        assert_eq!(recent.after("", Revision(4), 10), Look::Behind);
    }

    #[test]
    fn memory_is_bounded_by_count_and_by_bytes() {
        let recent = Recent::new(Revision(0));
        recent.extend((1..=2_000).map(|revision| change(revision, "k", 1)).collect());
        assert_eq!(recent.after("", Revision(2_000 - 1_025), 1), Look::Behind);
        assert_eq!(revisions(recent.after("", Revision(2_000 - 1_024), 1)).1, 977);
        recent.extend(vec![change(2_001, "k", MAX_BYTES + 1)]);
        assert_eq!(recent.after("", Revision(2_000), 1), Look::Behind);
        assert_eq!(revisions(recent.after("", Revision(2_001), 1)), (vec![], 2_001));
    }
}
