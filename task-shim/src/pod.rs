//! The containers of one pod, and every call that changes them.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use prost::Message as _;
use prost_types::Any;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use crate::{
    clock,
    container::{Container, End, Means},
    events::{Event, Events},
    failure::{Failure, Result},
    messages::{
        CheckpointOptions, CheckpointTaskRequest, CreateTaskRequest, DeleteResponse, ExecProcessRequest,
        KillRequest, Options, Status, TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded,
        TaskExecStarted, TaskExit, TaskIo, TaskNote, TaskStart,
    },
    oom,
    process::{Exit, Process},
    reaper::Reaper,
    stdio::Paths,
};

/// How long an announced container may take to come.
const EXPECTED_FOR: Duration = Duration::from_secs(30);
const SIGKILL: u32 = 9;

#[derive(Debug)]
pub(crate) struct Pod {
    namespace: String,
    near: PathBuf,
    pub(crate) reaper: Reaper,
    events: Events,
    containers: RefCell<HashMap<String, Rc<Container>>>,
    /// Containers that were announced, and until when they are waited for.
    expected: RefCell<HashMap<String, Instant>>,
    /// Containers whose creation is under way: calls for one of them wait until it is over.
    creating: RefCell<HashSet<String>>,
    /// Told at the end of every creation.
    created: Notify,
    /// Counts the terminals' sockets.
    terminals: Cell<u64>,
    watchers: RefCell<JoinSet<()>>,
    pub(crate) stopping: Notify,
    /// Told when there may be nothing left that keeps this process.
    pub(crate) lessened: Notify,
}

impl Pod {
    pub(crate) fn new(namespace: &str, near: PathBuf, events: Events) -> Self {
        Self {
            namespace: namespace.to_owned(),
            near,
            reaper: Reaper::default(),
            events,
            containers: RefCell::default(),
            expected: RefCell::default(),
            creating: RefCell::default(),
            created: Notify::new(),
            terminals: Cell::default(),
            watchers: RefCell::default(),
            stopping: Notify::new(),
            lessened: Notify::new(),
        }
    }

    /// Whether nothing keeps this process.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty_from().is_some_and(|from| from <= Instant::now())
    }

    /// From when on nothing keeps this process, if nobody calls before: the past, or when the last announced
    /// container is not waited for any more.
    pub(crate) fn empty_from(&self) -> Option<Instant> {
        let now = Instant::now();
        let has_containers = !self.containers.borrow().is_empty() || !self.creating.borrow().is_empty();
        let announced = self.expected.borrow().values().copied().max();
        (!has_containers).then(|| announced.unwrap_or(now))
    }

    pub(crate) fn expect(&self, id: String) {
        let now = Instant::now();
        let mut expected = self.expected.borrow_mut();
        expected.retain(|_, until| *until > now);
        expected.insert(id, now + EXPECTED_FOR);
    }

    pub(crate) async fn container(&self, id: &str) -> Result<Rc<Container>> {
        self.settled(id).await;
        let found = self.containers.borrow().get(id).cloned();
        found.ok_or_else(|| Failure::NotFound(format!("container {id}")))
    }

    /// Waits while the container is being created. containerd gives up a creation whose caller is gone and deletes
    /// the container at once: were it told that there is none, the creation would end in a bundle that is gone.
    async fn settled(&self, id: &str) {
        loop {
            let over = self.created.notified();
            if !self.creating.borrow().contains(id) {
                return;
            }
            over.await;
        }
    }

    /// A container's first process, or an additional one.
    pub(crate) async fn process(&self, id: &str, exec: &str) -> Result<(Rc<Container>, Rc<Process>)> {
        let container = self.container(id).await?;
        let process = match exec {
            "" => Some(Rc::clone(&container.init)),
            exec => container.execs.borrow().get(exec).cloned(),
        };
        let process =
            process.ok_or_else(|| Failure::NotFound(format!("process {exec} of container {id}")))?;
        Ok((container, process))
    }

    fn means(&self) -> Means<'_> {
        self.terminals.set(self.terminals.get() + 1);
        Means {
            namespace: &self.namespace,
            reaper: &self.reaper,
            near: &self.near,
            number: self.terminals.get(),
        }
    }

    pub(crate) async fn create(self: &Rc<Self>, request: CreateTaskRequest) -> Result<u32> {
        if request.id.is_empty() || request.id.contains('/') {
            return Err(Failure::Invalid {
                field: "id",
                problem: format!("{:?} is not a file's name", request.id),
            });
        }
        let options = decode_options(request.options.as_ref())?;
        self.settled(&request.id).await;
        if self.containers.borrow().contains_key(&request.id) {
            return Err(Failure::Exists(format!("container {}", request.id)));
        }
        let _creating = Creating::begin(self, &request.id);
        let made = Container::create(&request, &options, &self.means()).await;
        self.expected.borrow_mut().remove(&request.id);
        let (container, end) = made?;
        let container = Rc::new(container);
        let pid = container.init.pid.get();
        self.containers
            .borrow_mut()
            .insert(request.id.clone(), Rc::clone(&container));
        self.events.send(&Event::Create(TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIo {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            }),
            checkpoint: request.checkpoint,
            pid,
        }));
        let init = Rc::clone(&container.init);
        self.watch(Rc::clone(self).follow(Rc::clone(&container), init, end));
        self.watch(Rc::clone(self).watch_memory(container));
        Ok(pid)
    }

    pub(crate) async fn start(self: &Rc<Self>, id: &str, exec: &str) -> Result<u32> {
        let (container, process) = self.process(id, exec).await?;
        let _changing = container.changing.lock().await;
        if process.announced.get() {
            return Err(wrong_state(&container, &process, "started"));
        }
        match (process.status.get(), exec) {
            // Running: started with its creation, which a short process may not outlive.
            (Status::Created, "") => {
                container.start(&self.reaper).await?;
                if process.status.get() == Status::Created {
                    process.status.set(Status::Running);
                }
            }
            (Status::Created, _) => {
                let end = container.start_exec(&process, &self.means()).await?;
                self.watch(Rc::clone(self).follow(Rc::clone(&container), Rc::clone(&process), end));
            }
            (Status::Running | Status::Stopped | Status::Paused, "") => {}
            _ => return Err(wrong_state(&container, &process, "started")),
        }
        let pid = process.pid.get();
        process.announced.set(true);
        self.events.send(&match exec {
            "" => Event::Start(TaskStart {
                container_id: id.to_owned(),
                pid,
            }),
            exec => Event::ExecStarted(TaskExecStarted {
                container_id: id.to_owned(),
                exec_id: exec.to_owned(),
                pid,
            }),
        });
        if let Some(exit) = process.exit() {
            self.tell_exit(&container, &process, exit);
        }
        Ok(pid)
    }

    pub(crate) async fn exec(&self, request: ExecProcessRequest) -> Result<()> {
        let container = self.container(&request.id).await?;
        if request.exec_id.is_empty() || request.exec_id.contains('/') {
            let problem = format!("{:?} is not a file's name", request.exec_id);
            return Err(Failure::Invalid {
                field: "exec_id",
                problem,
            });
        }
        if container.init.status.get() == Status::Stopped {
            return Err(wrong_state(&container, &container.init, "entered"));
        }
        let paths = Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let process = Process::new(&request.exec_id, paths, request.spec.unwrap_or_default().value);
        let mut execs = container.execs.borrow_mut();
        if execs.contains_key(&request.exec_id) {
            return Err(Failure::Exists(format!(
                "process {} of container {}",
                request.exec_id, request.id
            )));
        }
        execs.insert(request.exec_id.clone(), Rc::new(process));
        self.events.send(&Event::ExecAdded(TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
        }));
        Ok(())
    }

    pub(crate) async fn kill(&self, request: &KillRequest) -> Result<()> {
        let (container, process) = self.process(&request.id, &request.exec_id).await?;
        if process.pid.get() == 0 {
            return Err(wrong_state(&container, &process, "signalled"));
        }
        container
            .kill(&process, request.signal, request.all, &self.reaper)
            .await
    }

    pub(crate) async fn delete(&self, id: &str, exec: &str) -> Result<DeleteResponse> {
        let (container, process) = self.process(id, exec).await?;
        let _changing = container.changing.lock().await;
        match process.status.get() {
            Status::Created if exec.is_empty() => {
                container.kill(&process, SIGKILL, true, &self.reaper).await?;
                process.ended().await;
            }
            Status::Stopped | Status::Created => {}
            _ => return Err(wrong_state(&container, &process, "deleted")),
        }
        let exit = process.exit();
        if exec.is_empty() {
            container.delete(&self.reaper).await?;
            self.containers.borrow_mut().remove(id);
            self.lessened.notify_one();
        } else {
            container.execs.borrow_mut().remove(exec);
        }
        let response = DeleteResponse {
            pid: process.pid.get(),
            exit_status: exit.map_or(0, |exit| exit.code),
            exited_at: exit.map(|exit| exit.at),
        };
        if exec.is_empty() {
            self.events.send(&Event::Delete(TaskDelete {
                container_id: id.to_owned(),
                pid: response.pid,
                exit_status: response.exit_status,
                exited_at: response.exited_at,
                id: String::new(),
            }));
        }
        Ok(response)
    }

    /// Kills and deletes a container that containerd has given up.
    pub(crate) async fn discard(&self, id: &str) -> Result<DeleteResponse> {
        let (container, init) = self.process(id, "").await?;
        if !matches!(init.status.get(), Status::Created | Status::Stopped) {
            match container.kill(&init, SIGKILL, true, &self.reaper).await {
                Err(Failure::NotFound(_)) => {}
                other => other?,
            }
            init.ended().await;
        }
        self.delete(id, "").await
    }

    pub(crate) async fn pause(&self, id: &str) -> Result<()> {
        let container = self.container(id).await?;
        let _changing = container.changing.lock().await;
        if container.init.status.get() != Status::Running {
            return Err(wrong_state(&container, &container.init, "paused"));
        }
        container.pause(&self.reaper).await?;
        self.events.send(&Event::Paused(TaskNote {
            container_id: id.to_owned(),
        }));
        Ok(())
    }

    pub(crate) async fn resume(&self, id: &str) -> Result<()> {
        let container = self.container(id).await?;
        let _changing = container.changing.lock().await;
        if container.init.status.get() != Status::Paused {
            return Err(wrong_state(&container, &container.init, "resumed"));
        }
        container.resume(&self.reaper).await?;
        self.events.send(&Event::Resumed(TaskNote {
            container_id: id.to_owned(),
        }));
        Ok(())
    }

    pub(crate) async fn checkpoint(&self, request: CheckpointTaskRequest) -> Result<()> {
        let container = self.container(&request.id).await?;
        let _changing = container.changing.lock().await;
        let options = match &request.options {
            Some(any) => CheckpointOptions::decode(any.value.as_slice()).map_err(bad_options)?,
            None => CheckpointOptions::default(),
        };
        container
            .checkpoint(&request.path, &options, &self.reaper)
            .await?;
        self.events.send(&Event::Checkpointed(TaskCheckpointed {
            container_id: request.id,
            checkpoint: request.path,
        }));
        Ok(())
    }

    /// Ends this process if it has nothing to do.
    pub(crate) fn shut_down(&self) {
        if self.is_empty() {
            self.stopping.notify_one();
        }
    }

    /// Notes the end of a process, and tells it once its start was told.
    async fn follow(self: Rc<Self>, container: Rc<Container>, process: Rc<Process>, end: End) {
        let code = end.await;
        let exit = Exit {
            code,
            at: clock::now(),
        };
        if process.exec_id.is_empty() {
            container.kill_rest(&self.reaper).await;
        }
        process.end(exit);
        if process.announced.get() {
            self.tell_exit(&container, &process, exit);
        }
    }

    fn tell_exit(&self, container: &Container, process: &Process, exit: Exit) {
        let id = match process.exec_id.as_str() {
            "" => container.id.clone(),
            exec => exec.to_owned(),
        };
        self.events.send(&Event::Exit(TaskExit {
            container_id: container.id.clone(),
            id,
            pid: process.pid.get(),
            exit_status: exit.code,
            exited_at: Some(exit.at),
        }));
    }

    async fn watch_memory(self: Rc<Self>, container: Rc<Container>) {
        let Some(mut watch) = container.cgroup.as_ref().and_then(oom::Watch::start) else {
            return;
        };
        let told = async {
            while watch.next().await.is_some() {
                self.events.send(&Event::OutOfMemory(TaskNote {
                    container_id: container.id.clone(),
                }));
            }
        };
        tokio::select! {
            () = told => {}
            _ = container.init.ended() => {}
        }
    }

    /// Owns what goes on beside calls.
    fn watch(&self, watcher: impl Future<Output = ()> + 'static) {
        let mut watchers = self.watchers.borrow_mut();
        while watchers.try_join_next().is_some() {}
        watchers.spawn_local(watcher);
    }
}

/// A creation under way.
struct Creating<'a> {
    pod: &'a Pod,
    id: String,
}

impl<'a> Creating<'a> {
    fn begin(pod: &'a Pod, id: &str) -> Self {
        pod.creating.borrow_mut().insert(id.to_owned());
        let id = id.to_owned();
        Self { pod, id }
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.pod.creating.borrow_mut().remove(&self.id);
        self.pod.created.notify_waiters();
        self.pod.lessened.notify_one();
    }
}

fn wrong_state(container: &Container, process: &Process, wanted: &'static str) -> Failure {
    let what = match process.exec_id.as_str() {
        "" => format!("container {}", container.id),
        exec => format!("process {exec} of container {}", container.id),
    };
    Failure::WrongState {
        what,
        state: process.state(),
        wanted,
    }
}

/// The options of runc's shim; those of another type are not for this one.
fn decode_options(any: Option<&Any>) -> Result<Options> {
    match any {
        Some(any) if any.type_url.ends_with("runc.v1.Options") => {
            Options::decode(any.value.as_slice()).map_err(bad_options)
        }
        Some(_) | None => Ok(Options::default()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn bad_options(error: prost::DecodeError) -> Failure {
    Failure::Invalid {
        field: "options",
        problem: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn a_call_for_a_container_in_creation_waits_until_that_is_over() {
        let (events, _publisher) = LocalSet::new()
            .run_until(async { Events::start("test", None) })
            .await;
        let pod = Pod::new("test", PathBuf::new(), events);
        let creating = Creating::begin(&pod, "c1");
        let mut deletion = pin!(pod.delete("c1", ""));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut deletion).await;
        assert!(early.is_err() && pod.empty_from().is_none());
        assert!(matches!(pod.delete("c2", "").await, Err(Failure::NotFound(_))));
        drop(creating);
        assert!(matches!(deletion.await, Err(Failure::NotFound(_))));
        assert!(pod.is_empty());
    }
}
