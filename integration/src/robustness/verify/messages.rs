//! Messages against the order: at least once, and in order per object for a consumer that drops what it has seen.

use std::collections::BTreeMap;

use super::{Rule, Violations};
use crate::robustness::history::{Change, Message};

pub(super) fn verify(messages: &[Message], order: &[Change], found: &mut Violations) {
    let mut due: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in order {
        due.entry(&change.state.uid).or_default().push(change);
    }
    // How many of each object's changes have come.
    let mut come: BTreeMap<&str, usize> = BTreeMap::new();
    for message in messages {
        let changes = due.get(message.state.uid.as_str()).map_or(&[][..], Vec::as_slice);
        let place = changes.iter().position(|change| *change == message);
        let Some(place) = place else {
            found.add(
                Rule::MessagesTellWhatWas,
                format!("{message:?} tells what the store never took"),
            );
            continue;
        };
        let come = come.entry(&message.state.uid).or_default();
        if place > *come {
            let missing = changes[*come];
            found.add(
                Rule::MessagesAreOrdered,
                format!("{message:?} comes before {missing:?}"),
            );
        }
        *come = (*come).max(place + 1);
    }
    for (uid, changes) in &due {
        let come = come.get(uid).copied().unwrap_or(0);
        for missing in &changes[come..] {
            found.add(Rule::MessagesAreComplete, format!("{missing:?} never came"));
        }
    }
}
