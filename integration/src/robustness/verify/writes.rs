//! Writes against the order: who made each change, and whether each call told the truth about what it did.

use std::collections::{BTreeMap, BTreeSet};

use super::{Known, Rule, Violations, order::Order};
use crate::robustness::history::{Change, Outcome, Refusal, Revision, Verb, Write, WriteKind};

/// How many writes with a request_id an object remembers, as the API documents it.
const REMEMBERED: usize = 8;

/// The changes that each write made, by the write's place in the history.
type Effects<'h> = BTreeMap<usize, Vec<&'h Change>>;

pub(super) fn verify(writes: &[Write], order: &mut Order<'_>, known: &Known, found: &mut Violations) {
    let effects = assign(writes, order, known, found);
    for (&index, made) in &effects {
        for change in made {
            order.begun.insert(change.revision, writes[index].span.begun);
        }
    }
    for (index, write) in writes.iter().enumerate() {
        let made = effects.get(&index).map_or(&[][..], Vec::as_slice);
        check_effect(write, made, order, known, found);
        check_once(write, made, writes, &effects, found);
        if let Outcome::Refused(refusal) = &write.outcome {
            check_refusal(write, refusal, order, known, found);
        }
    }
}

/// Finds who made each change.
fn assign<'h>(writes: &[Write], order: &Order<'h>, known: &Known, found: &mut Violations) -> Effects<'h> {
    let by_token: BTreeMap<&str, usize> = writes
        .iter()
        .enumerate()
        .map(|(index, write)| (write.token.as_str(), index))
        .collect();
    let mut effects = Effects::new();
    let mut deletions = Vec::new();
    for change in order.changes {
        let before = order.before(change).map(|before| &before.state);
        let (token, kinds): (&str, &[WriteKind]) = match (change.verb, before) {
            (Verb::Deleted, _) => {
                deletions.push(change);
                continue;
            }
            (Verb::Added, _) => (&change.state.token, &[WriteKind::Create, WriteKind::Apply]),
            (Verb::Modified, Some(before)) if before.status_token != change.state.status_token => {
                (&change.state.status_token, &[WriteKind::UpdateStatus])
            }
            (Verb::Modified, _) => (&change.state.token, &[WriteKind::Update, WriteKind::Apply]),
        };
        let news = before.is_none_or(|before| before.token != token && before.status_token != token);
        let author = by_token
            .get(token)
            .filter(|&&author| news && could_have_made(&writes[author], kinds, change, before));
        match author {
            Some(&author) => effects.entry(author).or_default().push(change),
            None => found.add(
                Rule::EveryChangeWasAskedFor,
                format!("nobody asked for {change:?}, after {before:?}"),
            ),
        }
    }
    assign_deletions(writes, &deletions, order, known, &mut effects, found);
    effects
}

/// Whether a change is one that a call of these kinds makes: what it writes is new, and all else stays.
fn could_have_made(
    write: &Write,
    kinds: &[WriteKind],
    change: &Change,
    before: Option<&crate::robustness::history::State>,
) -> bool {
    let kept = match (write.kind, before) {
        (WriteKind::UpdateStatus, Some(before)) => {
            before.token == change.state.token && before.color == change.state.color
        }
        (_, before) => {
            let status = before.map_or("", |before| before.status_token.as_str());
            write.color == change.state.color && status == change.state.status_token
        }
    };
    kept && kinds.contains(&write.kind) && write.name == change.name
}

/// A deletion leaves no token. Those whose revision is known come first, then those who only may have made one, the most
/// particular first. What nobody asked for may be a creation that took itself back, because the store went away before
/// the namespace could be looked at again.
fn assign_deletions<'h>(
    writes: &[Write],
    deletions: &[&'h Change],
    order: &Order<'h>,
    known: &Known,
    effects: &mut Effects<'h>,
    found: &mut Violations,
) {
    let acknowledged: BTreeMap<Revision, usize> = writes
        .iter()
        .enumerate()
        .filter(|(_, write)| write.kind == WriteKind::Delete)
        .filter_map(|(index, write)| match write.outcome {
            Outcome::Done(revision) => Some((revision, index)),
            _ => None,
        })
        .collect();
    let mut candidates: Vec<usize> = (0..writes.len())
        .filter(|&index| {
            let write = &writes[index];
            let may_have = matches!(write.outcome, Outcome::DoneSometime | Outcome::Unknown);
            write.kind == WriteKind::Delete && may_have
        })
        .collect();
    candidates.sort_by_key(|&index| {
        let write = &writes[index];
        // Those that must have made one, then those that could have made only this one.
        (write.outcome == Outcome::Unknown, write.seen.is_none())
    });
    let withdrawn: BTreeSet<Revision> = effects
        .iter()
        .filter(|(index, _)| writes[**index].outcome == Outcome::Unknown)
        .flat_map(|(_, made)| made.iter().filter(|change| change.verb == Verb::Added))
        .map(|change| change.revision)
        .collect();
    for &change in deletions {
        let before = order.before(change).map(|before| before.revision);
        if let Some(&author) = acknowledged.get(&change.revision)
            && writes[author].name == change.name
        {
            effects.entry(author).or_default().push(change);
            continue;
        }
        let fits = |&index: &usize| {
            let write = &writes[index];
            write.name == change.name
                && write.seen.is_none_or(|seen| Some(seen) == before)
                // What was known before it began came before it.
                && known.before(write.span.begun) < change.revision
        };
        if let Some(place) = candidates.iter().position(fits) {
            let author = candidates.remove(place);
            effects.entry(author).or_default().push(change);
        } else if !before.is_some_and(|before| withdrawn.contains(&before)) {
            found.add(
                Rule::EveryChangeWasAskedFor,
                format!("nobody asked for {change:?}"),
            );
        }
    }
}

fn check_effect(write: &Write, made: &[&Change], order: &Order<'_>, known: &Known, found: &mut Violations) {
    match &write.outcome {
        Outcome::Done(revision) if !made.iter().any(|change| change.revision == *revision) => found.add(
            Rule::AcknowledgedWritesAreKept,
            format!("{write:?} was acknowledged; it made {made:?}"),
        ),
        Outcome::DoneSometime if made.is_empty() => found.add(
            Rule::AcknowledgedWritesAreKept,
            format!("{write:?} was acknowledged; it made nothing"),
        ),
        Outcome::Refused(_) if !made.is_empty() => found.add(
            Rule::RefusedWritesAreNotDone,
            format!("{write:?} was refused; it made {made:?}"),
        ),
        _ => {}
    }
    let known = known.before(write.span.begun);
    for change in made {
        if change.revision <= known {
            found.add(
                Rule::OrderIsOne,
                format!("{write:?} made {change:?}, although revision {known} was known before it began"),
            );
        }
        let before = order.before(change).map(|before| before.revision);
        if write.seen.is_some() && write.seen != before {
            found.add(
                Rule::PreconditionsHold,
                format!("{write:?} made {change:?} of revision {before:?}"),
            );
        }
    }
}

/// A write that was sent again may be done again only where nothing can know it any more: on another object of the same
/// name, or after so many others with a request_id as an object remembers.
fn check_once(
    write: &Write,
    made: &[&Change],
    writes: &[Write],
    effects: &Effects<'_>,
    found: &mut Violations,
) {
    for pair in made.windows(2) {
        let [first, second] = pair else { continue };
        let others = effects
            .iter()
            .filter(|(index, _)| writes[**index].named)
            .flat_map(|(_, made)| made)
            .filter(|change| change.name == first.name)
            .filter(|change| first.revision < change.revision && change.revision < second.revision)
            .count();
        let forgotten = first.state.uid != second.state.uid || others >= REMEMBERED;
        if !write.named || !forgotten {
            found.add(
                Rule::WritesAreDoneOnce,
                format!("{write:?} made {first:?} and {second:?}"),
            );
        }
    }
}

/// Whether there was a moment at which the refusal was right.
fn check_refusal(write: &Write, refusal: &Refusal, order: &Order<'_>, known: &Known, found: &mut Violations) {
    let known = known.before(write.span.begun);
    let wrong = |what: &dyn Fn(Option<&crate::robustness::history::Version>) -> bool| {
        order.held_throughout(&write.name, known, write.span.ended, what)
    };
    let is_wrong = match refusal {
        Refusal::Exists => wrong(&|version| version.is_none()),
        Refusal::NotFound => wrong(&|version| version.is_some()),
        // Without a precondition it means that others were faster again and again.
        Refusal::Stale => write
            .seen
            .is_some_and(|seen| wrong(&|version| version.is_some_and(|version| version.revision == seen))),
        Refusal::Compacted => {
            let detail = format!("{write:?}: a write needs no history");
            found.add(Rule::NothingElseFails, detail);
            false
        }
        Refusal::Other(error) => {
            found.add(Rule::NothingElseFails, format!("{write:?}: {error}"));
            false
        }
    };
    if is_wrong {
        found.add(
            Rule::RefusalsAreTrue,
            format!("{write:?} was refused for what was never so while it ran"),
        );
    }
}
