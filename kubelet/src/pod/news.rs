//! Which of a worker's doings are news for people, in Kubernetes' words.

use std::{collections::BTreeMap, time::Duration};

use clone8s::v1::{PodStatus, container_state::State};

use super::{
    execute::Outcome,
    memory::FailedStep,
    plan::{Action, StopCause, Want},
};
use crate::{
    desired::DesiredPod,
    events::{
        EventRecorder,
        EventType::{Normal, Warning},
    },
};

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Why each container waited when it was last told, and after how many runs.
    waits: BTreeMap<String, (String, i32)>,
    refusal: String,
}

impl News {
    /// Tells of waits and refusals once each.
    pub(super) fn told(&mut self, events: &EventRecorder, pod: &DesiredPod, want: &Want, status: &PodStatus) {
        let refusal = match want {
            Want::Refuse { refusal, .. } => format!("{}: {}", refusal.reason, refusal.message),
            _ => String::new(),
        };
        if let Want::Refuse { refusal: news, .. } = want
            && refusal != self.refusal
        {
            events.record(pod, Warning, news.reason, news.message.clone());
        }
        self.refusal = refusal;

        for container in &status.container_statuses {
            let state = container.state.as_ref().and_then(|state| state.state.as_ref());
            let Some(State::Waiting(waiting)) = state else {
                continue;
            };
            let wait = (waiting.reason.clone(), container.restart_count);
            if self.waits.get(&container.name) == Some(&wait) {
                continue;
            }
            match waiting.reason.as_str() {
                "CrashLoopBackOff" => {
                    let message = format!("Back-off restarting failed container {}", container.name);
                    events.record(pod, Warning, "BackOff", message);
                }
                "ImagePullBackOff" => {
                    let message = format!("Back-off pulling image {:?}", container.image);
                    events.record(pod, Normal, "BackOff", message);
                }
                "ErrImageNeverPull" => {
                    events.record(pod, Warning, "ErrImageNeverPull", waiting.message.clone());
                }
                _ => {}
            }
            self.waits.insert(container.name.clone(), wait);
        }
    }
}

/// An action has begun.
pub(super) fn begun(events: &EventRecorder, pod: &DesiredPod, action: &Action) {
    match action {
        Action::PullImage { image, .. } => {
            events.record(pod, Normal, "Pulling", format!("Pulling image {image:?}"));
        }
        Action::StopContainer { name, cause, .. } => {
            let why = match cause {
                StopCause::PodDeleted => String::new(),
                StopCause::SpecChanged => ": its spec has changed".to_owned(),
                StopCause::ProbeFailed(kind) => format!(": it failed its {kind} probe"),
                StopCause::OutOfPlace => ": its sandbox is gone, or another run has its place".to_owned(),
            };
            events.record(pod, Normal, "Killing", format!("Stopping container {name}{why}"));
        }
        _ => {}
    }
}

/// An action has ended.
pub(super) fn ended(
    events: &EventRecorder,
    pod: &DesiredPod,
    action: &Action,
    outcome: &Outcome,
    took: Duration,
) {
    match (action, outcome) {
        (_, Outcome::Failed { step, cause }) => {
            let message = &cause.message;
            let (reason, message) = match (step, action) {
                (FailedStep::RunSandbox, _) => (
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {message}"),
                ),
                (FailedStep::PullImage, Action::PullImage { image, .. }) => {
                    ("Failed", format!("Failed to pull image {image:?}: {message}"))
                }
                (FailedStep::TearDown, _) => ("FailedKillPod", format!("Error killing pod: {message}")),
                _ => ("Failed", format!("Error: {message}")),
            };
            events.record(pod, Warning, reason, message);
        }
        (Action::InspectImage { image, .. }, Outcome::Image(Some(_))) => {
            let message = format!("Container image {image:?} already present on machine");
            events.record(pod, Normal, "Pulled", message);
        }
        (Action::PullImage { image, .. }, _) => {
            let message = format!("Successfully pulled image {image:?} in {} ms", took.as_millis());
            events.record(pod, Normal, "Pulled", message);
        }
        (Action::CreateContainer { container, .. }, _) => {
            events.record(pod, Normal, "Created", format!("Created container {container}"));
        }
        (Action::StartContainer { container, .. }, _) => {
            events.record(pod, Normal, "Started", format!("Started container {container}"));
        }
        _ => {}
    }
}
