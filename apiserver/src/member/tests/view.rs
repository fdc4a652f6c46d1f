//! What a member does next, by what it sees.

use super::{
    super::view::{Sign, Step, View},
    EXPIRE, Instant, RENEW, Revision,
};

const MILLISECOND: std::time::Duration = std::time::Duration::from_millis(1);

/// Of a member that has said whether it is alone.
fn view(alone: bool, now: Instant) -> View {
    let mut view = View::new(now);
    view.leased(alone, now);
    view
}

fn membership(revision: i64) -> Sign {
    Sign::Membership(Some(Revision(revision)))
}

fn lease(revision: i64, alone: bool) -> Sign {
    Sign::Lease {
        written: Some(Revision(revision)),
        alone,
    }
}

#[test]
fn a_lease_is_written_at_once_and_again_and_again() {
    let now = Instant::now();
    assert_eq!(View::new(now).next(now), Step::Lease { alone: true });
    let view = view(true, now);
    assert_eq!(view.next(now), Step::Wait(now + RENEW));
    assert_eq!(view.next(now + RENEW), Step::Lease { alone: true });
}

#[test]
fn whether_it_is_alone_is_said_as_soon_as_it_changes() {
    let now = Instant::now();
    let mut view = view(true, now);
    // A lease without a membership is of nobody who writes.
    view.see("b", lease(7, false), now);
    assert_eq!(view.next(now), Step::Wait(now + RENEW));
    view.see("b", membership(8), now);
    assert_eq!(view.next(now), Step::Lease { alone: false });
    view.leased(false, now);
    assert_eq!(view.next(now), Step::Wait(now + RENEW));
    view.see("b", Sign::Membership(None), now);
    assert_eq!(view.next(now), Step::Lease { alone: true });
}

#[test]
fn one_that_is_alone_is_waited_for_until_it_says_otherwise_or_is_no_member() {
    let now = Instant::now();
    for (sign, waits) in [
        (lease(9, true), true),
        (lease(9, false), false),
        (Sign::Membership(None), false),
    ] {
        let mut view = View::new(now);
        view.see("b", membership(7), now);
        view.see("b", lease(8, true), now);
        assert!(view.another_is_alone());
        view.see("b", sign, now);
        assert_eq!(view.another_is_alone(), waits, "{sign:?}");
    }
}

#[test]
fn who_writes_no_lease_is_expelled_by_the_lease_that_was_seen() {
    let now = Instant::now();
    let mut view = View::new(now);
    view.see("b", membership(7), now);
    view.see("b", lease(8, true), now);
    let late = now + EXPIRE;
    view.leased(false, late);
    let Step::Expel { identity, other } = view.next(late) else {
        panic!("{:?}", view.next(late));
    };
    assert_eq!(identity, "b");
    assert_eq!(
        (other.membership, other.lease),
        (Some(Revision(7)), Some(Revision(8)))
    );
    view.see("b", lease(9, true), late);
    assert_eq!(view.next(late), Step::Wait(late + RENEW));
}

#[test]
fn a_look_is_no_sign_of_life_of_those_who_have_written_nothing() {
    let now = Instant::now();
    let mut view = View::new(now);
    let signs = [("b", membership(7)), ("b", lease(8, false)), ("c", membership(9))];
    view.see_all(signs, now);
    let later = now + EXPIRE - MILLISECOND;
    // Of these, "b" has written a lease since, "c" nothing, and "d" has come.
    let signs = [
        ("b", membership(7)),
        ("b", lease(10, false)),
        ("c", membership(9)),
        ("d", membership(11)),
    ];
    view.see_all(signs, later);
    let late = now + EXPIRE;
    view.leased(false, late);
    assert!(matches!(view.next(late), Step::Expel { identity, .. } if identity == "c"));
    view.see_all([], late);
    assert_eq!(view.next(late), Step::Lease { alone: true });
}
