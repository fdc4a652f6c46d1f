//! What a test has left on the machine. Other tests and other people use the machine too, so only what carries
//! the test's mark or its folder counts.

use std::{fs, path::Path};

use rustix::mount::{UnmountFlags, unmount};

use crate::{Sandbox, process};

/// One line for each thing of the test that exists now.
pub fn of(sandbox: &Sandbox) -> Vec<String> {
    let mut left = processes(sandbox);
    left.extend(
        mounts_below(sandbox.dir())
            .into_iter()
            .map(|mount| format!("mount {mount}")),
    );
    left
}

fn processes(sandbox: &Sandbox) -> Vec<String> {
    let mark = format!("{}={}", process::MARK, sandbox.id());
    let dir = sandbox.dir().to_string_lossy().into_owned();
    let belongs = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // A container does not inherit the mark, but its root lies in the test's containerd.
        let root_is_ours = || {
            fs::read_to_string(format!("/proc/{pid}/mountinfo"))
                .is_ok_and(|mounts| mounts.lines().any(|line| root_mount_in(line, &dir)))
        };
        environment
            .split(|&byte| byte == 0)
            .any(|entry| entry == mark.as_bytes())
            || root_is_ours()
            || is_init_of_pod_in(pid, &dir)
    };
    process::pids()
        .filter(|&pid| process::alive(pid) && belongs(pid))
        .map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!(
                "process {pid}: {}",
                String::from_utf8_lossy(&command).replace('\0', " ")
            )
        })
        .collect()
}

/// True for the first process of a pod that shares its processes, of a shim whose state lies in the folder. It has
/// neither an environment nor a root of the test's, but it names its pod's folder.
fn is_init_of_pod_in(pid: u32, dir: &str) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    words.next().is_some_and(|name| name == "clone8s-pod-init")
        && words.any(|word| word.starts_with(&format!("{dir}/")))
}

/// True for a mount at "/" whose layers lie in the folder.
fn root_mount_in(line: &str, dir: &str) -> bool {
    line.split(' ').nth(4) == Some("/") && line.contains(&format!("upperdir={dir}/"))
}

/// Mount points in the folder, the innermost last.
fn mounts_below(dir: &Path) -> Vec<String> {
    let prefix = format!("{}/", dir.display());
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|mount_point| mount_point.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

pub(crate) fn unmount_below(dir: &Path) {
    for mount_point in mounts_below(dir).iter().rev() {
        if let Err(error) = unmount(mount_point, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {mount_point}: {error}");
        }
    }
}

/// The machine's network links.
pub fn links() -> Vec<String> {
    fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}
