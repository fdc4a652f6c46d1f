//! What plans look like, and what holds for every plan.

mod clock;
mod ephemeral;
mod order;
mod order_properties;
mod properties;
mod world;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use clone8s::v1::{Container, ImageVolumeSource, Volume, VolumeMount, volume::Source};

use world::{World, at, container_hash};

use super::*;
use crate::{
    desired::PodUid,
    pod::{
        cri::grace_seconds,
        hook::{self, Hook, HookCall, HookEnd, HookRecord},
        memory::{Failure, FailureCause, ImageKnowledge},
        observed::{Exit, PostStart, Sandbox},
        resources::Allocation,
        stages::Role,
        testing::{container, pod},
    },
    probe::{Health, ProbeKind},
    runtime::{ContainerId, ImageRef, SandboxId},
};

fn web() -> DesiredPod {
    pod("p", vec![container("web", "web:1"), container("side", "side:1")])
}

/// A plan as people read it.
fn describe(plan: &Plan) -> String {
    let mut text = String::new();
    for action in &plan.actions {
        let _ = writeln!(text, "{action:?}");
    }
    if let Some(wake_at) = plan.wake_at {
        let _ = writeln!(text, "wake after {:?}", wake_at.duration_since(at(0)).unwrap());
    }
    if plan.gone {
        text.push_str("gone\n");
    }
    if text.is_empty() {
        text.push_str("nothing to do\n");
    }
    text
}

fn planned(world: &World) -> String {
    describe(&world.plan())
}

#[test]
fn a_new_pod_begins_with_its_sandbox() {
    insta::assert_snapshot!(planned(&World::new(Want::Run(web()))), @r"RunSandbox { attempt: 0 }");
}

#[test]
fn containers_of_a_ready_sandbox_go_their_ways_side_by_side() {
    let mut world = World::new(Want::Run(web()));
    world.step();
    insta::assert_snapshot!(planned(&world), @r#"
    InspectImage { container: "web", image: "web:1" }
    InspectImage { container: "side", image: "side:1" }
    "#);
    world.step();
    insta::assert_snapshot!(planned(&world), @r#"
    PullImage { container: "web", image: "web:1" }
    PullImage { container: "side", image: "side:1" }
    "#);
    world.step();
    insta::assert_snapshot!(planned(&world), @r#"
    CreateContainer { container: "web", sandbox: SandboxId("s1"), run: RunNumbers { restart_count: 0, backoff_step: 0 }, images: RunImages { own: ImageRef("sha256:web:1"), volumes: {} }, target: None }
    CreateContainer { container: "side", sandbox: SandboxId("s1"), run: RunNumbers { restart_count: 0, backoff_step: 0 }, images: RunImages { own: ImageRef("sha256:side:1"), volumes: {} }, target: None }
    "#);
    world.step();
    insta::assert_snapshot!(planned(&world), @r#"
    StartContainer { container: "web", id: ContainerId("c2") }
    StartContainer { container: "side", id: ContainerId("c3") }
    "#);
    world.step();
    insta::assert_snapshot!(planned(&world), @"nothing to do");
}

#[test]
fn deletion_stops_containers_before_the_sandbox() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    world.want = Want::Stop { pod: None };
    let mut plans = Vec::new();
    for _ in 0..6 {
        let plan = world.plan();
        plans.push(
            plan.actions
                .iter()
                .map(|action| format!("{action:?}"))
                .map(|text| first_word(&text))
                .collect::<Vec<_>>(),
        );
        world.step();
    }
    let expected: [&[&str]; 6] = [
        &["StopContainer", "StopContainer"],
        &["StopSandbox"],
        &["RemoveSandbox"],
        &["CleanUp"],
        &[],
        &[],
    ];
    assert_eq!(plans, expected);
    assert!(world.plan().gone);
}

fn first_word(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn another_sandbox_spec_stops_everything_before_it_makes_the_next() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    let mut moved = web();
    Arc::make_mut(&mut moved.pod).spec.as_mut().unwrap().host_network = true;
    world.want = Want::Run(moved);
    let stops = world.plan().actions;
    assert!(
        stops.iter().all(|action| matches!(
            action,
            Action::StopContainer {
                cause: StopCause::SpecChanged,
                ..
            }
        )) && stops.len() == 2,
        "{stops:?}"
    );
    world.step();
    insta::assert_snapshot!(planned(&world), @r#"StopSandbox { id: SandboxId("s1") }"#);
    world.step();
    insta::assert_snapshot!(planned(&world), @"RunSandbox { attempt: 1 }");
}

#[test]
fn the_wait_before_a_restart_doubles_and_is_bounded() {
    let intervals = Intervals::default();
    let exit = Exit {
        code: 1,
        reason: String::new(),
        message: String::new(),
        started_at: Some(at(0)),
        finished_at: at(1),
    };
    let mut world = World::new(Want::Run(web()));
    world.settle();
    let mut run = world.observed.containers[0].clone();
    let waits: Vec<_> = (0..8)
        .map(|step| {
            run.backoff_step = step;
            match next_run("Always", &run, &exit, &intervals) {
                Next::RestartAt { at: when, .. } => when.duration_since(at(1)).unwrap().as_secs(),
                Next::Done => panic!("always restarts"),
            }
        })
        .collect();
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn a_failure_of_the_runtime_itself_is_tried_again_soon() {
    let mut memory = Memory::default();
    let cause = FailureCause {
        message: "away".into(),
        transient: true,
    };
    memory.fail(
        Target::Pod,
        super::super::memory::FailedStep::RunSandbox,
        "h",
        &cause,
        at(0),
    );
    let failure: &Failure = memory.failure(&Target::Pod, "h").unwrap();
    assert_eq!(failure.retry_at(&Intervals::default()), at(1));
}

#[test]
fn a_failure_of_an_older_spec_does_not_count() {
    let mut world = World::new(Want::Run(web()));
    world.step();
    let cause = FailureCause {
        message: "no such image".into(),
        transient: false,
    };
    let target = Target::Container("web".into());
    world.memory.fail(
        target,
        super::super::memory::FailedStep::PullImage,
        "older",
        &cause,
        world.now,
    );
    assert_eq!(world.plan().actions.len(), 2);
    let mut memory = world.memory.clone();
    let present = container_hash(&world, "web");
    memory.fail(
        Target::Container("web".into()),
        super::super::memory::FailedStep::PullImage,
        &present,
        &cause,
        world.now,
    );
    world.memory = memory;
    insta::assert_snapshot!(planned(&world), @r#"
    InspectImage { container: "side", image: "side:1" }
    wake after 10s
    "#);
}

#[test]
fn a_refused_pod_is_neither_started_nor_stopped() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    let refusal = Refusal {
        reason: "HostPortConflict",
        message: String::new(),
    };
    world.want = Want::Refuse { pod: web(), refusal };
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn of_two_sandboxes_the_one_that_containers_run_in_stays() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    let mut twin = world.observed.sandboxes[0].clone();
    twin.id = SandboxId::new("twin");
    twin.attempt += 1;
    world.observed.sandboxes.push(twin);
    insta::assert_snapshot!(planned(&world), @r#"StopSandbox { id: SandboxId("twin") }"#);
    world.settle();
    assert_eq!(world.observed.sandboxes.len(), 1);
    assert_eq!(world.stops, 0);
}

#[test]
fn a_run_whose_probe_has_failed_is_stopped_and_followed_by_another() {
    let mut world = World::new(Want::Run(web()));
    world.settle();
    world.observed.containers[0].health.failed = Some(ProbeKind::Liveness);
    insta::assert_snapshot!(first_word(&planned(&world)), @"StopContainer");
    world.settle();
    let runs = world.observed.runs_of(&web().uid(), "web");
    assert_eq!((runs[0].restart_count, &runs[0].health), (1, &Health::UNPROBED));
    assert_eq!(world.stops, 1);
}

#[test]
fn a_container_waits_for_the_images_that_it_mounts() {
    let mut pod = pod("p", vec![container("web", "web:1")]);
    let spec = Arc::make_mut(&mut pod.pod).spec.get_or_insert_default();
    for (name, pull_policy) in [("mounted", "Always"), ("unmounted", "Always")] {
        spec.volumes.push(Volume {
            name: name.into(),
            source: Some(Source::Image(ImageVolumeSource {
                reference: format!("{name}:1"),
                pull_policy: pull_policy.into(),
            })),
        });
    }
    spec.containers[0].volume_mounts.push(VolumeMount {
        name: "mounted".into(),
        ..Default::default()
    });
    let mut world = World::new(Want::Run(pod));
    for _ in 0..3 {
        world.step();
    }
    insta::assert_snapshot!(planned(&world), @r#"PullImage { container: "web", image: "mounted:1" }"#);
    world.step();
    insta::assert_snapshot!(planned(&world), @r#"CreateContainer { container: "web", sandbox: SandboxId("s1"), run: RunNumbers { restart_count: 0, backoff_step: 0 }, images: RunImages { own: ImageRef("sha256:web:1"), volumes: {"mounted": ImageRef("sha256:mounted:1")} }, target: None }"#);
}
