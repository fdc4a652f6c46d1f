//! A good history passes, and each way of breaking it is found by the rule that it breaks.

use std::time::Duration;

use super::{Rule, verify};
use crate::robustness::history::{
    Change, History, Kind, Outcome, Read, Refusal, Revision, Selector, Shown, Span, Start, State, Told, Verb,
    Version, Watch, Write, WriteKind,
};

/// The object that a history is about, unless it says otherwise.
const POD: &str = "pods/default/o";

fn span(begun: u64, ended: u64) -> Span {
    Span {
        begun: Duration::from_millis(begun),
        ended: Duration::from_millis(ended),
    }
}

fn state(uid: &str, token: &str, status_token: &str, color: &str) -> State {
    State {
        uid: uid.to_owned(),
        token: token.to_owned(),
        status_token: status_token.to_owned(),
        color: color.to_owned(),
    }
}

fn change(revision: Revision, verb: Verb, state: State) -> Change {
    Change {
        revision,
        name: POD.to_owned(),
        verb,
        state,
    }
}

fn write(kind: WriteKind, token: &str, color: &str, span: Span, outcome: Outcome) -> Write {
    Write {
        of: Kind::Pod,
        kind,
        name: POD.to_owned(),
        token: token.to_owned(),
        color: color.to_owned(),
        seen: None,
        span,
        named: false,
        outcome,
    }
}

fn version(revision: Revision, state: State) -> Version {
    Version { revision, state }
}

fn get(span: Span, version: Option<Version>) -> Read {
    let name = POD.to_owned();
    Read {
        span,
        shown: Shown::Object { name, version },
    }
}

/// A list that finds nothing, and tells a revision.
fn nothing_at(revision: Revision, span: Span) -> Read {
    Read {
        span,
        shown: Shown::List {
            kind: Kind::Pod,
            selector: Selector::Name("none".to_owned()),
            revision,
            items: Vec::new(),
        },
    }
}

/// The events of a watch that was opened at the start and broke once, at revision 12.
fn watch(selector: Selector, events: Vec<Change>) -> Watch {
    let at = |revision: Revision| Duration::from_millis(u64::try_from(revision).unwrap() * 10);
    let mut told = vec![(at(0), Told::Opened(Start::After(1)))];
    for event in events {
        if event.revision == 14 {
            told.push((at(13), Told::Opened(Start::After(12))));
        }
        told.push((at(event.revision), Told::Event(event)));
    }
    told.push((at(20), Told::Bookmark(20)));
    Watch {
        watcher: "w".to_owned(),
        kind: Kind::Pod,
        selector,
        told,
    }
}

/// Made red at 10, blue at 12, given a status at 14, deleted at 16, and made again at 18. At 10 times its revision in
/// milliseconds each write has ended.
fn good() -> History {
    let red = state("u1", "a", "", "red");
    let blue = state("u1", "b", "", "blue");
    let told = state("u1", "b", "c", "blue");
    let again = state("u2", "e", "", "red");
    let order = vec![
        change(10, Verb::Added, red.clone()),
        change(12, Verb::Modified, blue.clone()),
        change(14, Verb::Modified, told.clone()),
        change(16, Verb::Deleted, told.clone()),
        change(18, Verb::Added, again.clone()),
    ];
    let mut careful = write(WriteKind::Update, "b", "blue", span(105, 120), Outcome::Done(12));
    careful.seen = Some(10);
    let mut stale = write(
        WriteKind::Update,
        "s",
        "red",
        span(121, 139),
        Outcome::Refused(Refusal::Stale),
    );
    stale.seen = Some(10);
    let mut again_and_again = write(
        WriteKind::Apply,
        "e",
        "red",
        span(165, 180),
        Outcome::DoneSometime,
    );
    again_and_again.named = true;
    let taken = write(
        WriteKind::Create,
        "t",
        "red",
        span(121, 139),
        Outcome::Refused(Refusal::Exists),
    );
    let gone = write(
        WriteKind::Delete,
        "g",
        "",
        span(161, 164),
        Outcome::Refused(Refusal::NotFound),
    );
    History {
        writes: vec![
            write(WriteKind::Create, "a", "red", span(90, 100), Outcome::Done(10)),
            careful,
            // Nobody told its client that it is done.
            write(WriteKind::UpdateStatus, "c", "", span(125, 140), Outcome::Unknown),
            write(WriteKind::Delete, "d", "", span(145, 160), Outcome::Done(16)),
            again_and_again,
            stale,
            taken,
            gone,
            write(WriteKind::Update, "lost", "red", span(130, 190), Outcome::Unknown),
        ],
        reads: vec![
            get(span(80, 89), None),
            get(span(101, 104), Some(version(10, red.clone()))),
            get(span(155, 165), Some(version(14, told))),
            get(span(163, 166), None),
            Read {
                span: span(121, 124),
                shown: Shown::List {
                    kind: Kind::Pod,
                    selector: Selector::Color("blue"),
                    revision: 13,
                    items: vec![(POD.to_owned(), version(12, blue.clone()))],
                },
            },
        ],
        watches: vec![
            watch(Selector::All, order.clone()),
            watch(
                Selector::Color("red"),
                vec![order[0].clone(), change(12, Verb::Deleted, red), order[4].clone()],
            ),
            Watch {
                watcher: "state".to_owned(),
                kind: Kind::Pod,
                selector: Selector::All,
                told: vec![
                    (Duration::from_millis(121), Told::Opened(Start::State)),
                    (
                        Duration::from_millis(122),
                        Told::Event(change(12, Verb::Added, blue)),
                    ),
                    (Duration::from_millis(123), Told::Synced(13)),
                    (Duration::from_millis(200), Told::Event(order[2].clone())),
                    (Duration::from_millis(200), Told::Event(order[3].clone())),
                    (Duration::from_millis(200), Told::Event(order[4].clone())),
                ],
            },
        ],
        // One repetition, which begins anew.
        messages: [0, 1, 0, 1, 2, 3, 4].map(|place| order[place].clone()).to_vec(),
        failures: Vec::new(),
        compacted: 0,
        order,
    }
}

/// Breaks the good history, and expects that this is found by one rule and by no other.
#[track_caller]
fn finds(rule: Rule, break_it: impl FnOnce(&mut History)) {
    let mut history = good();
    break_it(&mut history);
    let found = verify(&history);
    assert!(!found.is_empty(), "nothing is found");
    assert!(found.iter().all(|violation| violation.rule == rule), "{found:#?}");
}

/// The first watch's events, without its openings.
fn events(history: &mut History) -> &mut Vec<(Duration, Told)> {
    &mut history.watches[0].told
}

#[test]
fn a_good_history_passes() {
    assert_eq!(verify(&good()), []);
}

#[test]
fn an_acknowledged_write_that_is_not_in_the_order_is_lost() {
    for (kind, color) in [(WriteKind::Update, "red"), (WriteKind::Delete, "")] {
        finds(Rule::AcknowledgedWritesAreKept, |history| {
            let lost = write(kind, "x", color, span(181, 190), Outcome::Done(19));
            history.writes.push(lost);
        });
    }
}

#[test]
fn an_acknowledged_repetition_that_is_not_in_the_order_is_lost() {
    finds(Rule::AcknowledgedWritesAreKept, |history| {
        history.writes[8].outcome = Outcome::DoneSometime;
    });
}

#[test]
fn an_acknowledged_repetition_of_a_deletion_that_another_made_is_lost() {
    finds(Rule::AcknowledgedWritesAreKept, |history| {
        history.writes.push(Write {
            named: true,
            ..write(WriteKind::Delete, "x", "", span(145, 190), Outcome::DoneSometime)
        });
    });
}

#[test]
fn a_refused_write_that_is_in_the_order_is_found() {
    finds(Rule::RefusedWritesAreNotDone, |history| {
        // Exists: it did, from its own point of view.
        history.writes[0].outcome = Outcome::Refused(Refusal::Stale);
    });
}

#[test]
fn a_write_done_twice_is_found() {
    finds(Rule::WritesAreDoneOnce, |history| {
        let order = &mut history.order;
        order.insert(3, change(15, Verb::Modified, state("u1", "z", "c", "red")));
        order.insert(4, change(16, Verb::Modified, state("u1", "lost", "c", "red")));
        order.insert(5, change(17, Verb::Modified, state("u1", "z", "c", "red")));
        order[6].state = state("u1", "z", "c", "red");
        order[6].revision = 18;
        order[7].revision = 20;
        history.writes[3].outcome = Outcome::Done(18);
        history.writes.push(write(
            WriteKind::Update,
            "z",
            "red",
            span(141, 190),
            Outcome::Unknown,
        ));
        history.reads.clear();
        history.watches.clear();
        history.messages = history.order.clone();
    });
}

#[test]
fn a_change_that_nobody_asked_for_is_found() {
    finds(Rule::EveryChangeWasAskedFor, |history| {
        history.writes.retain(|write| write.token != "c");
    });
    finds(Rule::EveryChangeWasAskedFor, |history| {
        history.writes.retain(|write| write.kind != WriteKind::Delete);
    });
}

#[test]
fn a_change_that_undid_another_beside_what_it_was_asked_for_is_found() {
    finds(Rule::EveryChangeWasAskedFor, |history| {
        // The status write brought back the old color.
        for change in &mut history.order[2..4] {
            "red".clone_into(&mut change.state.color);
        }
        history.reads.clear();
        history.watches.clear();
        history.messages = history.order.clone();
    });
}

#[test]
fn an_ignored_precondition_is_found() {
    finds(Rule::PreconditionsHold, |history| {
        history.writes[1].seen = Some(9);
    });
}

#[test]
fn a_refusal_for_what_was_never_so_is_found() {
    finds(Rule::RefusalsAreTrue, |history| {
        history.writes[5].seen = Some(12);
        history.writes[5].span = span(121, 124);
    });
    finds(Rule::RefusalsAreTrue, |history| {
        history.writes[6].span = span(161, 163);
    });
    finds(Rule::RefusalsAreTrue, |history| {
        history.writes[7].span = span(121, 124);
    });
}

#[test]
fn a_write_that_takes_its_place_before_what_was_known_is_found() {
    finds(Rule::OrderIsOne, |history| {
        // Its own revision is 12.
        assert_eq!(history.writes[1].span.begun, Duration::from_millis(105));
        history.reads.push(nothing_at(13, span(101, 104)));
    });
}

#[test]
fn a_stale_read_is_found() {
    finds(Rule::ReadsAreCurrent, |history| {
        history.reads[1].span = span(121, 124);
    });
    finds(Rule::ReadsAreCurrent, |history| {
        history.reads[0].span = span(101, 104);
    });
    finds(Rule::ReadsAreCurrent, |history| {
        history.reads[4].span = span(161, 164);
    });
}

#[test]
fn a_read_of_what_never_was_is_found() {
    finds(Rule::ReadsShowWhatWas, |history| {
        history
            .reads
            .push(get(span(121, 124), Some(version(12, State::default()))));
    });
    finds(Rule::ReadsShowWhatWas, |history| {
        if let Shown::List { items, .. } = &mut history.reads[4].shown {
            items.clear();
        }
    });
    finds(Rule::ReadsShowWhatWas, |history| {
        if let Shown::List { items, .. } = &mut history.reads[4].shown {
            items.push(("other".to_owned(), version(12, State::default())));
        }
    });
}

#[test]
fn a_read_of_what_was_not_yet_asked_for_is_found() {
    let mut history = good();
    history.reads[1].span = span(70, 80);
    let found = verify(&history);
    assert!(
        found.iter().any(|it| it.rule == Rule::ReadsShowWhatWas),
        "{found:#?}"
    );
}

#[test]
fn an_event_that_comes_again_is_found() {
    finds(Rule::WatchesAreOrdered, |history| {
        let again = events(history)[2].clone();
        events(history).insert(3, again);
    });
}

#[test]
fn events_in_the_wrong_order_are_found() {
    let mut history = good();
    events(&mut history).swap(1, 2);
    let found = verify(&history);
    assert!(
        found.iter().any(|it| it.rule == Rule::WatchesAreOrdered),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|it| it.rule == Rule::WatchesAreComplete),
        "{found:#?}"
    );
}

#[test]
fn a_gap_is_found_also_over_a_break_and_at_the_end() {
    for place in [1, 2, 4] {
        finds(Rule::WatchesAreComplete, |history| {
            drop(events(history).remove(place));
        });
    }
    finds(Rule::WatchesAreComplete, |history| {
        // The last event and the bookmark after it.
        let told = events(history);
        told.truncate(told.len() - 2);
    });
}

#[test]
fn an_event_that_tells_something_else_is_found() {
    finds(Rule::WatchesTellWhatWas, |history| {
        if let Told::Event(event) = &mut events(history)[2].1 {
            event.verb = Verb::Added;
        }
    });
    finds(Rule::WatchesTellWhatWas, |history| {
        if let Told::Event(event) = &mut history.watches[1].told[2].1 {
            event.state = state("u1", "b", "", "blue");
        }
    });
}

#[test]
fn an_initial_state_that_lacks_something_or_is_old_is_found() {
    finds(Rule::WatchesTellWhatWas, |history| {
        drop(history.watches[2].told.remove(1));
    });
    finds(Rule::ReadsAreCurrent, |history| {
        history.watches[2].told[0].0 = Duration::from_millis(145);
        history.reads.push(nothing_at(14, span(141, 144)));
    });
}

/// The first watcher finds at its break that what it has missed is forgotten, and begins again with the present state.
fn begun_again() -> History {
    let mut history = good();
    history.compacted = 13;
    let at = Duration::from_millis;
    let present = change(12, Verb::Added, history.order[1].state.clone());
    let told = events(&mut history);
    assert_eq!(told[3].1, Told::Opened(Start::After(12)));
    let again = [
        (at(130), Told::Compacted(12)),
        (at(131), Told::Opened(Start::State)),
        (at(132), Told::Event(present)),
        (at(133), Told::Synced(13)),
    ];
    told.splice(3..4, again);
    history
}

#[test]
fn a_watcher_that_begins_again_where_history_is_forgotten_has_missed_nothing() {
    assert_eq!(verify(&begun_again()), []);
}

#[test]
fn a_watcher_that_is_told_of_a_compaction_that_never_was_is_found() {
    let mut history = begun_again();
    history.compacted = 12;
    let found = verify(&history);
    assert!(
        found.len() == 1 && found[0].rule == Rule::RefusalsAreTrue,
        "{found:#?}"
    );
}

#[test]
fn a_watcher_that_goes_on_after_a_compaction_as_if_nothing_was_missing_is_found() {
    let mut history = begun_again();
    let told = events(&mut history);
    // From its old place on a new stream, which lacks what is forgotten.
    told.splice(
        3..7,
        [(Duration::from_millis(150), Told::Opened(Start::After(12)))],
    );
    drop(told.remove(4));
    let found = verify(&history);
    assert!(
        found.len() == 1 && found[0].rule == Rule::WatchesAreComplete,
        "{found:#?}"
    );
}

#[test]
fn what_is_of_another_kind_is_found() {
    finds(Rule::ReadsShowWhatWas, |history| {
        if let Shown::List { kind, .. } = &mut history.reads[4].shown {
            *kind = Kind::ConfigMap;
        }
    });
    finds(Rule::WatchesTellWhatWas, |history| {
        history.watches[2].kind = Kind::Secret;
    });
}

#[test]
fn a_message_that_never_comes_is_found() {
    finds(Rule::MessagesAreComplete, |history| {
        // The last one of the first object: nothing after it tells of it.
        history.messages.remove(5);
    });
    finds(Rule::MessagesAreComplete, |history| drop(history.messages.pop()));
}

#[test]
fn messages_in_the_wrong_order_are_found() {
    finds(Rule::MessagesAreOrdered, |history| history.messages.swap(4, 5));
}

#[test]
fn a_message_that_tells_something_else_is_found() {
    finds(Rule::MessagesTellWhatWas, |history| {
        let mut other = history.messages[4].clone();
        other.verb = Verb::Added;
        history.messages.push(other);
    });
}

#[test]
fn a_failure_that_is_no_outage_is_found() {
    finds(Rule::NothingElseFails, |history| {
        let error = Refusal::Other("Internal".to_owned());
        let failed = write(
            WriteKind::Update,
            "x",
            "red",
            span(181, 190),
            Outcome::Refused(error),
        );
        history.writes.push(failed);
    });
    finds(Rule::NothingElseFails, |history| {
        history.failures.push("a gap".to_owned());
    });
    finds(Rule::NothingElseFails, |history| {
        let told = events(history);
        told.push((
            Duration::from_millis(201),
            Told::Failed("OUT_OF_RANGE".to_owned()),
        ));
    });
}

#[test]
fn a_creation_that_takes_itself_back_is_no_one_elses_deletion() {
    let mut history = good();
    history.writes.retain(|write| write.kind != WriteKind::Delete);
    history.writes[0].outcome = Outcome::Unknown;
    let found = verify(&history);
    assert!(
        found.iter().all(|it| it.rule == Rule::EveryChangeWasAskedFor),
        "{found:#?}"
    );
    assert_eq!(found.len(), 1);
}
