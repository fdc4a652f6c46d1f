//! Containers for a look: each runs once, beside what there is.

use super::*;
use crate::pod::testing::with_ephemeral;

fn starts_of(world: &World, name: &str) -> usize {
    let start = format!("start {name}");
    world.log.iter().filter(|entry| **entry == start).count()
}

/// "web" and "side" run, and "look" beside them.
fn looked_at(target: &str) -> World {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    world.want = Want::Run(with_ephemeral(&web(), "look", target));
    world.settle();
    assert_eq!((starts_of(&world, "look"), world.stops), (1, 0));
    world
}

#[test]
fn it_is_started_once_and_never_again() {
    let mut world = looked_at("");
    world.exits.insert("look".into(), 1);
    world.settle();
    assert_eq!(starts_of(&world, "look"), 1);

    // Where the runtime has lost it, it is known to have run.
    world.observed.containers.retain(|run| run.name != "look");
    world.settle();
    assert_eq!((starts_of(&world, "look"), world.stops), (1, 0));
}

#[test]
fn it_waits_for_its_target_to_run() {
    let mut world = World::new(Want::Run(with_ephemeral(&web(), "look", "web")));
    let mut plans = Vec::new();
    while starts_of(&world, "look") == 0 {
        plans.push(planned(&world));
        world.step();
    }
    let first = plans.iter().position(|plan| plan.contains("\"look\"")).unwrap();
    let web_starts = plans
        .iter()
        .position(|plan| plan.contains("StartContainer { container: \"web\""))
        .unwrap();
    assert_eq!(first, web_starts + 1, "{plans:#?}");
    let makes = plans
        .iter()
        .find(|plan| plan.contains("CreateContainer { container: \"look\""))
        .unwrap();
    insta::assert_snapshot!(makes, @r#"CreateContainer { container: "look", sandbox: SandboxId("s1"), run: RunNumbers { restart_count: 0, backoff_step: 0 }, images: RunImages { own: ImageRef("sha256:look:1"), volumes: {} }, target: Some(ContainerId("c2")) }"#);
}

#[test]
fn one_that_was_made_for_a_run_that_is_over_is_made_anew() {
    let mut world = World::new(Want::Run(with_ephemeral(&web(), "look", "web")));
    while !world.observed.containers.iter().any(|run| run.name == "look") {
        world.step();
    }
    let made_first = world.observed.runs_of(&PodUid::new("p-uid"), "look")[0]
        .id
        .clone();
    world.now += Duration::from_secs(1);
    let target = world
        .observed
        .containers
        .iter_mut()
        .find(|run| run.name == "web")
        .unwrap();
    target.id = ContainerId::new("another");
    target.created_at = world.now;
    world.settle();
    let runs = world.observed.runs_of(&PodUid::new("p-uid"), "look");
    assert_eq!(runs.len(), 1);
    assert_ne!(runs[0].id, made_first);
    assert_eq!((starts_of(&world, "look"), world.stops), (1, 0));
}

#[test]
fn it_ends_when_the_containers_of_its_pod_are_done() {
    let mut pod = with_ephemeral(&web(), "look", "");
    Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap().restart_policy = "Never".into();
    let mut world = World::new(Want::Run(pod));
    world.settle();
    world.exits = [("web".into(), 0), ("side".into(), 1)].into();
    world.settle();
    assert!(world.log.contains(&"stop look".to_owned()), "{:?}", world.log);
    assert!(!world.observed.sandboxes[0].ready);
    assert_eq!(world.stops, 1);
}

#[test]
fn a_new_sandbox_does_not_run_it_again() {
    let mut world = looked_at("web");
    let mut pod = with_ephemeral(&web(), "look", "web");
    Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap().host_network = true;
    world.want = Want::Run(pod);
    world.settle();
    assert_eq!(starts_of(&world, "web"), 2);
    assert_eq!(starts_of(&world, "look"), 1);
    assert!(world.log.contains(&"stop look".to_owned()), "{:?}", world.log);
}

#[test]
fn it_stops_with_its_pod() {
    let mut world = looked_at("");
    world.want = Want::Stop { pod: None };
    world.settle();
    assert!(world.plan().gone);
    assert_eq!((starts_of(&world, "look"), world.stops), (1, 3));
}
