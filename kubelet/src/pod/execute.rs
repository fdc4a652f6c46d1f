//! Carries out one action. Decides nothing.

mod create;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clone8s::huge_pages::PageSize;
use tokio::sync::watch;

use super::{
    cri::{self, NodeFacts},
    downward::{Inputs, Surroundings},
    hook::{self, Hook, HookCall, HookEnd, HookRecords},
    hostname,
    memory::{FailedStep, FailureCause},
    namespaces,
    plan::Action,
    pull::ImagePuller,
    resources::{self, Allocation, QosClass},
};
use crate::{
    clock::Clock,
    config::DEFAULT_CGROUP_ROOT,
    desired::{DesiredPod, PodKey, PodUid},
    logs,
    objects::Objects,
    pod_cgroups::PodCgroups,
    runtime::{ContainerId, ImageRef, Runtime, RuntimeError, RuntimeErrorReason},
    user_ranges::UserRanges,
    volumes::Volumes,
};

/// The node as actions see it.
#[derive(Clone)]
pub struct Executor {
    pub runtime: Arc<dyn Runtime>,
    pub images: ImagePuller,
    pub volumes: Volumes,
    pub objects: watch::Receiver<Objects>,
    pub user_ranges: UserRanges,
    /// None leaves pods' cgroups to the runtime.
    pub cgroups: Option<PodCgroups>,
    pub clock: Clock,
    pub log_root: PathBuf,
    /// The node's own address.
    pub host_ip: String,
    /// Bytes.
    pub node_memory: i64,
    /// Thousandths of a core.
    pub node_milli_cpu: i64,
    /// Of the huge pages that the node has.
    pub page_sizes: Vec<PageSize>,
    /// The folder that profiles of seccomp are below.
    pub seccomp_profiles: PathBuf,
    /// What full names of pods end in.
    pub cluster_domain: String,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor")
            .field("log_root", &self.log_root)
            .finish_non_exhaustive()
    }
}

/// What an action works on, as it was when the action began.
#[derive(Debug, Clone)]
pub struct Subject {
    pub key: PodKey,
    /// None for a pod that nobody wants any more: nothing new is made for it.
    pub pod: Option<DesiredPod>,
    /// The address of the sandbox that an action makes a container in; None on the host network.
    pub pod_ip: Option<String>,
    /// The attempt of that sandbox.
    pub sandbox_attempt: u32,
    /// What its running containers are held to, by name.
    pub allocations: BTreeMap<String, Allocation>,
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Whether the runtime has the image, and its name there.
    Image(Option<ImageRef>),
    /// How a hook ended.
    Hook(HookEnd),
    Failed {
        step: FailedStep,
        cause: FailureCause,
    },
}

impl Executor {
    pub async fn execute(&self, subject: Subject, action: Action) -> Outcome {
        let runtime = &self.runtime;
        match action {
            Action::RunSandbox { attempt } => match &subject.pod {
                Some(pod) => self.run_sandbox(&subject, pod, attempt).await,
                None => unwanted(FailedStep::RunSandbox),
            },
            Action::StopSandbox { id } => ended(runtime.stop_sandbox(&id).await, FailedStep::TearDown),
            Action::RemoveSandbox { id } => ended(runtime.remove_sandbox(&id).await, FailedStep::TearDown),
            Action::InspectImage { image, .. } => match self.images.find(&image).await {
                Ok(found) => Outcome::Image(found),
                Err(error) => failed(&error, FailedStep::InspectImage),
            },
            Action::PullImage { container, image } => match &subject.pod {
                Some(pod) => self.pull_image(&subject, pod, &container, &image).await,
                None => unwanted(FailedStep::PullImage),
            },
            action @ Action::CreateContainer { .. } => match &subject.pod {
                Some(pod) => self.create_container(&subject, pod, &action).await,
                None => unwanted(FailedStep::CreateContainer),
            },
            Action::StartContainer { id, .. } => {
                ended(runtime.start_container(&id).await, FailedStep::StartContainer)
            }
            Action::ResizeContainer {
                container,
                id,
                allocation,
            } => self.resize_container(subject, container, &id, allocation).await,
            Action::PostStart(call) => match &subject.pod {
                Some(pod) => self.post_start(pod, call).await,
                None => unwanted(FailedStep::RunHook),
            },
            Action::PreStop { call, until, .. } => {
                // The plan gives it up in time; a command that this does not end is ended by the runtime.
                const MARGIN: Duration = Duration::from_secs(1);
                let limit = until.duration_since(self.clock.now()).unwrap_or_default() + MARGIN;
                self.perform(Hook::PreStop, &call, Some(limit)).await
            }
            Action::StopContainer { id, kill_at, .. } => {
                let grace = kill_at.duration_since(self.clock.now()).unwrap_or_default();
                ended(runtime.stop_container(&id, grace).await, FailedStep::TearDown)
            }
            Action::RemoveContainer { id } => self.remove_container(&subject, &id).await,
            Action::RefreshVolumes { .. } => match subject.pod.clone() {
                Some(pod) => self.refresh_volumes(&subject, pod).await,
                None => unwanted(FailedStep::RefreshVolumes),
            },
            Action::CleanUp { uid } => {
                let (own, key) = (self.clone(), subject.key);
                blocking(FailedStep::TearDown, move || own.clean_up(Some(&key), &uid)).await
            }
        }
    }

    /// Removes what a pod that is gone has left on the node. Blocks.
    fn clean_up(&self, key: Option<&PodKey>, uid: &PodUid) -> io::Result<()> {
        if let Some(cgroups) = &self.cgroups {
            cgroups.remove(uid)?;
        }
        if let Some(key) = key {
            logs::keep(&logs::pod_dir(&self.log_root, key, uid))?;
        }
        self.volumes.clean_up(uid)
    }

    /// Cleans up after pods that have gone with nobody to do it. Blocks.
    pub fn sweep(&self, former: &BTreeSet<PodUid>) {
        for uid in former {
            tracing::info!(%uid, "removing the folders and cgroups of a former pod");
            if let Err(error) = self.clean_up(self.volumes.owner(uid).as_ref(), uid) {
                tracing::warn!(%uid, %error, "something of a former pod stays; trying again");
            }
        }
    }

    /// Holds the pod as a whole to its limits, before that of a container changes what it takes. The pod's cgroup.
    async fn hold(&self, subject: &Subject, pod: &DesiredPod, step: FailedStep) -> Result<String, Outcome> {
        let Some(cgroups) = self.cgroups.clone() else {
            return Ok(self.cgroup(pod));
        };
        let limits = resources::pod_limits(pod.spec(), &subject.allocations, &self.page_sizes);
        let limits = limits.map_err(|error| refused(step, error.to_string()))?;
        let (uid, class) = (pod.uid(), class_of(pod));
        attempt(step, move || cgroups.limit(&uid, class, limits)).await
    }

    /// Where it is, or where it is to be.
    fn cgroup(&self, pod: &DesiredPod) -> String {
        let uid = pod.uid();
        match &self.cgroups {
            Some(cgroups) => cgroups.place(&uid, class_of(pod)),
            None => format!("{DEFAULT_CGROUP_ROOT}/pod{uid}"),
        }
    }

    async fn resize_container(
        &self,
        mut subject: Subject,
        container: String,
        id: &ContainerId,
        allocation: Allocation,
    ) -> Outcome {
        const STEP: FailedStep = FailedStep::ResizeContainer;
        let pod = subject.pod.clone();
        if let Some(pod) = &pod
            && let Err(outcome) = self.hold(&subject, pod, STEP).await
        {
            return outcome;
        }
        let resized = self.runtime.update_container(id, allocation.to_change()).await;
        if let Err(error) = resized {
            return failed(&error, STEP);
        }
        // Where it has less now, so has the pod. Beside another resize, or where it holds more than that in memory, the pod
        // keeps the more of the two until it changes again.
        subject.allocations.insert(container, allocation);
        if let Some(pod) = &pod
            && let Err(outcome) = self.hold(&subject, pod, STEP).await
        {
            tracing::warn!(pod = %pod.key(), ?outcome, "the container has its new limits; the pod as a whole keeps its own");
        }
        Outcome::Done
    }

    async fn run_sandbox(&self, subject: &Subject, pod: &DesiredPod, attempt: u32) -> Outcome {
        let (key, uid) = (pod.key(), pod.uid());
        let logs = logs::pod_dir(&self.log_root, &key, &uid);
        let volumes = self.volumes.clone();
        let made = blocking(FailedStep::RunSandbox, move || {
            volumes.claim(&key, &uid)?;
            logs::take_into_use(&logs)
        })
        .await;
        if made != Outcome::Done {
            return made;
        }
        // After the claim, by which whoever comes after a crash knows of the cgroup.
        let cgroup = match self.hold(subject, pod, FailedStep::RunSandbox).await {
            Ok(cgroup) => cgroup,
            Err(outcome) => return outcome,
        };
        let facts = match self.facts(pod, cgroup).await {
            Ok(facts) => facts,
            Err(error) => return refused(FailedStep::RunSandbox, error.to_string()),
        };
        let config = cri::sandbox_config(pod, attempt, &facts);
        let handler = &pod.spec().runtime_class_name;
        ended(
            self.runtime.run_sandbox(config, handler).await,
            FailedStep::RunSandbox,
        )
    }

    async fn pull_image(&self, subject: &Subject, pod: &DesiredPod, container: &str, image: &str) -> Outcome {
        let facts = match self.facts(pod, self.cgroup(pod)).await {
            Ok(facts) => facts,
            Err(error) => return refused(FailedStep::PullImage, error.to_string()),
        };
        let sandbox = cri::sandbox_config(pod, subject.sandbox_attempt, &facts);
        match self.images.pull(pod, container, image, &sandbox).await {
            Ok(found) => Outcome::Image(Some(found)),
            Err(error) => failed(&error, FailedStep::PullImage),
        }
    }

    async fn post_start(&self, pod: &DesiredPod, mut call: HookCall) -> Outcome {
        if let Some(container) = pod.spec().container(&call.container) {
            call.handler = hook::resolved(&call.handler, pod.spec(), &container, &self.host_ip);
        }
        self.perform(Hook::PostStart, &call, None).await
    }

    async fn perform(&self, hook: Hook, call: &HookCall, limit: Option<Duration>) -> Outcome {
        let records = HookRecords::of(&self.volumes.dir(&call.uid));
        let runtime = self.runtime.as_ref();
        Outcome::Hook(hook::perform(runtime, self.clock, &records, hook, call, limit).await)
    }

    async fn refresh_volumes(&self, subject: &Subject, pod: DesiredPod) -> Outcome {
        let (objects, node) = (self.objects.borrow().clone(), self.surroundings(subject));
        let (volumes, key) = (self.volumes.clone(), subject.key.clone());
        blocking(FailedStep::RefreshVolumes, move || {
            let inputs = Inputs {
                pod: &pod,
                objects: &objects,
                node: &node,
            };
            let changed = volumes.refresh(inputs).map_err(io::Error::other)?;
            if !changed.is_empty() {
                tracing::info!(pod = %key, volumes = ?changed, "volumes show what has changed");
            }
            Ok(())
        })
        .await
    }

    /// What the pod can learn of its node.
    fn surroundings(&self, subject: &Subject) -> Surroundings {
        Surroundings {
            host_ip: self.host_ip.clone(),
            pod_ip: subject.pod_ip.clone().unwrap_or_else(|| self.host_ip.clone()),
            milli_cpu: self.node_milli_cpu,
            memory: self.node_memory,
            cluster_domain: self.cluster_domain.clone(),
        }
    }

    /// Removes an ended run, and then its log.
    async fn remove_container(&self, subject: &Subject, id: &ContainerId) -> Outcome {
        let log = match self.runtime.container_status(id).await {
            Ok(status) => status.log_path,
            Err(error) if error.is_not_found() => return Outcome::Done,
            Err(error) => return failed(&error, FailedStep::TearDown),
        };
        let removed = ended(self.runtime.remove_container(id).await, FailedStep::TearDown);
        let ours = !log.is_empty() && PathBuf::from(&log).starts_with(&self.log_root);
        if removed != Outcome::Done || !ours {
            return removed;
        }
        tracing::debug!(pod = %subject.key, container = %id, log, "removed an ended run and its log");
        blocking(FailedStep::TearDown, move || match fs::remove_file(&log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        })
        .await
    }

    async fn facts(&self, pod: &DesiredPod, cgroup_parent: String) -> io::Result<NodeFacts> {
        let users = if namespaces::has_own_users(pod.spec()) {
            let (ranges, uid) = (self.user_ranges.clone(), pod.uid());
            let range = tokio::task::spawn_blocking(move || ranges.of(&uid)).await;
            Some(range.map_err(io::Error::other)??)
        } else {
            None
        };
        // A node without a resolver of its own has nothing to add to a pod's.
        let resolv_conf = tokio::fs::read_to_string("/etc/resolv.conf")
            .await
            .unwrap_or_default();
        Ok(NodeFacts {
            cgroup_parent,
            log_root: self.log_root.clone(),
            memory: self.node_memory,
            page_sizes: self.page_sizes.clone(),
            resolv_conf,
            users,
            host_ip: self.host_ip.clone(),
            seccomp_profiles: self.seccomp_profiles.clone(),
            hostname: hostname::seen(pod, &self.cluster_domain).map_err(io::Error::other)?,
        })
    }
}

fn ended<T>(outcome: Result<T, RuntimeError>, step: FailedStep) -> Outcome {
    match outcome {
        Ok(_) => Outcome::Done,
        Err(error) => failed(&error, step),
    }
}

fn failed(error: &RuntimeError, step: FailedStep) -> Outcome {
    let transient = match error.reason {
        RuntimeErrorReason::Unavailable => true,
        // A pull that ran into its deadline is the registry's or the line's fault, and starts over.
        RuntimeErrorReason::Timeout => step != FailedStep::PullImage,
        RuntimeErrorReason::NotFound | RuntimeErrorReason::Unimplemented | RuntimeErrorReason::Failed => {
            false
        }
    };
    Outcome::Failed {
        step,
        cause: FailureCause {
            message: error.message.clone(),
            transient,
        },
    }
}

/// The plan asked for something new although there is no pod to make it from.
fn unwanted(step: FailedStep) -> Outcome {
    Outcome::Failed {
        step,
        cause: FailureCause {
            message: "the pod is no longer wanted".to_owned(),
            transient: true,
        },
    }
}

/// What the node cannot give.
fn refused(step: FailedStep, message: String) -> Outcome {
    Outcome::Failed {
        step,
        cause: FailureCause {
            message,
            transient: false,
        },
    }
}

async fn blocking(step: FailedStep, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Outcome {
    let outcome = attempt(step, work).await;
    outcome.map_or_else(|outcome| outcome, |()| Outcome::Done)
}

/// What blocking work gives, or the outcome of its failure.
async fn attempt<T: Send + 'static>(
    step: FailedStep,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Outcome> {
    let message = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "interrupted".to_owned(),
    };
    Err(refused(step, message))
}

/// A pod whose quantities are none is refused before.
fn class_of(pod: &DesiredPod) -> QosClass {
    QosClass::of(pod.spec()).unwrap_or(QosClass::Burstable)
}
