//! The order of a pod's containers, as plans.

use super::*;
use crate::pod::testing::{sidecar, with_hooks, with_init};

/// `first`, the sidecar `proxy`, `second`, then `web`.
fn ordered() -> DesiredPod {
    with_init(
        &pod("p", vec![container("web", "web:1")]),
        vec![
            container("first", "first:1"),
            sidecar("proxy", "proxy:1"),
            container("second", "second:1"),
        ],
    )
}

fn with_policy(of: &DesiredPod, policy: &str) -> DesiredPod {
    let mut pod = of.clone();
    Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap().restart_policy = policy.to_owned();
    pod
}

fn world(pod: DesiredPod) -> World {
    let mut world = World::new(Want::Run(pod));
    world.exits = [("first".to_owned(), 0), ("second".to_owned(), 0)].into();
    world
}

fn running(world: &World) -> Vec<&str> {
    let running = |run: &&Run| matches!(run.state, RunState::Running { .. });
    let names = world.observed.containers.iter().filter(running);
    names.map(|run| run.name.as_str()).collect()
}

#[test]
fn containers_start_in_their_order_and_a_sidecar_stays() {
    let mut world = world(ordered());
    world.settle();
    assert_eq!(
        world.log,
        [
            "start first",
            "first ends",
            "start proxy",
            "start second",
            "second ends",
            "start web"
        ]
    );
    assert_eq!(running(&world), ["proxy", "web"]);
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn hooks_hold_up_what_comes_after_them_and_are_done_once() {
    let hooked = with_init(
        &pod("p", vec![with_hooks(container("web", "web:1"))]),
        vec![with_hooks(sidecar("proxy", "proxy:1"))],
    );
    let mut world = world(hooked.clone());
    world.settle();
    assert_eq!(
        world.log,
        [
            "start proxy",
            "after start of proxy",
            "start web",
            "after start of web"
        ]
    );
    world.log.clear();
    world.want = Want::Stop { pod: Some(hooked) };
    world.settle();
    assert_eq!(
        world.log,
        [
            "before stop of web",
            "stop web",
            "before stop of proxy",
            "stop proxy"
        ]
    );
}

#[test]
fn a_pod_that_nobody_names_ends_in_order_and_with_its_hooks() {
    let hooked = with_init(
        &pod("p", vec![with_hooks(container("web", "web:1"))]),
        vec![
            sidecar("outer", "outer:1"),
            with_hooks(sidecar("inner", "inner:1")),
        ],
    );
    let mut world = world(hooked);
    world.settle();
    world.log.clear();
    world.want = Want::Stop { pod: None };
    world.settle();
    assert_eq!(
        world.log,
        [
            "before stop of web",
            "stop web",
            "before stop of inner",
            "stop inner",
            "stop outer"
        ]
    );
}

#[test]
fn sidecars_end_in_reverse_order_once_the_containers_are_done() {
    let pod = with_init(
        &with_policy(&pod("p", vec![container("web", "web:1")]), "Never"),
        vec![sidecar("outer", "outer:1"), sidecar("inner", "inner:1")],
    );
    let mut world = world(pod);
    world.exits.insert("web".to_owned(), 0);
    world.settle();
    assert_eq!(
        world.log,
        [
            "start outer",
            "start inner",
            "start web",
            "web ends",
            "stop inner",
            "stop outer"
        ]
    );
    assert!(
        !world.observed.sandboxes[0].ready,
        "the network is given back once all has ended"
    );
}

#[test]
fn an_init_container_that_fails_is_tried_again_unless_the_policy_is_never() {
    for (policy, tries) in [("Always", 3), ("OnFailure", 3), ("Never", 1)] {
        let mut world = world(with_policy(&ordered(), policy));
        world.exits.insert("first".to_owned(), 1);
        for _ in 0..60 {
            let plan = world.step();
            if plan.actions.is_empty() && plan.wake_at.is_none() {
                world.let_end();
            }
            if world.log.len() == 2 * tries {
                break;
            }
        }
        let expected: Vec<_> = (0..tries).flat_map(|_| ["start first", "first ends"]).collect();
        assert_eq!(world.log, expected, "{policy}");
        if policy == "Never" {
            world.settle();
            assert_eq!(world.log, expected, "a pod that has failed stays so");
        }
    }
}

#[test]
fn a_pod_that_failed_before_its_containers_ends_its_sidecars() {
    let mut world = world(with_policy(&ordered(), "Never"));
    world.exits.insert("second".to_owned(), 3);
    world.settle();
    assert_eq!(
        world.log,
        [
            "start first",
            "first ends",
            "start proxy",
            "start second",
            "second ends",
            "stop proxy"
        ]
    );
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn a_sandbox_that_is_lost_makes_all_start_over_in_order() {
    let mut world = world(ordered());
    world.settle();
    world.log.clear();
    world.carry_out(&Action::StopSandbox {
        id: SandboxId::new("s1"),
    });
    world.settle();
    assert_eq!(
        world.log,
        [
            "start first",
            "first ends",
            "start proxy",
            "start second",
            "second ends",
            "start web"
        ]
    );
    assert_eq!(running(&world), ["proxy", "web"]);
}

#[test]
fn what_an_init_container_has_done_stays_done_whatever_becomes_of_its_spec() {
    let mut world = world(ordered());
    world.settle();
    world.log.clear();
    let mut changed = ordered();
    let spec = Arc::make_mut(&mut changed.pod).spec.as_mut().unwrap();
    spec.init_containers[0].image = "first:2".to_owned();
    spec.init_containers[2].args = vec!["more".to_owned()];
    spec.init_containers.push(container("third", "third:1"));
    world.want = Want::Run(changed.clone());
    world.settle();
    assert_eq!(world.log, [""; 0]);

    // Nor is it done again when the last container makes room for another.
    let spec = Arc::make_mut(&mut changed.pod).spec.as_mut().unwrap();
    spec.containers[0].image = "web:2".to_owned();
    spec.init_containers[1].image = "proxy:2".to_owned();
    world.want = Want::Run(changed);
    world.settle();
    assert_eq!(world.log.len(), 4, "{:?}", world.log);
    for done in ["stop web", "start web", "stop proxy", "start proxy"] {
        assert!(world.log.iter().any(|one| one == done), "{:?}", world.log);
    }
}

#[test]
fn a_hook_that_fails_after_the_start_ends_the_run() {
    let mut world = world(pod("p", vec![with_hooks(container("web", "web:1"))]));
    for _ in 0..5 {
        world.step();
    }
    assert_eq!(world.log, ["start web"]);
    let run = world.observed.containers[0].id.clone();
    let record = HookRecord {
        begun_at: world.now,
        end: Some(HookEnd::Failed("no".to_owned())),
    };
    world.memory.hooks.insert((run, Hook::PostStart), record);
    world.step();
    assert_eq!(world.log, ["start web", "before stop of web"]);
    let actions = world.plan().actions;
    assert!(
        matches!(
            actions.as_slice(),
            [Action::StopContainer {
                cause: StopCause::PostStartFailed,
                ..
            }]
        ),
        "{actions:?}"
    );
    world.settle();
    assert_eq!(
        world.observed.runs_of(&world.want.pod().unwrap().uid(), "web")[0].restart_count,
        1
    );
}

#[test]
fn what_is_done_before_a_stop_counts_towards_the_grace_period() {
    let pod = pod("p", vec![with_hooks(container("web", "web:1"))]);
    let mut world = world(pod);
    world.settle();
    world.want = Want::Stop { pod: None };
    let asked = world.now;
    let begins = world.plan().actions;
    let [Action::PreStop { call, until, cause }] = begins.as_slice() else {
        panic!("{begins:?}");
    };
    assert_eq!(*until, asked + Duration::from_secs(30));
    world.memory.note_stop(call.place.run(), *cause, asked);
    let record = |end| HookRecord { begun_at: asked, end };
    let key = (call.place.run().clone(), Hook::PreStop);
    world.memory.hooks.insert(key.clone(), record(None));

    let kill_at = |world: &World| match world.plan().actions.as_slice() {
        [Action::StopContainer { kill_at, .. }] => Some(*kill_at),
        _ => None,
    };
    world.now = asked + Duration::from_secs(10);
    assert_eq!(kill_at(&world), None, "it goes on");
    let mut late = world.clone();
    late.now = asked + Duration::from_secs(30);
    assert_eq!(
        kill_at(&late),
        Some(late.now + Duration::from_secs(2)),
        "a moment is left"
    );
    world.memory.hooks.insert(key, record(Some(HookEnd::Succeeded)));
    assert_eq!(kill_at(&world), Some(asked + Duration::from_secs(30)));
}

#[test]
fn without_any_grace_nothing_is_done_before_a_stop() {
    let mut world = world(pod("p", vec![with_hooks(container("web", "web:1"))]));
    world.settle();
    let mut deleted = world.want.pod().unwrap().clone();
    let metadata = Arc::make_mut(&mut deleted.pod).metadata.as_mut().unwrap();
    metadata.deletion_timestamp = Some(crate::clock::to_timestamp(world.now));
    metadata.deletion_grace_period_seconds = Some(0);
    world.want = Want::Stop { pod: Some(deleted) };
    let actions = world.plan().actions;
    assert!(
        matches!(actions.as_slice(), [Action::StopContainer { kill_at, .. }] if *kill_at == world.now),
        "{actions:?}"
    );
}
