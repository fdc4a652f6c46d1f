//! Which of a worker's doings are news for people, in Kubernetes' words.

use std::{collections::BTreeMap, time::Duration};

use clone8s::v1::{PodStatus, container_state::State};

use super::{
    execute::Outcome,
    hook::{Hook, HookEnd},
    memory::FailedStep,
    plan::{Action, StopCause, Want},
    pull,
    status::EVICTED,
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
    /// Why the pod does not run: a word and a sentence.
    refusal: Option<(&'static str, String)>,
}

impl News {
    /// Tells of waits and refusals once each.
    pub(super) fn told(&mut self, events: &EventRecorder, pod: &DesiredPod, want: &Want, status: &PodStatus) {
        let refusal = match want {
            Want::Refuse { refusal, .. } => Some((refusal.reason, refusal.message.clone())),
            Want::Evict { message, .. } => Some((EVICTED, message.clone())),
            Want::Run(_) | Want::Stop { .. } => None,
        };
        if let Some((reason, message)) = refusal.clone().filter(|_| refusal != self.refusal) {
            events.record(pod, Warning, reason, message);
        }
        self.refusal = refusal;
        if !want.is_end() {
            self.tell_failures(events, pod, status);
        }

        for container in status.all_container_statuses() {
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
                _ => {
                    self.waits.remove(&container.name);
                    continue;
                }
            }
            self.waits.insert(container.name.clone(), wait);
        }
    }

    /// Tells of each run that ended in failure, with what it said last.
    fn tell_failures(&mut self, events: &EventRecorder, pod: &DesiredPod, status: &PodStatus) {
        let is_first_look = self.failed.is_none();
        let told = self.failed.get_or_insert_default();
        for container in status.all_container_statuses() {
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
    let Action::StopContainer { name, cause, .. } = action else {
        return;
    };
    let why = match cause {
        StopCause::PodDeleted => String::new(),
        StopCause::SpecChanged => ": its spec has changed".to_owned(),
        StopCause::Evicted => ": its pod is evicted".to_owned(),
        StopCause::ProbeFailed(kind) => format!(": it failed its {kind} probe"),
        StopCause::PostStartFailed => ": its postStart hook has failed".to_owned(),
        StopCause::NotNeeded => ": it is no longer needed".to_owned(),
        StopCause::OutOfPlace => ": its sandbox is gone, or another run has its place".to_owned(),
    };
    events.record(pod, Normal, "Killing", format!("Stopping container {name}{why}"));
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
                (FailedStep::ResizeContainer, Action::ResizeContainer { container, .. }) => (
                    "ResizeError",
                    format!("Container {container} keeps its limits: {message}"),
                ),
                (FailedStep::TearDown, _) => ("FailedKillPod", format!("Error killing pod: {message}")),
                _ => ("Failed", format!("Error: {message}")),
            };
            events.record(pod, Warning, reason, message);
        }
        (_, Outcome::Hook(HookEnd::Failed(why))) => {
            tell_hook(events, pod, action, &format!("failed: {why}"));
        }
        (_, Outcome::Hook(HookEnd::Unknown(why))) => {
            tell_hook(events, pod, action, &format!("may have failed: {why}"));
        }
        (Action::InspectImage { image, .. }, Outcome::Image(Some(_))) => {
            pull::tell_present(events, pod, image);
        }
        (Action::CreateContainer { container, .. }, _) => {
            let message = format!("Created container {container} in {}", pull::seconds(took));
            events.record_of(pod, Normal, "Created", container, message);
        }
        (Action::StartContainer { container, .. }, _) => {
            let message = format!("Started container {container} in {}", pull::seconds(took));
            events.record_of(pod, Normal, "Started", container, message);
        }
        (Action::ResizeContainer { container, .. }, _) => {
            let message = format!("Container {container} has its new limits, and runs on");
            events.record(pod, Normal, "ResizeCompleted", message);
        }
        _ => {}
    }
}

/// A preStop hook was given up at the end of its time.
pub(super) fn late(events: &EventRecorder, pod: &DesiredPod, action: &Action) {
    tell_hook(events, pod, action, "was not over within the grace period");
}

fn tell_hook(events: &EventRecorder, pod: &DesiredPod, action: &Action, what: &str) {
    let Some((hook, call)) = action.hook() else { return };
    let reason = match hook {
        Hook::PostStart => "FailedPostStartHook",
        Hook::PreStop => "FailedPreStopHook",
    };
    let message = format!("The {hook} hook of container {} {what}", call.container);
    events.record(pod, Warning, reason, message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pod::{
            hook::HookCall,
            testing::{container, pod, runs},
        },
        probe::Place,
        runtime::ContainerId,
    };

    #[test]
    fn a_hook_that_failed_or_came_to_no_end_is_a_warning_by_its_name() {
        let (events, mut told) = EventRecorder::new();
        let pod = pod("p", vec![container("web", "web:1")]);
        let call = HookCall {
            uid: pod.uid(),
            container: "web".to_owned(),
            place: Place::of_id(ContainerId::new("c1"), None),
            handler: runs("opens"),
        };
        let after_start = Action::PostStart(call.clone());
        let before_stop = Action::PreStop {
            call,
            until: std::time::SystemTime::UNIX_EPOCH,
            cause: StopCause::PodDeleted,
        };
        let outcome = |end| Outcome::Hook(end);
        let failed = outcome(HookEnd::Failed("exit code 1".to_owned()));
        let unknown = outcome(HookEnd::Unknown("the runtime is away".to_owned()));
        ended(&events, &pod, &after_start, &failed, Duration::ZERO);
        ended(&events, &pod, &before_stop, &unknown, Duration::ZERO);
        ended(
            &events,
            &pod,
            &after_start,
            &outcome(HookEnd::Succeeded),
            Duration::ZERO,
        );
        late(&events, &pod, &before_stop);
        let mut found = Vec::new();
        while let Ok(one) = told.try_recv() {
            assert_eq!(one.kind, Warning);
            found.push((one.reason, one.message));
        }
        let expected = [
            (
                "FailedPostStartHook",
                "The postStart hook of container web failed: exit code 1",
            ),
            (
                "FailedPreStopHook",
                "The preStop hook of container web may have failed: the runtime is away",
            ),
            (
                "FailedPreStopHook",
                "The preStop hook of container web was not over within the grace period",
            ),
        ];
        assert_eq!(
            found,
            expected.map(|(reason, message)| (reason, message.to_owned()))
        );
    }
}
