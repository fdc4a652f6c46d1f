//! What holds for pods with init containers, from wherever a node starts.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::pod::testing::{sidecar, with_hooks, with_init};

const INIT: [&str; 3] = ["i0", "i1", "i2"];

/// Up to three init containers, sidecars among them, then one or two containers, some with hooks.
fn specs() -> impl Strategy<Value = DesiredPod> {
    let init = vec((any::<bool>(), any::<bool>()), 1..=3);
    let policies = select(vec!["Always", "OnFailure", "Never"]);
    (init, 1..=2_usize, any::<bool>(), policies).prop_map(|(init, count, hooks, policy)| {
        let init = init
            .into_iter()
            .enumerate()
            .map(|(place, (stays, hooks))| match (stays, hooks) {
                (false, _) => container(INIT[place], "image:1"),
                (true, false) => sidecar(INIT[place], "image:1"),
                (true, true) => with_hooks(sidecar(INIT[place], "image:1")),
            });
        let main = ["m0", "m1"].into_iter().take(count).map(|name| {
            let plain = container(name, "image:1");
            if hooks { with_hooks(plain) } else { plain }
        });
        let mut pod = with_init(&pod("p", main.collect()), init.collect());
        let spec = Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap();
        spec.restart_policy = policy.to_owned();
        pod
    })
}

/// What happens to a node while a pod comes up: for some steps nothing, then one of these.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    LosesSandbox,
    Ends(&'static str, i32),
    /// The kubelet forgets everything but what is on disk.
    Restarts,
}

fn mishaps() -> impl Strategy<Value = Vec<(usize, Mishap)>> {
    let names = select(vec!["i0", "i1", "i2", "m0", "m1"]);
    let mishap = prop_oneof![
        Just(Mishap::LosesSandbox),
        (names, 0..2).prop_map(|(name, code)| Mishap::Ends(name, code)),
        Just(Mishap::Restarts),
    ];
    vec((0..12_usize, mishap), 0..5)
}

fn strike(world: &mut World, mishap: Mishap) {
    match mishap {
        Mishap::LosesSandbox => {
            let ready = world.observed.sandboxes.iter().find(|sandbox| sandbox.ready);
            if let Some(id) = ready.map(|sandbox| sandbox.id.clone()) {
                world.carry_out(&Action::StopSandbox { id });
            }
        }
        Mishap::Ends(name, code) => {
            let before = std::mem::take(&mut world.exits);
            world.exits = [(name.to_owned(), code)].into();
            world.let_end();
            world.exits = before;
        }
        Mishap::Restarts => {
            let hooks = std::mem::take(&mut world.memory).hooks;
            world.memory.hooks = hooks;
        }
    }
}

fn is_running(run: &Run) -> bool {
    matches!(run.state, RunState::Running { .. })
}

/// Of an action that begins a run: the container.
fn begun(action: &Action) -> Option<&str> {
    match action {
        Action::CreateContainer { container, .. } | Action::StartContainer { container, .. } => {
            Some(container)
        }
        _ => None,
    }
}

/// Whether all that comes before a container is past, as a person would say it.
fn may_run(world: &World, pod: &DesiredPod, name: &str) -> bool {
    let (spec, uid) = (pod.spec(), pod.uid());
    let sandbox = world
        .observed
        .present_sandbox(&uid, &hash::sandbox_hash(pod))
        .unwrap();
    let here = |run: &&Run| run.sandbox == sandbox.id;
    let was_through = world
        .observed
        .containers
        .iter()
        .filter(here)
        .any(|run| run.name.starts_with('m'));
    let before: Vec<_> = spec
        .init_containers
        .iter()
        .take_while(|container| container.name != name)
        .collect();
    was_through
        || before.into_iter().all(|container| {
            let runs = world.observed.runs_of(&uid, &container.name);
            let Some(run) = runs.first().copied().filter(here) else {
                return false;
            };
            match &run.state {
                RunState::Exited(exit) => exit.code == 0 && !container.is_sidecar(),
                RunState::Running { .. } => container.is_sidecar() && run.post_start == PostStart::Over,
                RunState::Created | RunState::Unknown => false,
            }
        })
}

fn world(pod: &DesiredPod) -> World {
    let mut world = World::new(Want::Run(pod.clone()));
    let init = pod.spec().init_containers.iter();
    world.exits = init
        .filter(|container| !container.is_sidecar())
        .map(|container| (container.name.clone(), 0))
        .collect();
    world
}

proptest! {
    #[test]
    fn nothing_starts_before_its_turn_and_no_work_is_done_twice(pod in specs(), mishaps in mishaps()) {
        let mut world = world(&pod);
        for (steps, mishap) in mishaps {
            for _ in 0..steps {
                let before = world.clone();
                let plan = world.step();
                for name in plan.actions.iter().filter_map(begun) {
                    prop_assert!(may_run(&before, &pod, name), "{name} in {before:#?}");
                    let sandbox = before.observed.present_sandbox(&pod.uid(), &hash::sandbox_hash(&pod)).unwrap();
                    let done = before.observed.runs_of(&pod.uid(), name).into_iter().any(|run| {
                        run.sandbox == sandbox.id && matches!(&run.state, RunState::Exited(exit) if exit.code == 0)
                    });
                    let is_init = matches!(Role::of(pod.spec(), name), Some(Role::Init(_)));
                    prop_assert!(!(is_init && done), "{name} has done its work: {before:#?}");
                }
                if plan.actions.is_empty() && plan.wake_at.is_none() {
                    world.let_end();
                }
            }
            strike(&mut world, mishap);
        }
    }

    #[test]
    fn whatever_happens_on_the_way_a_pod_comes_to_rest_where_it_should(pod in specs(), mishaps in mishaps()) {
        let mut world = world(&pod);
        for (steps, mishap) in mishaps {
            for _ in 0..steps {
                let plan = world.step();
                if plan.actions.is_empty() && plan.wake_at.is_none() {
                    world.let_end();
                }
            }
            strike(&mut world, mishap);
        }
        world.settle();
        prop_assert_eq!(world.plan(), Plan::default(), "once settled, it stays so");
        let sandbox = world.observed.present_sandbox(&pod.uid(), &hash::sandbox_hash(&pod));
        let stage = Stage::of(&pod, &world.observed, sandbox, &Intervals::default());
        let names: Vec<_> = world.observed.containers.iter().filter(|run| is_running(run))
            .map(|run| run.name.as_str()).collect();
        match stage {
            Stage::Main => {
                for sidecar in pod.spec().sidecars() {
                    prop_assert!(names.contains(&sidecar.name.as_str()), "{world:#?}");
                }
                let always = pod.spec().restart_policy == "Always";
                let all = pod.spec().containers.iter().all(|one| names.contains(&one.name.as_str()));
                prop_assert!(all || !always, "{world:#?}");
            }
            Stage::Over | Stage::Failed(_) => {
                prop_assert!(names.is_empty() && pod.spec().restart_policy != "Always", "{world:#?}");
            }
            Stage::Init(_) => prop_assert!(false, "it waits for ever: {world:#?}"),
        }
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        prop_assert_eq!(unique.len(), names.len(), "two runs of one container");
    }

    #[test]
    fn a_pod_ends_containers_first_then_sidecars_in_reverse_and_each_hook_once(
        pod in specs(), steps in 0..30_usize, named in any::<bool>(), restart in any::<bool>()
    ) {
        let mut world = world(&pod);
        for _ in 0..steps {
            let plan = world.step();
            if plan.actions.is_empty() && plan.wake_at.is_none() {
                world.let_end();
            }
        }
        world.want = Want::Stop { pod: named.then(|| pod.clone()) };
        if restart {
            strike(&mut world, Mishap::Restarts);
        }
        world.log.clear();
        world.exits.clear();
        world.settle();
        prop_assert!(world.observed.is_empty());
        let stopped: Vec<_> = world.log.iter().filter_map(|one| one.strip_prefix("stop ")).collect();
        let place = |name: &str| match Role::of(pod.spec(), name) {
            Some(Role::Sidecar(place)) => place,
            _ => usize::MAX,
        };
        prop_assert!(stopped.windows(2).all(|pair| place(pair[0]) >= place(pair[1])), "{stopped:?}");
        for name in stopped {
            let hooked = pod.spec().container(name).is_some_and(|one| one.lifecycle.is_some());
            let told = world.log.iter().filter(|one| **one == format!("before stop of {name}")).count();
            prop_assert_eq!(told, usize::from(hooked), "{}", name);
        }
    }
}
