//! From what is wanted and what is there to the status that people see. Pure.

mod conditions;

use std::time::SystemTime;

use clone8s::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, PodStatus, container_state::State,
};

use conditions::{Facts, conditions};

use super::{
    hash,
    memory::{FailedStep, Failure, ImageKnowledge, Memory, Target},
    observed::{Exit, Observed, Run, RunState},
    plan::{Next, Want, next_run},
};
use crate::{
    clock::to_timestamp,
    config::Intervals,
    desired::{DesiredPod, PodUid},
};

/// What a status needs besides the pod itself.
#[derive(Debug, Clone)]
pub struct StatusContext<'a> {
    pub intervals: &'a Intervals,
    /// The node's own address.
    pub host_ip: &'a str,
    /// The runtime's name, such as "containerd".
    pub runtime_name: &'a str,
    pub now: SystemTime,
}

/// The pod's status now. `previous` gives the times of what has not changed.
pub fn status(
    want: &Want,
    pod: &DesiredPod,
    observed: &Observed,
    memory: &Memory,
    previous: Option<&PodStatus>,
    context: &StatusContext<'_>,
) -> PodStatus {
    let uid = pod.uid();
    let stopping = matches!(want, Want::Stop { .. });
    let nothing_left = !observed.containers.iter().any(|run| run.uid == uid);
    let container_statuses = match previous {
        // How the containers ended is known from before they were removed.
        Some(previous) if stopping && nothing_left => previous
            .container_statuses
            .iter()
            .map(|status| ContainerStatus {
                ready: false,
                ..status.clone()
            })
            .collect(),
        _ => pod
            .spec()
            .containers
            .iter()
            .map(|container| container_status(pod, &uid, container, stopping, observed, memory, context))
            .collect::<Vec<_>>(),
    };
    // What is being stopped is not started again, whatever its policy says.
    let policy = if stopping {
        "Never"
    } else {
        pod.spec().restart_policy.as_str()
    };
    let phase = if stopping && nothing_left && was_terminal(previous) {
        previous
            .map(|previous| previous.phase.clone())
            .unwrap_or_default()
    } else {
        phase(policy, &container_statuses).to_owned()
    };
    let pod_ip = observed
        .address(pod, context.host_ip)
        .unwrap_or_default()
        .to_owned();
    let sandbox_failure = memory
        .failure(&Target::Pod, &hash::sandbox_hash(pod))
        .filter(|failure| failure.step == FailedStep::RunSandbox);
    let (reason, message) = match (want, sandbox_failure) {
        (Want::Refuse { refusal, .. }, _) => (refusal.reason.to_owned(), refusal.message.clone()),
        (_, Some(failure)) => ("FailedCreatePodSandBox".to_owned(), failure.message.clone()),
        _ => (String::new(), String::new()),
    };
    let start_time = previous.and_then(|previous| previous.start_time).or_else(|| {
        let oldest = observed.sandboxes.iter().filter(|sandbox| sandbox.uid == uid);
        let since = oldest
            .map(|sandbox| sandbox.created_at)
            .min()
            .unwrap_or(context.now);
        Some(to_timestamp(since))
    });
    let facts = Facts {
        phase: &phase,
        sandbox_ready: observed.ready_sandbox(&uid).is_some(),
        containers: &container_statuses,
        pod,
    };
    let conditions = conditions(&facts, previous, context.now);
    PodStatus {
        phase,
        conditions,
        message,
        reason,
        host_ip: context.host_ip.to_owned(),
        pod_ip,
        start_time,
        container_statuses,
        observed_generation: pod
            .pod
            .metadata
            .as_ref()
            .map_or(0, |metadata| metadata.generation),
    }
}

fn was_terminal(previous: Option<&PodStatus>) -> bool {
    previous.is_some_and(|previous| matches!(previous.phase.as_str(), "Succeeded" | "Failed"))
}

fn container_status(
    pod: &DesiredPod,
    uid: &PodUid,
    container: &Container,
    stopping: bool,
    observed: &Observed,
    memory: &Memory,
    context: &StatusContext<'_>,
) -> ContainerStatus {
    let runs = observed.runs_of(uid, &container.name);
    let newest = runs.first().copied();
    let spec_hash = hash::container_hash(pod, container);
    let failure = memory.failure(&Target::Container(container.name.clone()), &spec_hash);
    let waiting = |reason: &str, message: &str| {
        State::Waiting(ContainerStateWaiting {
            reason: reason.to_owned(),
            message: message.to_owned(),
        })
    };
    let trouble = || waiting_reason(container, failure, memory, context);
    let mut before = runs.get(1).copied();
    let state = match newest.map(|run| (run, &run.state)) {
        None => trouble().map_or_else(
            || waiting("ContainerCreating", ""),
            |(reason, message)| waiting(reason, &message),
        ),
        Some((_, RunState::Created)) => trouble().map_or_else(
            || waiting("ContainerCreating", ""),
            |(reason, message)| waiting(reason, &message),
        ),
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
        Some((run, RunState::Exited(exit))) => {
            match after_exit(pod, run, exit, &spec_hash, stopping, context) {
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
            }
        }
    };
    let last_state = before.and_then(|run| match &run.state {
        RunState::Exited(exit) => Some(ContainerState {
            state: Some(terminated(run, exit, context)),
        }),
        _ => None,
    });
    let started = matches!(state, State::Running(_)) && newest.is_some_and(|run| run.health.started);
    let ready = started && newest.is_some_and(|run| run.health.ready);
    ContainerStatus {
        name: container.name.clone(),
        state: Some(ContainerState { state: Some(state) }),
        last_state,
        ready: ready && !stopping,
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

enum AfterExit {
    Done,
    /// The next run is on its way.
    Restarting,
    /// The next run has to wait; why, for people.
    BackOff(String),
}

fn after_exit(
    pod: &DesiredPod,
    run: &Run,
    exit: &Exit,
    spec_hash: &str,
    stopping: bool,
    context: &StatusContext<'_>,
) -> AfterExit {
    if stopping {
        return AfterExit::Done;
    }
    if run.spec_hash != spec_hash {
        return AfterExit::Restarting;
    }
    match next_run(&pod.spec().restart_policy, run, exit, context.intervals) {
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
    failure: Option<&Failure>,
    memory: &Memory,
    context: &StatusContext<'_>,
) -> Option<(&'static str, String)> {
    if let Some(failure) = failure {
        let again = failure.count > 1 && failure.retry_at(context.intervals) > context.now;
        let reason = match failure.step {
            FailedStep::PullImage if again => {
                let message = format!(
                    "back-off pulling image {:?}: {}",
                    container.image, failure.message
                );
                return Some(("ImagePullBackOff", message));
            }
            FailedStep::PullImage => "ErrImagePull",
            FailedStep::InspectImage => "ImageInspectError",
            FailedStep::PrepareContainer => "CreateContainerConfigError",
            FailedStep::CreateContainer => "CreateContainerError",
            FailedStep::StartContainer => "RunContainerError",
            FailedStep::RunSandbox | FailedStep::RefreshVolumes | FailedStep::TearDown => "ContainerCreating",
        };
        return Some((reason, failure.message.clone()));
    }
    if let Some(unknown) = memory.configuration.unknown.get(&container.name) {
        return Some(("ContainerCreating", unknown.clone()));
    }
    let absent = matches!(
        memory.images.get(&container.name),
        Some(ImageKnowledge::Absent { .. })
    );
    if absent && container.image_pull_policy == "Never" {
        let message = format!(
            "the node does not have image {:?}, and its pull policy is Never: import it, or allow a pull",
            container.image
        );
        return Some(("ErrImageNeverPull", message));
    }
    None
}

/// Kubernetes' phases, from the states of the containers.
fn phase(policy: &str, containers: &[ContainerStatus]) -> &'static str {
    let (mut never_ran, mut running, mut ended, mut succeeded) = (0, 0, 0, 0);
    for status in containers {
        match status.state.as_ref().and_then(|state| state.state.as_ref()) {
            Some(State::Running(_)) => running += 1,
            Some(State::Terminated(end)) => {
                ended += 1;
                succeeded += usize::from(end.exit_code == 0);
            }
            Some(State::Waiting(_)) if status.last_state.is_some() => ended += 1,
            Some(State::Waiting(_)) | None => never_ran += 1,
        }
    }
    if running > 0 && never_ran == 0 {
        return "Running";
    }
    if never_ran > 0 || ended == 0 {
        return "Pending";
    }
    match policy {
        "Always" => "Running",
        _ if succeeded == ended => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}
