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
    /// The last failed run of each container; None before the first look, which finds old ones.
    failed: Option<BTreeMap<String, String>>,
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
        if !matches!(want, Want::Stop { .. }) {
            self.tell_failures(events, pod, status);
        }

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

    /// Tells of each run that ended in failure, with what it said last.
    fn tell_failures(&mut self, events: &EventRecorder, pod: &DesiredPod, status: &PodStatus) {
        let is_first_look = self.failed.is_none();
        let told = self.failed.get_or_insert_default();
        for container in &status.container_statuses {
            let states = [&container.state, &container.last_state];
            let ended = states.into_iter().flatten().find_map(|state| match &state.state {
                Some(State::Terminated(end)) if end.exit_code != 0 => Some(end),
                _ => None,
            });
            let Some(end) = ended else { continue };
            let is_old = told.insert(container.name.clone(), end.container_id.clone())
                == Some(end.container_id.clone());
            if is_old || is_first_look {
                continue;
            }
            let name = &container.name;
            let (reason, how) = if end.reason == OOM_KILLED {
                (OOM_KILLED, "was killed for want of memory".to_owned())
            } else {
                ("Failed", format!("ended with exit code {}", end.exit_code))
            };
            let words = if end.message.is_empty() { "" } else { ": " };
            let message = format!("Container {name} {how}{words}{}", end.message);
            events.record(pod, Warning, reason, message);
        }
    }
}

/// The kernel has ended the container.
const OOM_KILLED: &str = "OOMKilled";

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
                (FailedStep::RefreshVolumes, _) => {
                    ("FailedMount", format!("Volumes are not up to date: {message}"))
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
