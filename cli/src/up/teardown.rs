//! Leaves nothing behind: pods, containers, network, then mounts, processes, cgroups and folders.
//!
//! Every step takes what an earlier, interrupted try has left: run it until it says that all is gone.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clone8s_daemon::cgroups::Cgroups;
use clone8s_kubelet::config::DEFAULT_CGROUP_ROOT;
use clone8s_runtime_shim::PulledImages;
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::{
    layout::{Cluster, Runtime},
    lock::Lock,
    orphans, parts,
};

/// For the containers to end and their networks to go.
const PODS_TIMEOUT: Duration = Duration::from_mins(1);
const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(10);
const PROCESSES_TIMEOUT: Duration = Duration::from_secs(10);

/// Removes every pod, container and network; containerd must be there. Repeatable after an error.
pub(crate) async fn pods(cluster: &Cluster) -> Result<()> {
    let socket = cluster.containerd_socket();
    if !answers(&socket).await {
        bail!(
            "containerd does not answer on {}: pods may be left",
            socket.display()
        );
    }
    let images = match cluster.runtime {
        // They lie in the data folder, which stays.
        Runtime::Own => PulledImages::Keep,
        Runtime::Existing(_) => PulledImages::Remove,
    };
    let removal = clone8s_runtime_shim::teardown(parts::teardown_config(cluster), images);
    match timeout(PODS_TIMEOUT, removal).await {
        Ok(outcome) => outcome.context("cannot remove every pod"),
        Err(_) => bail!("pods are not gone after {PODS_TIMEOUT:?}"),
    }
}

/// Waits for somebody to serve the socket: containerd may have been started a moment ago.
async fn answers(socket: &Path) -> bool {
    let deadline = Instant::now() + CONTAINERD_TIMEOUT;
    while UnixStream::connect(socket).await.is_err() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Removes what is left when nothing runs any more: processes, mounts, cgroups, the run folder.
pub(crate) async fn traces(cluster: &Cluster, lock: Lock) -> Result<()> {
    let layout = cluster.layout();
    if cluster.runtime == Runtime::Own {
        end_shims(&layout.containerd_socket()).await?;
    }
    for folder in [&layout.run_dir, &layout.data_dir] {
        unmount_below(folder)?;
    }
    // One that another cluster uses is not empty, and stays.
    Cgroups::of_host().remove_empty(DEFAULT_CGROUP_ROOT);
    // The lock's file goes with the folder; whoever comes next makes a new one.
    remove_folder(&layout.run_dir)?;
    drop(lock);
    Ok(())
}

/// Ends the containerd shims that serve our containerd, which has gone.
async fn end_shims(containerd: &Path) -> Result<()> {
    let deadline = Instant::now() + PROCESSES_TIMEOUT;
    loop {
        let shims = shims_of(containerd);
        for pid in &shims {
            tracing::info!(pid = pid.as_raw_pid(), "ending a containerd shim that was left");
            // An error says that it has ended by itself.
            let _ = kill_process(*pid, Signal::KILL);
        }
        orphans::reap_now();
        if shims.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("containerd's shims do not end: {shims:?}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn shims_of(containerd: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| {
            let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
            is_shim_of(&command, containerd)
        })
        .collect()
}

fn is_shim_of(command: &[u8], containerd: &Path) -> bool {
    let mut words = command.split(|byte| *byte == 0);
    let is_shim = words.next().is_some_and(|program| {
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.starts_with(b"containerd-shim")
    });
    is_shim && words.any(|word| word == containerd.as_os_str().as_bytes())
}

/// Unmounts what is mounted in a folder, the innermost first.
pub(crate) fn unmount_below(folder: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(mount_point)
        .filter(|point| point.starts_with(folder))
        .collect();
    mounts.reverse();
    for point in mounts {
        match unmount(&point, UnmountFlags::DETACH) {
            Ok(()) => tracing::debug!(mount = %point.display(), "unmounted"),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", point.display())),
        }
    }
    Ok(())
}

/// proc_pid_mountinfo(5): the fifth field, where blanks are written in octal.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let plain = field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    Some(PathBuf::from(plain))
}

pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shims_of_our_containerd_are_ours() {
        let socket = Path::new("/run/c/containerd.sock");
        let command = |text: &str| text.replace(' ', "\0").into_bytes();
        let ours =
            "/usr/bin/containerd-shim-runc-v2 -namespace clone8s -id x -address /run/c/containerd.sock";
        assert!(is_shim_of(&command(ours), socket));
        assert!(!is_shim_of(&command(&ours.replace("/run/c/", "/run/")), socket));
        assert!(!is_shim_of(&command("vi /run/c/containerd.sock"), socket));
        assert!(!is_shim_of(b"", socket));
    }

    #[test]
    fn a_mount_point_with_a_blank_is_read() {
        let line = r"36 35 98:0 / /run/a\040b rw,noatime shared:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/run/a b")));
        assert_eq!(mount_point("36 35"), None);
    }
}
