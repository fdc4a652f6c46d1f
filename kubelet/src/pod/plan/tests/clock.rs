//! Clocks that are set, and clocks that disagree.

use super::*;

const HOUR: Duration = Duration::from_hours(1);

/// Nothing is done yet, but will be by itself; an hour earlier, by a clock that was set back, it is done at once.
fn assert_waits_unless_set_back(mut world: World) {
    let waiting = world.plan();
    assert!(
        waiting.actions.is_empty() && waiting.wake_at.is_some(),
        "{waiting:?}"
    );
    world.now -= HOUR;
    let set_back = world.plan();
    assert!(!set_back.actions.is_empty(), "{set_back:?}");
}

#[test]
fn a_clock_that_was_set_back_does_not_put_off_a_restart() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    world.observed.containers[0].backoff_step = 3;
    world.end(0, 1);
    assert_waits_unless_set_back(world);
}

#[test]
fn a_clock_that_was_set_back_does_not_put_off_another_try() {
    let mut world = World::new(Want::Run(web()));
    let cause = FailureCause {
        message: "no room".into(),
        transient: false,
    };
    let step = super::super::super::memory::FailedStep::RunSandbox;
    let spec = hash::sandbox_hash(world.want.pod().unwrap());
    world.memory.fail(Target::Pod, step, &spec, &cause, world.now);
    assert_waits_unless_set_back(world);
}

#[test]
fn a_pod_has_its_whole_grace_whatever_the_clock_says_that_asked() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    for asked in [world.now - HOUR, world.now, world.now + HOUR] {
        let mut deleted = web();
        let metadata = Arc::make_mut(&mut deleted.pod).metadata.as_mut().unwrap();
        metadata.deletion_timestamp = Some(crate::clock::to_timestamp(asked));
        metadata.deletion_grace_period_seconds = Some(45);
        world.want = Want::Stop { pod: Some(deleted) };
        let actions = world.plan().actions;
        let expected = world.now + Duration::from_secs(45);
        assert!(
            matches!(actions.as_slice(), [Action::StopContainer { kill_at, .. }, ..] if *kill_at == expected),
            "{asked:?}: {actions:?}"
        );
    }
}

#[test]
fn a_clock_that_was_set_back_gives_a_stop_no_more_than_the_grace() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    for run in &world.observed.containers {
        world.memory.note_stop(&run.id, StopCause::PodDeleted, world.now);
    }
    world.now -= HOUR;
    world.want = Want::Stop { pod: None };
    let actions = world.plan().actions;
    let expected = world.now + Duration::from_secs(30);
    assert!(
        matches!(actions.as_slice(), [Action::StopContainer { kill_at, .. }, ..] if *kill_at == expected),
        "{actions:?}"
    );
}
