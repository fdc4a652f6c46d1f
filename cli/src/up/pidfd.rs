//! A process that is not our child, by a handle that no other process can get.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::time::sleep;

const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Pidfd {
    pid: Pid,
    fd: OwnedFd,
}

impl Pidfd {
    /// None when there is no such process (any more).
    pub(crate) fn open(pid: Pid) -> Option<Self> {
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// An error says that the process has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        pidfd_send_signal(&self.fd, signal)
    }

    /// Waits for the end. Cancellation-safe.
    pub(crate) async fn ended(&self) {
        while self.is_running() {
            sleep(LOOK_EVERY).await;
        }
    }

    /// pidfd_open(2): a handle becomes readable when its process ends.
    fn is_running(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut ends = [PollFd::new(&self.fd, PollFlags::IN)];
        !matches!(poll(&mut ends, Some(&now)), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn a_killed_process_has_ended() {
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let process = Pidfd::open(pid).unwrap();
        assert!(process.is_running());
        process.signal(Signal::KILL).unwrap();
        process.ended().await;
        child.wait().unwrap();
        assert!(process.signal(Signal::TERM).is_err());
        assert!(Pidfd::open(pid).is_none());
    }
}
