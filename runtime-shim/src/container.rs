//! Containers: a containerd object and a snapshot; once started a task; in the end an exit.
//!
//! ```text
//! CreateContainer: object ─► snapshot ─► created
//! created ──StartContainer: FIFOs ─► task ─► start──► running          (or exited, reason StartError)
//! running ──(its process ends)──► exited: log drained, exit recorded, task deleted
//! any ──RemoveContainer: kill, object, snapshot, FIFOs──► (nothing)
//! ```

mod check;
mod create;
mod finish;
mod recover;
mod start;
pub(crate) mod state;
mod status;
mod stop;
mod volumes;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clone8s::cri;
use containerd_client::types::Mount;
use tokio::{sync::watch, time::Instant};

#[cfg(test)]
pub(crate) use self::check::check;
pub(crate) use self::start::ignore_wrong_state;
use self::state::State;
use crate::{
    ids::{ContainerId, SandboxId},
    logs::{Fifos, Pump, Tap},
    record::{ContainerDetail, ContainerRecord},
    shim::Shim,
    table::lock,
};

/// How long an OCI runtime may outlive the call that it was started for.
pub(crate) const LATE_RUNTIMES: Duration = Duration::from_secs(10);

/// A container as the shim knows it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) sandbox: SandboxId,
    pub(crate) config: cri::ContainerConfig,
    pub(crate) detail: ContainerDetail,
    state: watch::Sender<State>,
    /// Whether containerd may have a task of it, which must go before its object does.
    task: AtomicBool,
    /// When it was read back from containerd, if it was.
    adopted: OnceLock<Instant>,
    /// Whether someone has learned its id. Whoever asks for the same again, cut off before, is given this one.
    answered: AtomicBool,
    /// Whether someone has learned that it was started.
    start_answered: AtomicBool,
    /// As of the last update.
    resources: Mutex<Option<cri::LinuxContainerResources>>,
    /// Where the root file system is mounted from; known from its creation, asked for after a restart.
    rootfs: Mutex<Option<Vec<Mount>>>,
    log: Mutex<Option<Arc<Pump>>>,
    /// One change at a time, other than stopping.
    changing: tokio::sync::Mutex<()>,
    /// One recording of its end at a time.
    finishing: tokio::sync::Mutex<()>,
}

impl Container {
    pub(crate) fn from_record(record: ContainerRecord, state: State) -> Self {
        Self {
            id: record.id,
            sandbox: record.detail.sandbox.as_str().into(),
            config: record.config,
            detail: record.detail,
            state: watch::Sender::new(state),
            task: AtomicBool::new(false),
            adopted: OnceLock::new(),
            answered: AtomicBool::new(false),
            start_answered: AtomicBool::new(false),
            resources: Mutex::new(record.resources),
            rootfs: Mutex::default(),
            log: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            finishing: tokio::sync::Mutex::default(),
        }
    }

    /// As its pod calls it.
    pub(crate) fn name(&self) -> &str {
        self.config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.as_str())
            .unwrap_or_default()
    }

    /// Keeps others from changing it meanwhile.
    pub(crate) async fn changing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    pub(crate) fn set_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_start_answered(&self) {
        self.start_answered.store(true, Ordering::Relaxed);
    }

    fn set_adopted(&self) {
        let _ = self.adopted.set(Instant::now());
    }

    /// Whether containerd may still be at work for a process before this one that was cut off in a call.
    fn is_unsettled(&self) -> bool {
        self.adopted.get().is_some_and(|at| at.elapsed() < LATE_RUNTIMES)
    }

    fn may_have_task(&self) -> bool {
        self.task.load(Ordering::Relaxed)
    }

    fn set_task(&self, there: bool) {
        self.task.store(there, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn resources(&self) -> cri::LinuxContainerResources {
        let created_with = || {
            self.config
                .linux
                .as_ref()
                .and_then(|linux| linux.resources.clone())
        };
        lock(&self.resources)
            .clone()
            .or_else(created_with)
            .unwrap_or_default()
    }

    /// Ends the reading of its output; what has been read is written.
    pub(crate) fn close_log(&self) {
        *lock(&self.log) = None;
    }

    /// Its output from now on; none where it is not running.
    pub(crate) fn tap(&self) -> Option<Tap> {
        self.pump().map(|pump| pump.tap())
    }

    fn pump(&self) -> Option<Arc<Pump>> {
        lock(&self.log).clone()
    }
}

impl Shim {
    pub(crate) fn fifos(&self, container: &Container) -> Fifos {
        Fifos::new(
            &self.config.state_dir,
            &container.id,
            container.config.tty,
            container.config.stdin,
        )
    }
}
