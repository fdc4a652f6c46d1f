//! A node on which every action succeeds at once.

use super::*;

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) want: Want,
    pub(super) observed: Observed,
    pub(super) memory: Memory,
    pub(super) now: SystemTime,
    /// Containers that were stopped so far.
    pub(super) stops: usize,
    serial: u32,
}

pub(super) fn container_hash(world: &World, name: &str) -> String {
    let pod = world.want.pod().unwrap();
    let spec = pod.spec().containers.iter().find(|one| one.name == name).unwrap();
    hash::container_hash(pod, spec)
}

impl World {
    pub(super) fn new(want: Want) -> Self {
        let mut world = Self {
            want,
            observed: Observed::default(),
            memory: Memory::default(),
            now: at(0),
            stops: 0,
            serial: 0,
        };
        world.remember();
        world
    }

    pub(super) fn plan(&self) -> Plan {
        plan(
            &self.want,
            &self.observed,
            &self.memory,
            &Intervals::default(),
            self.now,
        )
    }

    /// As a worker does before it plans.
    fn remember(&mut self) {
        if let Want::Run(pod) = &self.want {
            self.memory.uncleaned.insert(pod.uid());
        }
        let uids = self.observed.containers.iter().map(|run| run.uid.clone());
        let sandboxes = self.observed.sandboxes.iter().map(|sandbox| sandbox.uid.clone());
        self.memory.uncleaned.extend(uids.chain(sandboxes));
        self.memory.retain(&self.observed);
    }

    /// Carries out one plan, or lets time pass until the next.
    pub(super) fn step(&mut self) -> Plan {
        self.remember();
        let plan = self.plan();
        for action in &plan.actions {
            self.carry_out(action);
        }
        if let (true, Some(wake_at)) = (plan.actions.is_empty(), plan.wake_at) {
            self.now = self.now.max(wake_at);
        }
        plan
    }

    /// Steps until nothing is left to do; the plans on the way.
    pub(super) fn settle(&mut self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for _ in 0..100 {
            let plan = self.step();
            let is_settled = plan.actions.is_empty() && plan.wake_at.is_none();
            plans.push(plan);
            if is_settled {
                return plans;
            }
        }
        panic!(
            "still busy after 100 plans: {self:#?}\nlast plans: {:#?}",
            &plans[95..]
        );
    }

    fn next_id(&mut self, kind: &str) -> String {
        self.serial += 1;
        format!("{kind}{}", self.serial)
    }

    fn end(&mut self, run: usize, code: i32) {
        let started_at = match self.observed.containers[run].state {
            RunState::Running { started_at } => Some(started_at),
            RunState::Unknown => None,
            _ => return,
        };
        self.observed.containers[run].state = RunState::Exited(Exit {
            code,
            reason: "Error".into(),
            message: String::new(),
            started_at,
            finished_at: self.now,
        });
    }

    fn find(&self, id: &ContainerId) -> usize {
        let found = self.observed.containers.iter().position(|run| run.id == *id);
        found.unwrap_or_else(|| panic!("{id} is not there: {self:#?}"))
    }

    pub(super) fn carry_out(&mut self, action: &Action) {
        let now = self.now;
        match action {
            Action::RunSandbox { attempt } => {
                let pod = self.want.pod().unwrap().clone();
                let sandbox = Sandbox {
                    id: SandboxId::new(self.next_id("s")),
                    uid: pod.uid(),
                    attempt: *attempt,
                    ready: true,
                    created_at: now,
                    spec_hash: hash::sandbox_hash(&pod),
                    grace: Some(Duration::from_secs(grace_seconds(pod.spec()).into())),
                    ip: Some("10.0.0.1".into()),
                };
                self.observed.sandboxes.push(sandbox);
            }
            Action::StopSandbox { id } => {
                for run in 0..self.observed.containers.len() {
                    if self.observed.containers[run].sandbox == *id {
                        self.end(run, 137);
                    }
                }
                let sandbox = self
                    .observed
                    .sandboxes
                    .iter_mut()
                    .find(|sandbox| sandbox.id == *id);
                sandbox.expect("a sandbox that is there").ready = false;
                self.memory.stopped_sandboxes.insert(id.clone());
            }
            Action::RemoveSandbox { id } => {
                self.observed.sandboxes.retain(|sandbox| sandbox.id != *id);
                self.observed.containers.retain(|run| run.sandbox != *id);
            }
            Action::InspectImage { container, image } => {
                let knowledge = ImageKnowledge::Absent {
                    image: image.clone(),
                    at: now,
                };
                self.memory.images.insert(container.clone(), knowledge);
            }
            Action::PullImage { container, image } => {
                let found = ImageRef::new(format!("sha256:{image}"));
                let knowledge = ImageKnowledge::Pulled {
                    image: image.clone(),
                    found,
                };
                self.memory.images.insert(container.clone(), knowledge);
            }
            Action::CreateContainer {
                container,
                sandbox,
                run,
                ..
            } => {
                self.memory.images.remove(container);
                let run = Run {
                    id: ContainerId::new(self.next_id("c")),
                    sandbox: sandbox.clone(),
                    uid: self.want.pod().unwrap().uid(),
                    name: container.clone(),
                    state: RunState::Created,
                    created_at: now,
                    spec_hash: container_hash(self, container),
                    restart_count: run.restart_count,
                    backoff_step: run.backoff_step,
                    image: String::new(),
                    image_id: String::new(),
                    health: Health::UNPROBED,
                };
                self.observed.containers.push(run);
            }
            Action::StartContainer { id, .. } => {
                let run = self.find(id);
                assert_eq!(self.observed.containers[run].state, RunState::Created);
                self.observed.containers[run].state = RunState::Running { started_at: now };
            }
            Action::StopContainer { id, .. } => {
                self.stops += 1;
                let run = self.find(id);
                self.end(run, 143);
                self.memory.stopped_containers.insert(id.clone());
            }
            Action::RemoveContainer { id } => {
                let run = self.find(id);
                self.observed.containers.remove(run);
            }
            Action::RefreshVolumes { wanted } => self.memory.configuration.shown = Some(*wanted),
            Action::CleanUp { uid } => {
                self.memory.uncleaned.remove(uid);
            }
        }
    }
}
