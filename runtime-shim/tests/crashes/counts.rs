//! How much there is of all that pods are made of.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::ensure;
use clone8s_integration::{command, process, wait};

use super::rig::Rig;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<&'static str, usize>);

impl Counts {
    /// As they are now: an error where something came or went while it was counted.
    fn look(rig: &Rig) -> anyhow::Result<Self> {
        let dir = rig.dir.dir();
        let listed = |args: &[&str]| anyhow::Ok(rig.containerd.ctr("clone8s", args)?.lines().count());
        let pid = rig.shim.pid();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let state = dir.join("state");
        let socket = rig.containerd.socket().display().to_string();
        let shims = process::pids().filter(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            process::alive(*pid) && words.contains("shim") && words.contains(&socket)
        });
        let rules = [
            command::run(&mut Command::new("iptables-save"))?,
            command::run(&mut Command::new("ip6tables-save"))?,
            command::run(Command::new("nft").args(["list", "ruleset"]))?,
        ]
        .join("\n");
        let subnet = rig.address(1).trim_end_matches('1').to_owned();
        Ok(Self(BTreeMap::from([
            ("snapshots", listed(&["snapshots", "list"])?),
            ("leases", listed(&["leases", "list", "--quiet"])?),
            ("objects", listed(&["containers", "list", "--quiet"])?),
            ("tasks", listed(&["tasks", "list", "--quiet"])?),
            ("writes under way", listed(&["content", "active"])?),
            (
                "mounts",
                mounts
                    .lines()
                    .filter(|line| line.contains(&state.display().to_string()))
                    .count(),
            ),
            ("sandbox folders", entries(&state.join("sandboxes"))),
            ("FIFOs", entries(&state.join("io"))),
            ("checkpoints", entries(&state.join("checkpoints"))),
            ("cgroups", cgroups(rig)),
            ("addresses", addresses(&dir.join("root"), &subnet)),
            (
                "rules",
                rules.lines().filter(|line| line.contains(&subnet)).count(),
            ),
            ("links", links(rig)),
            ("processes of containerd's shim", shims.count()),
            ("first processes of pods", first_processes(&state)),
            ("threads", entries(Path::new(&format!("/proc/{pid}/task")))),
            ("files", open_files(pid)),
        ])))
    }

    pub(crate) async fn of(rig: &Rig) -> Self {
        wait::until("everything is counted", || async { Self::look(rig) }).await
    }

    /// Waits until there is not more of anything than there was.
    pub(crate) async fn returns(&self, rig: &Rig) {
        wait::until("everything is as it was", || async {
            let now = Self::look(rig)?;
            let more: Vec<_> = now
                .0
                .iter()
                .filter(|(what, count)| {
                    // Worker threads come with load, up to a bound, and go after ten seconds of rest.
                    let slack = if **what == "threads" { 4 } else { 0 };
                    **count > self.0[*what] + slack
                })
                .map(|(what, count)| format!("{what}: {} before, now {count}", self.0[what]))
                .collect();
            ensure!(more.is_empty(), "{}", more.join("; "));
            Ok(())
        })
        .await;
    }
}

/// Those of pods whose containers share their processes.
fn first_processes(state: &Path) -> usize {
    let state = state.display().to_string();
    let is_one = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        process::alive(*pid) && words.starts_with("clone8s-pod-init\0") && words.contains(&state)
    };
    process::pids().filter(is_one).count()
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).into_iter().flatten().flatten().count()
}

/// Those of the test's pods, over all hierarchies.
fn cgroups(rig: &Rig) -> usize {
    let name = format!("c8s-test-{}", rig.dir.id());
    let mut roots = vec![Path::new("/sys/fs/cgroup").to_owned()];
    roots.extend(
        fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    let folders = |root: &std::path::PathBuf| {
        let inside = fs::read_dir(root.join(&name)).into_iter().flatten().flatten();
        inside.filter(|entry| entry.path().is_dir()).count()
    };
    roots.iter().map(folders).sum()
}

/// Leases of pod addresses: files that are named like them or hold them.
fn addresses(root: &Path, subnet: &str) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            count += addresses(&path, subnet);
        } else if entry.file_name().to_string_lossy().starts_with(subnet) {
            count += 1;
        }
    }
    count
}

/// The ports of the test's bridge.
fn links(rig: &Rig) -> usize {
    entries(&Path::new("/sys/class/net").join(rig.bridge()).join("brif"))
}

/// What the shim has open besides connections.
fn open_files(pid: u32) -> usize {
    let all = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    all.filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| !target.to_string_lossy().starts_with("socket:"))
        .count()
}
