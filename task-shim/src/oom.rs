//! Tells when the kernel has ended a process of a container for want of memory.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{cgroup::Cgroup, readiness};

/// A watch on one container's memory.
#[derive(Debug)]
pub(crate) struct Watch {
    signal: AsyncFd<OwnedFd>,
    cgroup: Cgroup,
    seen: u64,
}

impl Watch {
    /// None where the kernel offers none.
    pub(crate) fn start(cgroup: &Cgroup) -> Option<Self> {
        let dir = cgroup.controller("memory");
        let signal = match cgroup {
            Cgroup::Unified(_) => modified(&dir.join("memory.events"))?,
            Cgroup::Split { .. } => notified(&dir)?,
        };
        Some(Self {
            signal: readiness::watch(signal).ok()?,
            seen: kills(cgroup),
            cgroup: cgroup.clone(),
        })
    }

    /// Waits for the next time; none once the cgroup is gone.
    pub(crate) async fn next(&mut self) -> Option<()> {
        loop {
            let mut buffer = [0; 4096];
            let read = self.signal.async_io(Interest::READABLE, |signal| {
                Ok(rustix::io::read(signal, &mut buffer)?)
            });
            read.await.ok()?;
            if !self.cgroup.controller("memory").exists() {
                return None;
            }
            let now = kills(&self.cgroup);
            if now > self.seen {
                self.seen = now;
                return Some(());
            }
        }
    }
}

/// cgroup v1 (kernel, cgroup-v1/memory.rst, "OOM Control"): an eventfd that counts.
fn notified(dir: &Path) -> Option<OwnedFd> {
    let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let control = File::open(dir.join("memory.oom_control")).ok()?;
    let line = format!("{} {}", signal.as_raw_fd(), control.as_raw_fd());
    fs::write(dir.join("cgroup.event_control"), line).ok()?;
    Some(signal)
}

/// cgroup v2: a file that changes.
fn modified(file: &Path) -> Option<OwnedFd> {
    let signal = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    inotify::add_watch(
        &signal,
        file,
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF,
    )
    .ok()?;
    Some(signal)
}

fn kills(cgroup: &Cgroup) -> u64 {
    let file = match cgroup {
        Cgroup::Unified(_) => "memory.events",
        Cgroup::Split { .. } => "memory.oom_control",
    };
    let text = fs::read_to_string(cgroup.controller("memory").join(file)).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or_default()
}
