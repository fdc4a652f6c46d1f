//! Reads against the order.

use super::{
    Known, Rule, Violations,
    order::{Epoch, Order},
};
use crate::robustness::history::{Kind, Read, Revision, Selector, Shown, Version};

pub(super) fn verify(reads: &[Read], order: &Order<'_>, known: &Known, found: &mut Violations) {
    for read in reads {
        let known = known.before(read.span.begun);
        match &read.shown {
            Shown::Object { name, version } => check_get(read, name, version.as_ref(), order, known, found),
            Shown::List {
                kind,
                selector,
                revision,
                items,
            } => {
                if *revision < known {
                    let detail =
                        format!("{read:?} shows revision {revision}; {known} was known before it began");
                    found.add(Rule::ReadsAreCurrent, detail);
                }
                check_state(
                    "a list",
                    (*kind, selector),
                    *revision,
                    items,
                    order,
                    Rule::ReadsShowWhatWas,
                    found,
                );
            }
            Shown::Failed(error) => found.add(Rule::NothingElseFails, format!("a read: {error}")),
        }
    }
}

fn check_get(
    read: &Read,
    name: &str,
    version: Option<&Version>,
    order: &Order<'_>,
    known: Revision,
    found: &mut Violations,
) {
    let shows = |epoch: &&Epoch| epoch.version.as_ref() == version;
    let is_over = |epoch: &Epoch| epoch.until.is_some_and(|until| until <= known);
    let candidates = order.since(name, version.map_or(known, |version| version.revision));
    // A version begins one epoch, at its own revision.
    let count = version.map_or(candidates.len(), |_| 1);
    let possible =
        |epoch: &Epoch| shows(&epoch) && !is_over(epoch) && !order.begins_after(epoch, read.span.ended);
    if candidates.iter().take(count).any(possible) {
        return;
    }
    if order.life(name).iter().filter(shows).any(is_over) {
        let detail =
            format!("{read:?}: it was no longer so at revision {known}, which was known before it began");
        found.add(Rule::ReadsAreCurrent, detail);
    } else {
        let detail = format!("{read:?}: it never was so, or only after it was asked for later");
        found.add(Rule::ReadsShowWhatWas, detail);
    }
}

/// Whether these are all that a selector chooses at a revision.
pub(super) fn check_state(
    what: &str,
    (kind, selector): (Kind, &Selector),
    revision: Revision,
    items: &[(String, Version)],
    order: &Order<'_>,
    rule: Rule,
    found: &mut Violations,
) {
    let mut expected = order.selected(kind, selector, revision);
    for (name, version) in items {
        let place = expected.iter().position(|(expected, _)| expected == name);
        match place.map(|place| expected.remove(place).1) {
            Some(present) if present == version => {}
            other => found.add(
                rule,
                format!("{what} of {kind:?}, {selector:?} at {revision} shows {name} as {version:?}; it was {other:?}"),
            ),
        }
    }
    for (name, version) in expected {
        found.add(
            rule,
            format!("{what} of {kind:?}, {selector:?} at {revision} lacks {name}, which was {version:?}"),
        );
    }
}
