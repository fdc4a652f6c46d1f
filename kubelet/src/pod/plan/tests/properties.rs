//! What holds from wherever a node starts.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::pod::testing::with_ephemeral;

const OWN: &str = "p-uid";

/// A spec of up to three containers.
fn specs() -> impl Strategy<Value = DesiredPod> {
    let names = proptest::sample::subsequence(vec!["a", "b", "c"], 1..=3);
    let policies = select(vec!["Always", "OnFailure", "Never"]);
    let pulls = select(vec!["Always", "IfNotPresent"]);
    (names, policies, pulls, any::<bool>()).prop_map(|(names, policy, pull, host_network)| {
        let containers = names
            .into_iter()
            .map(|name| Container {
                image_pull_policy: pull.to_owned(),
                ..container(name, "image:1")
            })
            .collect();
        let mut pod = pod("p", containers);
        let spec = Arc::make_mut(&mut pod.pod).spec.as_mut().unwrap();
        spec.restart_policy = policy.to_owned();
        spec.host_network = host_network;
        pod
    })
}

#[derive(Debug, Clone)]
struct AnySandbox {
    own: bool,
    ready: bool,
    up_to_date: bool,
}

fn sandboxes() -> impl Strategy<Value = Vec<AnySandbox>> {
    let one = (any::<bool>(), any::<bool>(), any::<bool>());
    vec(
        one.prop_map(|(own, ready, up_to_date)| AnySandbox {
            own,
            ready,
            up_to_date,
        }),
        0..4,
    )
}

#[derive(Debug, Clone)]
struct AnyRun {
    name: &'static str,
    /// Which of the sandboxes; one past the last is one that is gone.
    sandbox: usize,
    state: u8,
    code: i32,
    up_to_date: bool,
    /// Has the limits that its spec asks for.
    allocated: bool,
    restart_count: u32,
}

fn runs() -> impl Strategy<Value = Vec<AnyRun>> {
    let one = (
        select(vec!["a", "b", "c", "z"]),
        0..5_usize,
        0..4_u8,
        0..2,
        any::<bool>(),
        any::<bool>(),
        0..4_u32,
    );
    let run = one.prop_map(
        |(name, sandbox, state, code, up_to_date, allocated, restart_count)| AnyRun {
            name,
            sandbox,
            state,
            code,
            up_to_date,
            allocated,
            restart_count,
        },
    );
    vec(run, 0..6)
}

fn world(pod: &DesiredPod, sandboxes: &[AnySandbox], runs: &[AnyRun]) -> World {
    let mut world = World::new(Want::Run(pod.clone()));
    for (index, sandbox) in sandboxes.iter().enumerate() {
        world.observed.sandboxes.push(Sandbox {
            id: SandboxId::new(format!("old-s{index}")),
            uid: PodUid::new(if sandbox.own { OWN } else { "another" }),
            attempt: u32::try_from(index).unwrap(),
            ready: sandbox.ready,
            created_at: at(0),
            spec_hash: if sandbox.up_to_date {
                hash::sandbox_hash(pod)
            } else {
                "stale".into()
            },
            grace: None,
            ip: None,
        });
    }
    for (index, run) in runs.iter().enumerate() {
        let sandbox = world.observed.sandboxes.get(run.sandbox);
        let spec = pod.spec().containers.iter().find(|one| one.name == run.name);
        let fresh = spec
            .filter(|_| run.up_to_date)
            .map(|spec| hash::container_hash(pod, spec));
        let state = match run.state {
            0 => RunState::Created,
            1 => RunState::Running { started_at: at(0) },
            2 => RunState::Unknown,
            _ => RunState::Exited(Exit {
                code: run.code,
                reason: String::new(),
                message: String::new(),
                started_at: Some(at(0)),
                finished_at: at(0),
            }),
        };
        world.observed.containers.push(Run {
            id: ContainerId::new(format!("old-c{index}")),
            sandbox: sandbox.map_or_else(|| SandboxId::new("lost"), |sandbox| sandbox.id.clone()),
            uid: sandbox.map_or_else(|| PodUid::new(OWN), |sandbox| sandbox.uid.clone()),
            name: run.name.to_owned(),
            state,
            created_at: at(0),
            spec_hash: fresh.unwrap_or_else(|| "stale".into()),
            restart_count: run.restart_count,
            backoff_step: run.restart_count,
            image: String::new(),
            image_id: String::new(),
            health: Health::UNPROBED,
            sidecar: None,
            pre_stop: None,
            post_start: PostStart::Over,
            allocation: spec
                .filter(|_| run.allocated)
                .and_then(|spec| Allocation::wanted(spec).ok())
                .or_else(|| Allocation::parse("7 - 7")),
        });
    }
    world
}

fn is_running(run: &Run) -> bool {
    matches!(run.state, RunState::Running { .. })
}

/// A run that has nothing wrong with it: stopping it would be an outage.
fn must_go_on<'a>(world: &'a World, pod: &DesiredPod) -> Vec<&'a Run> {
    let fits = |sandbox: &&Sandbox| {
        sandbox.ready && sandbox.uid == pod.uid() && sandbox.spec_hash == hash::sandbox_hash(pod)
    };
    let fitting: Vec<_> = world.observed.sandboxes.iter().filter(fits).collect();
    let [only] = fitting.as_slice() else {
        return Vec::new();
    };
    let runs = world.observed.containers.iter().filter(|run| {
        let spec = pod.spec().containers.iter().find(|one| one.name == run.name);
        let up_to_date = spec.is_some_and(|spec| hash::container_hash(pod, spec) == run.spec_hash);
        let newest = world
            .observed
            .runs_of(&run.uid, &run.name)
            .first()
            .is_some_and(|newest| newest.id == run.id);
        is_running(run) && run.sandbox == only.id && up_to_date && newest
    });
    runs.collect()
}

proptest! {
    #[test]
    fn from_anywhere_a_pod_comes_to_run_as_its_spec_says(
        pod in specs(), sandboxes in sandboxes(), runs in runs()
    ) {
        let mut world = world(&pod, &sandboxes, &runs);
        world.settle();
        prop_assert!(world.observed.sandboxes.iter().all(|sandbox| sandbox.uid == pod.uid()));
        for spec in &pod.spec().containers {
            let of_name = world.observed.runs_of(&pod.uid(), &spec.name);
            let running: Vec<_> = of_name.iter().filter(|run| is_running(run)).collect();
            if pod.spec().restart_policy == "Always" {
                prop_assert_eq!(running.len(), 1);
            } else {
                prop_assert!(running.len() <= 1 && !of_name.is_empty());
            }
            prop_assert!(running.iter().all(|run| run.spec_hash == hash::container_hash(&pod, spec)));
            let wanted = Allocation::wanted(spec).unwrap();
            let has = |run: &&Run| world.memory.resized.get(&run.id).copied().or(run.allocation);
            prop_assert!(running.iter().all(|run| has(run) == Some(wanted)));
            prop_assert!(of_name.len() <= 2, "old runs are removed: {of_name:?}");
        }
        let strays = world.observed.containers.iter().any(|run| {
            !pod.spec().containers.iter().any(|spec| spec.name == run.name)
        });
        prop_assert!(!strays);
        let ready = world.observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
        prop_assert!(ready <= 1);
        prop_assert_eq!(world.plan(), Plan::default(), "once settled, it stays so");
    }

    #[test]
    fn from_anywhere_an_unwanted_pod_comes_to_nothing_and_nothing_of_it_starts(
        pod in specs(), sandboxes in sandboxes(), runs in runs(), named in any::<bool>()
    ) {
        let mut world = world(&pod, &sandboxes, &runs);
        world.want = Want::Stop { pod: named.then(|| pod.clone()) };
        let plans = world.settle();
        for action in plans.iter().flat_map(|plan| &plan.actions) {
            let begins = matches!(
                action,
                Action::RunSandbox { .. }
                    | Action::InspectImage { .. }
                    | Action::PullImage { .. }
                    | Action::CreateContainer { .. }
                    | Action::StartContainer { .. }
            );
            prop_assert!(!begins, "{action:?}");
        }
        prop_assert!(world.observed.is_empty());
        prop_assert!(world.memory.uncleaned.is_empty());
        prop_assert!(plans.last().is_some_and(|plan| plan.gone));
        let early = &plans[..plans.len() - 1];
        prop_assert!(early.iter().all(|plan| !plan.gone), "gone is said last");
    }

    #[test]
    fn from_anywhere_an_ephemeral_container_is_started_once_at_most(
        pod in specs(), target in select(vec!["", "a"]), sandboxes in sandboxes(), runs in runs()
    ) {
        let pod = with_ephemeral(&pod, "z", target);
        let mut world = world(&pod, &sandboxes, &runs);
        let has_run = world.observed.runs_of(&pod.uid(), "z").iter().any(|run| run.state != RunState::Created);
        world.settle();
        let starts = world.log.iter().filter(|entry| *entry == "start z").count();
        prop_assert!(starts <= usize::from(!has_run), "{:?}", world.log);
        let running = world.observed.runs_of(&pod.uid(), "z").into_iter().filter(|run| is_running(run));
        prop_assert!(running.count() <= 1);
        prop_assert_eq!(world.plan(), Plan::default(), "once settled, it stays so");
    }

    #[test]
    fn what_need_not_stop_is_never_stopped_and_nothing_runs_twice(
        pod in specs(), sandboxes in sandboxes(), runs in runs()
    ) {
        let mut world = world(&pod, &sandboxes, &runs);
        for _ in 0..60 {
            let foreign = world.observed.sandboxes.iter().any(|sandbox| sandbox.uid != pod.uid());
            let healthy: Vec<_> = must_go_on(&world, &pod).into_iter().map(|run| run.id.clone()).collect();
            let before = world.clone();
            let plan = world.step();
            for action in &plan.actions {
                match action {
                    Action::StopContainer { id, .. } | Action::RemoveContainer { id } => {
                        prop_assert!(!healthy.contains(id), "{action:?} in {before:#?}");
                    }
                    Action::StopSandbox { id } | Action::RemoveSandbox { id } => {
                        let inside = before.observed.containers.iter().filter(|run| run.sandbox == *id);
                        let hurt = inside.filter(|run| healthy.contains(&run.id)).count();
                        prop_assert_eq!(hurt, 0, "{:?} in {:#?}", action, before);
                    }
                    Action::StartContainer { container, .. } => {
                        let of_name = before.observed.runs_of(&pod.uid(), container);
                        prop_assert!(!of_name.into_iter().any(is_running), "{action:?} in {before:#?}");
                        prop_assert!(!foreign, "the old pod of this name goes first");
                    }
                    Action::RunSandbox { .. } => prop_assert!(!foreign, "the old pod of this name goes first"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn the_same_state_gives_the_same_plan(pod in specs(), sandboxes in sandboxes(), runs in runs()) {
        let world = world(&pod, &sandboxes, &runs);
        prop_assert_eq!(world.plan(), world.clone().plan());
    }
}
