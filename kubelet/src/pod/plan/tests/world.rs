//! A node on which every action succeeds at once.

use std::collections::BTreeMap;

use clone8s::v1::LifecycleHandler;

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
    /// Containers that end by themselves with this code, once nothing else is to be done.
    pub(super) exits: BTreeMap<String, i32>,
    /// What was done, in short words.
    pub(super) log: Vec<String>,
    serial: u32,
}

pub(super) fn container_hash(world: &World, name: &str) -> String {
    let pod = world.want.pod().unwrap();
    let spec = pod.spec().container(name).unwrap();
    hash::container_hash(pod, &spec)
}

impl World {
    pub(super) fn new(want: Want) -> Self {
        let mut world = Self {
            want,
            observed: Observed::default(),
            memory: Memory::default(),
            now: at(0),
            stops: 0,
            exits: BTreeMap::new(),
            log: Vec::new(),
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
        if let Some(pod) = self.want.pod() {
            hook::annotate(pod, &self.memory, &mut self.observed);
            self.memory.look_at_ephemeral(pod, &self.observed);
        }
    }

    /// Ends the containers that end by themselves; false when there are none.
    pub(super) fn let_end(&mut self) -> bool {
        let ending: Vec<_> = (0..self.observed.containers.len())
            .filter(|run| matches!(self.observed.containers[*run].state, RunState::Running { .. }))
            .filter_map(|run| Some((run, *self.exits.get(&self.observed.containers[run].name)?)))
            .collect();
        for (run, code) in &ending {
            self.log
                .push(format!("{} ends", self.observed.containers[*run].name));
            self.end(*run, *code);
        }
        !ending.is_empty()
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
        // A plan of what is known now, and not of what was before the last action.
        self.remember();
        plan
    }

    /// Steps until nothing is left to do; the plans on the way.
    pub(super) fn settle(&mut self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for _ in 0..100 {
            let plan = self.step();
            let is_settled = plan.actions.is_empty() && plan.wake_at.is_none();
            plans.push(plan);
            if is_settled && !self.let_end() {
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

    pub(super) fn end(&mut self, run: usize, code: i32) {
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

    /// A hook succeeds, and is never done twice.
    fn note_hook(&mut self, hook: Hook, call: &HookCall) {
        let record = HookRecord {
            begun_at: self.now,
            end: Some(HookEnd::Succeeded),
        };
        let key = (call.place.run().clone(), hook);
        let before = self.memory.hooks.insert(key, record);
        assert_eq!(before, None, "{hook} of {} is done twice", call.container);
    }

    fn pre_stop_of(&self, container: &str) -> Option<LifecycleHandler> {
        let spec = self.want.pod()?.spec().container(container)?;
        spec.lifecycle.as_ref()?.pre_stop.clone()
    }

    fn allocation_of(&self, container: &str) -> Option<Allocation> {
        let spec = self.want.pod()?.spec().container(container)?;
        Allocation::wanted(&spec).ok()
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
                let absent = ImageKnowledge::Absent { at: now };
                self.memory.note_image(container, image, absent);
            }
            Action::PullImage { container, image } => {
                let found = ImageRef::new(format!("sha256:{image}"));
                let pulled = ImageKnowledge::Pulled(found);
                self.memory.note_image(container, image, pulled);
            }
            Action::CreateContainer {
                container,
                sandbox,
                run,
                ..
            } => {
                self.memory.forget_images(container);
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
                    sidecar: match Role::of(self.want.pod().unwrap().spec(), container) {
                        Some(Role::Sidecar(place)) => Some(place),
                        _ => None,
                    },
                    pre_stop: self.pre_stop_of(container),
                    post_start: PostStart::Over,
                    allocation: self.allocation_of(container),
                };
                self.observed.containers.push(run);
            }
            Action::StartContainer { id, container } => {
                self.log.push(format!("start {container}"));
                let run = self.find(id);
                assert_eq!(self.observed.containers[run].state, RunState::Created);
                self.observed.containers[run].state = RunState::Running { started_at: now };
            }
            Action::ResizeContainer {
                container,
                id,
                allocation,
            } => {
                self.log.push(format!("resize {container}"));
                self.memory.resized.insert(id.clone(), *allocation);
            }
            Action::PostStart(call) => {
                self.log.push(format!("after start of {}", call.container));
                self.note_hook(Hook::PostStart, call);
            }
            Action::PreStop { call, cause, .. } => {
                self.log.push(format!("before stop of {}", call.container));
                self.note_hook(Hook::PreStop, call);
                self.memory.note_stop(call.place.run(), *cause, now);
            }
            Action::StopContainer { id, name, cause, .. } => {
                self.stops += 1;
                self.log.push(format!("stop {name}"));
                self.memory.note_stop(id, *cause, now);
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
