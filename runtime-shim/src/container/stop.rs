//! StopContainer and RemoveContainer.

use std::{sync::Arc, time::Duration};

use clone8s::cri;
use rustix::process::Signal;
use tokio::time::{Instant, timeout_at};

use super::{Container, start::ignore_wrong_state, state::State};
use crate::{
    containerd::already_gone,
    error::{Error, Result},
    logs,
    shim::Shim,
    staging::{self, Stage},
    steps::timed,
};

/// How long a killed process may take to be gone: the kernel may have to write out its memory first.
const KILL_LIMIT: Duration = Duration::from_mins(1);

/// Nobody waits longer, and clocks reckon with it.
const LONGEST_GRACE: Duration = Duration::from_hours(24 * 365);

/// The signal that asks a container to stop: the caller's, else the image's, else SIGTERM.
pub(super) fn stop_signal(config: &cri::ContainerConfig, image: &str) -> Result<u32> {
    let asked = config.stop_signal();
    let name = match asked {
        cri::Signal::RuntimeDefault => image,
        asked => asked.as_str_name().trim_start_matches("SIGNAL_"),
    };
    if name.is_empty() {
        return Ok(Signal::TERM.as_raw().unsigned_abs());
    }
    signal_number(name)
        .ok_or_else(|| Error::invalid("stop signal", format!("{name:?} is no signal of this system")))
}

/// `SIGTERM`, `TERM`, `15` or `RTMIN+3`.
fn signal_number(name: &str) -> Option<u32> {
    /// The first that C libraries leave to programs, and the last (signal(7)).
    const RTMIN: u32 = 34;
    const RTMAX: u32 = 64;
    if let Ok(number) = name.parse() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let offset: u32 = match offset {
            "" => 0,
            offset => offset
                .trim_start_matches('+')
                .trim_start_matches("PLUS")
                .parse()
                .ok()?,
        };
        return RTMIN.checked_add(offset).filter(|number| *number <= RTMAX);
    }
    if let Some(offset) = short.strip_prefix("RTMAX") {
        let offset: u32 = match offset {
            "" => 0,
            offset => offset
                .trim_start_matches('-')
                .trim_start_matches("MINUS")
                .parse()
                .ok()?,
        };
        return RTMAX.checked_sub(offset).filter(|number| *number >= RTMIN);
    }
    let signal = match short {
        "ABRT" | "IOT" => Signal::ABORT,
        "ALRM" => Signal::ALARM,
        "BUS" => Signal::BUS,
        "CHLD" | "CLD" => Signal::CHILD,
        "CONT" => Signal::CONT,
        "FPE" => Signal::FPE,
        "HUP" => Signal::HUP,
        "ILL" => Signal::ILL,
        "INT" => Signal::INT,
        "IO" | "POLL" => Signal::IO,
        "KILL" => Signal::KILL,
        "PIPE" => Signal::PIPE,
        "PROF" => Signal::PROF,
        "PWR" => Signal::POWER,
        "QUIT" => Signal::QUIT,
        "SEGV" => Signal::SEGV,
        "STKFLT" => Signal::STKFLT,
        "STOP" => Signal::STOP,
        "SYS" => Signal::SYS,
        "TERM" => Signal::TERM,
        "TRAP" => Signal::TRAP,
        "TSTP" => Signal::TSTP,
        "TTIN" => Signal::TTIN,
        "TTOU" => Signal::TTOU,
        "URG" => Signal::URG,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "VTALRM" => Signal::VTALARM,
        "WINCH" => Signal::WINCH,
        "XCPU" => Signal::XCPU,
        "XFSZ" => Signal::XFSZ,
        _ => return None,
    };
    Some(signal.as_raw().unsigned_abs())
}

impl Shim {
    /// CRI: repeatable, also for a container that is not there. A timeout of zero seconds or less kills at once. Several calls may wait at a time; the shortest wins.
    pub(crate) async fn stop_container(self: Arc<Self>, id: String, timeout_seconds: i64) -> Result<()> {
        let Ok(container) = self.table.container(&id) else {
            return Ok(());
        };
        if !matches!(container.state(), State::Running { .. }) {
            return Ok(());
        }
        if let Ok(grace @ 1..) = u64::try_from(timeout_seconds) {
            let deadline = Instant::now() + Duration::from_secs(grace).min(LONGEST_GRACE);
            let signal = container.detail.stop_signal;
            let sent = self.containerd.kill(container.id.as_str(), None, signal).await;
            already_gone(sent).or_else(ignore_wrong_state)?;
            if timed("stop signal", exited(&container, deadline)).await {
                return Ok(());
            }
        }
        self.kill(&container).await
    }

    /// Kills a container that runs, and waits for its end.
    pub(crate) async fn kill(&self, container: &Arc<Container>) -> Result<()> {
        if !matches!(container.state(), State::Running { .. }) {
            return Ok(());
        }
        let sent = self.containerd.kill_all(container.id.as_str()).await;
        already_gone(sent).or_else(ignore_wrong_state)?;
        if timed("kill", exited(container, Instant::now() + KILL_LIMIT)).await {
            Ok(())
        } else {
            Err(Error::Deadline {
                what: format!("the end of killed container {}", container.id),
                seconds: KILL_LIMIT.as_secs(),
            })
        }
    }

    pub(crate) async fn remove_container(self: Arc<Self>, id: String) -> Result<()> {
        match self.table.container(&id) {
            Ok(container) => self.remove(&container).await,
            Err(_) => Ok(()),
        }
    }

    /// Removes a container, by force if it runs. Repeatable.
    pub(crate) async fn remove(&self, container: &Arc<Container>) -> Result<()> {
        let _changing = container.changing.lock().await;
        self.kill(container).await?;
        let id = container.id.as_str();
        if container.may_have_task() {
            self.undo_start(container).await?;
        }
        // An OCI runtime that was cut off in the middle leaves its cgroup.
        self.cgroups.remove_empty(&container.detail.cgroup);
        // The object before the snapshot: without it the container is gone for everyone who reads containerd's state,
        // and whatever follows is cleared away by them.
        timed("object", async {
            already_gone(self.containerd.delete_container(id).await)
        })
        .await?;
        self.rates.forget(&container.detail.cgroup);
        self.layers.forget(id);
        logs::remove_all_of(&self.config.state_dir, &container.id)?;
        Stage::new(&self.config.state_dir, &container.id).clear()?;
        for (index, mount) in container.config.mounts.iter().enumerate() {
            if staging::image_of(mount).is_some() {
                let key = staging::image_snapshot(&container.id, index);
                let view = self.containerd.remove_snapshot(&self.config.snapshotter, &key);
                already_gone(timed("image volume", view).await)?;
            }
        }
        let removed = timed(
            "snapshot",
            self.containerd.remove_snapshot(&self.config.snapshotter, id),
        )
        .await;
        already_gone(removed)?;
        // Last: a removal that failed halfway is taken up by the next.
        if self.table.remove_container(&container.id) {
            self.events.deleted(container);
        }
        Ok(())
    }
}

/// Whether the container has ended by the deadline.
async fn exited(container: &Container, deadline: Instant) -> bool {
    let mut state = container.state.subscribe();
    timeout_at(
        deadline,
        state.wait_for(|state| matches!(state, State::Exited(_))),
    )
    .await
    .is_ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("SIGTERM", Some(15))]
    #[case("term", Some(15))]
    #[case("9", Some(9))]
    #[case("SIGRTMIN+3", Some(37))]
    #[case("SIGRTMINPLUS3", Some(37))]
    #[case("RTMAX-1", Some(63))]
    #[case("0", None)]
    #[case("65", None)]
    #[case("SIGNOPE", None)]
    fn a_signal_is_known_by(#[case] name: &str, #[case] number: Option<u32>) {
        assert_eq!(signal_number(name), number);
    }

    #[test]
    fn the_callers_signal_comes_before_the_images() {
        let mut config = cri::ContainerConfig::default();
        assert_eq!(stop_signal(&config, "").unwrap(), 15);
        assert_eq!(stop_signal(&config, "SIGQUIT").unwrap(), 3);
        config.set_stop_signal(cri::Signal::Sigusr1);
        assert_eq!(stop_signal(&config, "SIGQUIT").unwrap(), 10);
        assert!(stop_signal(&cri::ContainerConfig::default(), "SIGNOPE").is_err());
    }
}
