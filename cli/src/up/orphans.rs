//! Takes in orphans: containerd's shims lose their parent by design, and where the machine's first process reaps
//! nobody, they would stay as zombies for ever.
//!
//! As a subreaper we become their parent. Programs that we start ourselves are waited for by those who start them,
//! within moments: a zombie that is still there a second later is nobody's.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result};
use clone8s_daemon::Shutdown;
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// Longer than anyone who waits for a child of their own needs.
const PATIENCE: Duration = Duration::from_secs(1);

/// From now on the orphans among our descendants are our children.
pub(crate) fn take_in() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("cannot become a subreaper")
}

/// Reaps orphans until shutdown.
pub(crate) async fn reap(shutdown: Shutdown) -> Result<()> {
    let mut children = signal(SignalKind::child()).context("cannot listen for SIGCHLD")?;
    let mut seen = BTreeSet::new();
    loop {
        let next_look = async {
            if seen.is_empty() {
                children.recv().await;
            }
            sleep(PATIENCE).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = next_look => {}
        }
        let zombies = zombie_children();
        for pid in zombies.intersection(&seen) {
            wait_for(*pid);
        }
        seen = zombies;
    }
}

/// Reaps what is dead now; for when nobody else starts or waits for programs any more.
pub(crate) fn reap_now() {
    for pid in zombie_children() {
        wait_for(pid);
    }
}

fn wait_for(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    // An error only says that somebody else was faster.
    if let Ok(Some(_)) = waitpid(Some(pid), WaitOptions::NOHANG) {
        tracing::debug!(pid = pid.as_raw_pid(), "reaped an orphan");
    }
}

fn zombie_children() -> BTreeSet<i32> {
    let us = getpid().as_raw_pid();
    let Ok(processes) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_zombie_of(&stat, us))
        })
        .collect()
}

/// proc_pid_stat(5): "pid (name) state ppid …"; the name may hold blanks and brackets.
fn is_zombie_of(stat: &str, parent: i32) -> bool {
    let Some((_, after_name)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = after_name.split_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|field| field.parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_told_from_a_name_that_looks_like_one() {
        assert!(is_zombie_of("12 (containerd-shim) Z 7 12 12 0", 7));
        assert!(!is_zombie_of("12 (containerd-shim) Z 8 12 12 0", 7));
        assert!(!is_zombie_of("12 (a) Z 7 (b) S 7 12", 7));
        assert!(!is_zombie_of("", 7));
    }
}
