//! The first process of a pod's shared PID namespace, seen from the shim.

use std::{fs, io, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::timeout;

use super::{SandboxDir, is_namespace, pin};
use crate::{
    error::{Error, Result},
    kernel, roles,
};

/// How long a killed process, and with it all of its namespace, may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A pod's first process.
#[derive(Debug)]
pub(crate) struct PodInit {
    pub(crate) pid: u32,
    process: OwnedFd,
}

impl PodInit {
    /// Waits for its end. Cancellation-safe.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        let process = kernel::watch(self.process.try_clone()?)?;
        process.readable().await.map(drop)
    }
}

impl SandboxDir {
    /// The pod's first process, if it has one that lives.
    pub(crate) fn init(&self) -> Option<PodInit> {
        let pid: u32 = fs::read_to_string(self.pins().join(roles::PID_FILE))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let process = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
        // After the descriptor is there, the number cannot come to mean another process.
        roles::is_init_of(pid, &self.pins()).then_some(PodInit { pid, process })
    }

    /// The pod's first process, once containers can join its namespace: before that it is only being made, and may end.
    pub(crate) fn joinable_init(&self) -> Option<PodInit> {
        self.init().filter(|_| is_namespace(&self.pid()))
    }

    /// Makes the shared PID namespace with its first process. The caller sees to it that nobody else does.
    pub(crate) async fn start_init(&self) -> Result<PodInit> {
        // An earlier attempt may have been cut off, or its process have died.
        self.end_init().await?;
        let failed = |error| Error::file("start the first process of", self.pins())(error);
        let dir = self.clone();
        tokio::task::spawn_blocking(move || dir.start_init_here())
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread died")))
            .map_err(failed)?;
        self.init()
            .ok_or_else(|| failed(io::Error::other("it died at once")))
    }

    fn start_init_here(&self) -> io::Result<()> {
        self.unpin_pid()?;
        fs::create_dir_all(self.pins().join(roles::ROOT_FOLDER))?;
        roles::start_init(&self.pins())?;
        let init = self.init().ok_or_else(|| io::Error::other("it died at once"))?;
        pin(Path::new(&format!("/proc/{}/ns/pid", init.pid)), &self.pid())
    }

    fn unpin_pid(&self) -> io::Result<()> {
        if is_namespace(&self.pid()) {
            rustix::mount::unmount(self.pid(), rustix::mount::UnmountFlags::DETACH)?;
        }
        Ok(())
    }

    /// Ends the shared PID namespace: the kernel kills whatever is left in it. Repeatable.
    pub(crate) async fn end_init(&self) -> Result<()> {
        let Some(init) = self.init() else {
            return Ok(());
        };
        let ended = async {
            pidfd_send_signal(&init.process, Signal::KILL)?;
            timeout(END_LIMIT, init.ended())
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        ended
            .await
            .map_err(Error::file("end the first process of", self.pins()))
    }
}
