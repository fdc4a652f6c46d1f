//! What a worker knows of its pod beyond what the runtime tells. Losing it costs a few repeated calls, nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use super::{
    action::StopCause,
    ephemeral,
    hook::{Hook, HookRecord},
    observed::{Observed, RunState},
    resources::Allocation,
};
use crate::{
    config::Intervals,
    desired::{DesiredPod, PodUid},
    runtime::{ContainerId, ImageRef, SandboxId},
};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// What the runtime said about the images of the next run of each container, by container and image; forgotten once
    /// that run is made.
    images: BTreeMap<(String, String), ImageKnowledge>,
    pub failures: BTreeMap<Target, Failure>,
    /// Sandboxes whose stop has succeeded: removing one does not need another stop.
    pub stopped_sandboxes: BTreeSet<SandboxId>,
    /// Containers whose stop has succeeded: one that is still in an unknown state can only be removed.
    pub stopped_containers: BTreeSet<ContainerId>,
    pub configuration: Configuration,
    /// The limits that running containers were given after their start.
    pub resized: BTreeMap<ContainerId, Allocation>,
    /// How far the hooks of runs are; on disk too.
    pub hooks: BTreeMap<(ContainerId, Hook), HookRecord>,
    /// Runs that are being stopped: since when, and why.
    pub stops: BTreeMap<ContainerId, Stop>,
    /// Ephemeral containers that have run, by their pod: none of them runs again.
    begun: BTreeSet<(PodUid, String)>,
    /// The pod is over, and its source has been told: nothing of it starts again.
    pub over: bool,
    /// Pods of this key that may have left folders and mounts on the node.
    pub uncleaned: BTreeSet<PodUid>,
}

/// The end of a run under way: its hook first, then its signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    pub begun_at: SystemTime,
    pub cause: StopCause,
}

/// Tells one state of what a pod is shown from another.
pub type Fingerprint = [u8; 32];

/// What the pod's config maps and secrets are like, and what of them its volumes show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Of all that the pod refers to.
    pub seen: Option<Fingerprint>,
    /// Why a container, by name, cannot be made yet: nobody has said what an object is that it needs.
    pub unknown: BTreeMap<String, String>,
    /// What its volumes are to show; None for a pod without such volumes.
    pub wanted: Option<Fingerprint>,
    /// What they show.
    pub shown: Option<Fingerprint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageKnowledge {
    Absent { at: SystemTime },
    Present(ImageRef),
    Pulled(ImageRef),
}

/// A status holds several messages, and is bounded itself.
const LONGEST_MESSAGE: usize = 1_000;

/// What an action works on: of two actions on one target, only one runs at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The sandboxes and the folders: excludes every other action on the pod.
    Pod,
    /// The volumes that show objects and the pod itself.
    Volumes,
    /// Making and starting the runs of one container of the spec.
    Container(String),
    /// One run, to end it.
    Run(ContainerId),
}

/// An action that failed, and was not repeated with success since.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub step: FailedStep,
    /// How often in a row, from 1.
    pub count: u32,
    pub at: SystemTime,
    /// Of the spec that was tried; another spec is tried at once.
    pub spec_hash: String,
    /// In the runtime's words.
    pub message: String,
    /// The runtime is away or does not answer: not the pod's fault.
    pub transient: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailedStep {
    RunSandbox,
    InspectImage,
    PullImage,
    /// The node cannot give the container what its spec asks for, such as a volume.
    PrepareContainer,
    CreateContainer,
    StartContainer,
    /// Changing the limits of one that runs.
    ResizeContainer,
    RefreshVolumes,
    /// What is done after a start or before a stop could not even be tried.
    RunHook,
    /// Stopping or removing.
    TearDown,
}

impl Failure {
    /// When to try again.
    pub fn retry_at(&self, intervals: &Intervals) -> SystemTime {
        // What does not depend on the pod is worth trying again soon.
        const SOON: Duration = Duration::from_secs(1);
        const SOON_MAX: Duration = Duration::from_secs(30);
        let soon = self.transient
            || matches!(
                self.step,
                FailedStep::InspectImage
                    | FailedStep::RefreshVolumes
                    | FailedStep::RunHook
                    | FailedStep::TearDown
            );
        // A person mends these, and does not want to wait for long then.
        let by_a_person = matches!(
            self.step,
            FailedStep::PrepareContainer | FailedStep::CreateContainer
        );
        let (base, max) = if soon {
            (
                SOON.min(intervals.backoff_base),
                SOON_MAX.min(intervals.backoff_max),
            )
        } else if by_a_person {
            let max = SOON_MAX.max(intervals.backoff_base);
            (intervals.backoff_base, max.min(intervals.backoff_max))
        } else {
            (intervals.backoff_base, intervals.backoff_max)
        };
        self.at + doubled(base, max, self.count.saturating_sub(1))
    }
}

/// `base` doubled `times` times, `max` at most.
pub fn doubled(base: Duration, max: Duration, times: u32) -> Duration {
    // 2^20 seconds is past every bound.
    base.saturating_mul(1 << times.min(20)).min(max)
}

impl Memory {
    /// What is known of an image, named as asked for, for the next run of a container.
    pub fn image(&self, container: &str, image: &str) -> Option<&ImageKnowledge> {
        self.images.get(&(container.to_owned(), image.to_owned()))
    }

    pub fn note_image(&mut self, container: &str, image: &str, knowledge: ImageKnowledge) {
        let key = (container.to_owned(), image.to_owned());
        self.images.insert(key, knowledge);
    }

    pub fn forget_images(&mut self, container: &str) {
        let others = std::mem::take(&mut self.images).into_iter();
        // A map that was emptied would keep room.
        self.images = others.filter(|((of, _), _)| of != container).collect();
    }

    /// Notes that an ephemeral container of a pod has run.
    pub fn note_begun(&mut self, uid: &PodUid, name: &str) {
        self.begun.insert((uid.clone(), name.to_owned()));
    }

    pub fn has_begun(&self, uid: &PodUid, name: &str) -> bool {
        self.begun.contains(&(uid.clone(), name.to_owned()))
    }

    /// Takes up from what is there, and from what was told before, which ephemeral containers of the pod have run.
    pub fn look_at_ephemeral(&mut self, pod: &DesiredPod, observed: &Observed) {
        let uid = pod.uid();
        self.begun.retain(|(of, _)| *of == uid);
        for name in ephemeral::begun(pod.pod.status.as_ref()) {
            self.note_begun(&uid, name);
        }
        let names = pod.spec().ephemeral_containers.iter();
        for name in names.map(|container| container.name.as_str()) {
            let runs = observed.runs_of(&uid, name);
            if runs.iter().any(|run| run.state != RunState::Created) {
                self.note_begun(&uid, name);
            }
        }
    }

    /// The failure that still counts for a target and a spec.
    pub fn failure(&self, target: &Target, spec_hash: &str) -> Option<&Failure> {
        self.failures
            .get(target)
            .filter(|failure| failure.spec_hash == spec_hash)
    }

    /// Notes a failure; one that repeats the last counts up.
    pub fn fail(
        &mut self,
        target: Target,
        step: FailedStep,
        spec_hash: &str,
        cause: &FailureCause,
        now: SystemTime,
    ) {
        let before = self
            .failure(&target, spec_hash)
            .filter(|failure| failure.step == step && failure.transient == cause.transient)
            .map_or(0, |failure| failure.count);
        self.failures.insert(
            target,
            Failure {
                step,
                count: before.saturating_add(1),
                at: now,
                spec_hash: spec_hash.to_owned(),
                message: cause.message.chars().take(LONGEST_MESSAGE).collect(),
                transient: cause.transient,
            },
        );
    }

    /// Notes that an image is at hand: what was wrong with images is over. That the container could not be made is not, until
    /// it is made.
    pub fn has_image(&mut self, target: &Target) {
        let of_image =
            |failure: &Failure| matches!(failure.step, FailedStep::InspectImage | FailedStep::PullImage);
        if self.failures.get(target).is_some_and(of_image) {
            self.failures.remove(target);
        }
    }

    /// Notes that a run is being stopped. That its pod goes counts more than any reason before it.
    pub fn note_stop(&mut self, id: &ContainerId, cause: StopCause, now: SystemTime) {
        let stop = Stop { begun_at: now, cause };
        let known = self.stops.entry(id.clone()).or_insert(stop);
        if cause == StopCause::PodDeleted && known.cause != cause {
            *known = stop;
        }
    }

    /// Forgets what no longer can matter: bounded by what is on the node.
    pub fn retain(&mut self, observed: &Observed) {
        self.stopped_sandboxes.retain(|id| observed.sandbox(id).is_some());
        let alive = |id: &ContainerId| observed.containers.iter().any(|run| run.id == *id);
        self.stopped_containers.retain(alive);
        self.resized.retain(|id, _| alive(id));
        self.stops.retain(|id, _| alive(id));
        self.hooks.retain(|(id, _), _| alive(id));
        self.failures.retain(|target, _| match target {
            Target::Run(id) => alive(id),
            Target::Pod | Target::Volumes | Target::Container(_) => true,
        });
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureCause {
    pub message: String,
    pub transient: bool,
}
