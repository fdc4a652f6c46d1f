//! The status of one container: what it does, why it waits, how it ended.

use clone8s::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, container_state::State,
};

use super::{
    super::{
        ephemeral, hash,
        images::{self, Needed},
        memory::{FailedStep, Failure, ImageKnowledge, Memory, Target},
        observed::{Exit, Observed, PostStart, Run, RunState, Sandbox},
        plan::{Next, next_run},
        resources,
        stages::{Role, Stage},
    },
    StatusContext,
};
use crate::{
    clock::to_timestamp,
    desired::{DesiredPod, PodUid},
};

/// What the statuses of a pod's containers follow from.
pub(super) struct View<'a> {
    pub(super) pod: &'a DesiredPod,
    pub(super) uid: &'a PodUid,
    pub(super) observed: &'a Observed,
    pub(super) memory: &'a Memory,
    pub(super) context: &'a StatusContext<'a>,
    pub(super) sandbox: Option<&'a Sandbox>,
    /// None for a pod that is being stopped: nothing of it starts any more.
    pub(super) stage: Option<Stage>,
}

pub(super) fn container_status(view: &View<'_>, role: Role, container: &Container) -> ContainerStatus {
    let View {
        pod,
        memory,
        context,
        stage,
        ..
    } = *view;
    let runs = view.observed.runs_of(view.uid, &container.name);
    let newest = runs.first().copied();
    let spec_hash = hash::container_hash(pod, container);
    let failure = memory.failure(&Target::Container(container.name.clone()), &spec_hash);
    let waiting = |reason: &str, message: &str| {
        State::Waiting(ContainerStateWaiting {
            reason: reason.to_owned(),
            message: message.to_owned(),
        })
    };
    let missing = images::found(pod.spec(), container, memory).err();
    let trouble = || waiting_reason(container, missing, failure, memory, context);
    let is_turn = stage.is_none_or(|stage| stage.may_start(role));
    let target = ephemeral::target(pod, &container.name, view.observed, view.sandbox);
    let nothing_yet = || match (trouble().filter(|_| is_turn), target) {
        (Some((reason, message)), _) => waiting(reason, &message),
        (None, Err(target)) => waiting(
            "ContainerCreating",
            &format!("waits for container {target}, whose processes it is to see, to run"),
        ),
        (None, Ok(_)) if matches!(role, Role::Ephemeral) => waiting("ContainerCreating", ""),
        (None, Ok(_)) if pod.spec().init_containers.is_empty() => waiting("ContainerCreating", ""),
        (None, Ok(_)) => waiting("PodInitializing", ""),
    };
    let mut before = runs.get(1).copied();
    let state = match newest.map(|run| (run, &run.state)) {
        None | Some((_, RunState::Created)) => nothing_yet(),
        // It was done for a sandbox that is gone.
        Some((run, RunState::Exited(_))) if view.is_to_be_done_again(role, run) => {
            before = Some(run);
            nothing_yet()
        }
        Some((_, RunState::Running { started_at })) => State::Running(ContainerStateRunning {
            started_at: Some(to_timestamp(*started_at)),
        }),
        Some((run, RunState::Unknown)) => State::Terminated(ContainerStateTerminated {
            exit_code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: "the container runtime has lost track of the container".to_owned(),
            container_id: container_id(run, context),
            ..Default::default()
        }),
        Some((run, RunState::Exited(exit))) => match after_exit(view, role, run, exit, &spec_hash) {
            AfterExit::BackOff(message) => {
                before = Some(run);
                waiting("CrashLoopBackOff", &message)
            }
            AfterExit::Restarting => match trouble() {
                Some((reason, message)) => {
                    before = Some(run);
                    waiting(reason, &message)
                }
                None => terminated(run, exit, context),
            },
            AfterExit::Done => terminated(run, exit, context),
        },
    };
    let last_state = before.and_then(|run| match &run.state {
        RunState::Exited(exit) => Some(ContainerState {
            state: Some(terminated(run, exit, context)),
        }),
        _ => None,
    });
    let is_over = |run: &Run| run.post_start == PostStart::Over && run.health.started;
    let started = matches!(state, State::Running(_)) && newest.is_some_and(is_over);
    let ready = match (role, &state) {
        (Role::Init(_), State::Terminated(end)) => end.exit_code == 0,
        // It is there for a look, and promises nothing.
        (Role::Init(_) | Role::Ephemeral, _) => false,
        (Role::Sidecar(_) | Role::Main, _) => {
            started && stage.is_some() && newest.is_some_and(|run| run.health.ready)
        }
    };
    let running = newest.filter(|_| matches!(state, State::Running(_)));
    let has = running.and_then(|run| memory.resized.get(&run.id).copied().or(run.allocation));
    ContainerStatus {
        resources: has.and_then(|has| resources::in_effect(container, has)),
        name: container.name.clone(),
        state: Some(ContainerState { state: Some(state) }),
        last_state,
        ready,
        restart_count: newest.map_or(0, |run| i32::try_from(run.restart_count).unwrap_or(i32::MAX)),
        image: newest
            .map(|run| run.image.clone())
            .filter(|image| !image.is_empty())
            .unwrap_or_else(|| container.image.clone()),
        image_id: newest.map(|run| run.image_id.clone()).unwrap_or_default(),
        container_id: newest.map(|run| container_id(run, context)).unwrap_or_default(),
        started,
    }
}

impl View<'_> {
    /// An init container that ended in another sandbox than the present, and whose turn comes again.
    fn is_to_be_done_again(&self, role: Role, run: &Run) -> bool {
        let (Role::Init(place), Some(Stage::Init(turn))) = (role, self.stage) else {
            return false;
        };
        place >= turn && self.sandbox.is_none_or(|sandbox| sandbox.id != run.sandbox)
    }
}

fn container_id(run: &Run, context: &StatusContext<'_>) -> String {
    format!("{}://{}", context.runtime_name, run.id)
}

fn terminated(run: &Run, exit: &Exit, context: &StatusContext<'_>) -> State {
    // A process that a signal ended exits with 128 and the signal's number.
    let signal = if (129..=192).contains(&exit.code) {
        exit.code - 128
    } else {
        0
    };
    State::Terminated(ContainerStateTerminated {
        exit_code: exit.code,
        signal,
        reason: exit.reason.clone(),
        message: exit.message.clone(),
        started_at: exit.started_at.map(to_timestamp),
        finished_at: Some(to_timestamp(exit.finished_at)),
        container_id: container_id(run, context),
    })
}

/// Whether one of the pod's main containers that have ended will run again.
pub(super) fn goes_on(view: &View<'_>) -> bool {
    let policy = Role::Main.restart_policy(view.pod.spec());
    let may_start = view.stage.is_some_and(|stage| stage.may_start(Role::Main));
    let mut containers = view.pod.spec().containers.iter();
    containers.any(|container| {
        let newest = view.observed.runs_of(view.uid, &container.name).first().copied();
        match newest.map(|run| (run, &run.state)) {
            Some((run, RunState::Exited(exit))) => {
                let spec_hash = hash::container_hash(view.pod, container);
                !matches!(
                    after_exit(view, Role::Main, run, exit, &spec_hash),
                    AfterExit::Done
                )
            }
            Some((_, RunState::Created)) => may_start,
            // It is stopped first.
            Some((_, RunState::Unknown)) => may_start && policy != "Never",
            _ => false,
        }
    })
}

enum AfterExit {
    Done,
    /// The next run is on its way.
    Restarting,
    /// The next run has to wait; why, for people.
    BackOff(String),
}

fn after_exit(view: &View<'_>, role: Role, run: &Run, exit: &Exit, spec_hash: &str) -> AfterExit {
    let View { pod, context, .. } = *view;
    let Some(stage) = view.stage.filter(|stage| !stage.must_end(role)) else {
        return AfterExit::Done;
    };
    let has_done_its_work = match role {
        Role::Init(_) => exit.code == 0,
        Role::Ephemeral => true,
        Role::Sidecar(_) | Role::Main => false,
    };
    if has_done_its_work || matches!(stage, Stage::Over | Stage::Failed(_)) {
        return AfterExit::Done;
    }
    if run.spec_hash != spec_hash {
        return AfterExit::Restarting;
    }
    match next_run(role.restart_policy(pod.spec()), run, exit, context.intervals) {
        Next::Done => AfterExit::Done,
        Next::RestartAt { at, .. } if at <= context.now => AfterExit::Restarting,
        Next::RestartAt { at, .. } => {
            let wait = at.duration_since(exit.finished_at).unwrap_or_default();
            AfterExit::BackOff(format!(
                "back-off {} s restarting failed container {} of pod {}",
                wait.as_secs(),
                run.name,
                pod.key()
            ))
        }
    }
}

/// Why a container that should start does not.
fn waiting_reason(
    container: &Container,
    missing: Option<Needed<'_>>,
    failure: Option<&Failure>,
    memory: &Memory,
    context: &StatusContext<'_>,
) -> Option<(&'static str, String)> {
    if let Some(failure) = failure {
        let again = failure.count > 1 && failure.retry_at(context.intervals) > context.now;
        let reason = match failure.step {
            FailedStep::PullImage if again => {
                let image = missing.map_or(container.image.as_str(), |needed| needed.image);
                let message = format!("back-off pulling image {image:?}: {}", failure.message);
                return Some(("ImagePullBackOff", message));
            }
            FailedStep::PullImage => "ErrImagePull",
            FailedStep::InspectImage => "ImageInspectError",
            FailedStep::PrepareContainer => "CreateContainerConfigError",
            FailedStep::CreateContainer => "CreateContainerError",
            FailedStep::StartContainer => "RunContainerError",
            FailedStep::RunSandbox
            | FailedStep::ResizeContainer
            | FailedStep::RefreshVolumes
            | FailedStep::RunHook
            | FailedStep::TearDown => "ContainerCreating",
        };
        return Some((reason, failure.message.clone()));
    }
    if let Some(unknown) = memory.configuration.unknown.get(&container.name) {
        return Some(("ContainerCreating", unknown.clone()));
    }
    let is_absent = |needed: &Needed<'_>| {
        let known = memory.image(&container.name, needed.image);
        needed.pull_policy == "Never" && matches!(known, Some(ImageKnowledge::Absent { .. }))
    };
    if let Some(needed) = missing.filter(is_absent) {
        let message = format!(
            "the node does not have image {:?}, and its pull policy is Never: import it, or allow a pull",
            needed.image
        );
        return Some(("ErrImageNeverPull", message));
    }
    None
}
