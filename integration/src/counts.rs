//! How much there is of all that pods are made of.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::ensure;

use crate::{Containerd, command, process, wait};

/// Where a runtime-shim and its containerd keep what they make.
#[derive(Debug)]
pub struct Places<'a> {
    pub shim: u32,
    pub containerd: &'a Containerd,
    /// containerd's.
    pub namespace: &'a str,
    pub state_dir: PathBuf,
    pub root_dir: PathBuf,
    pub bridge: &'a str,
    /// What all addresses of pods begin with, up to a dot.
    pub subnet: String,
    /// The folder of the pods' cgroups in each hierarchy.
    pub cgroups: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, Tally>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tally {
    count: usize,
    /// Of those that are counted by name.
    names: Vec<String>,
}

impl Tally {
    fn of_lines(lines: &str) -> Self {
        let names: Vec<_> = lines.lines().map(ToOwned::to_owned).collect();
        Self {
            count: names.len(),
            names,
        }
    }
}

impl From<usize> for Tally {
    fn from(count: usize) -> Self {
        Self {
            count,
            names: Vec::new(),
        }
    }
}

impl Counts {
    /// As they are now: an error where something came or went while it was counted.
    fn look(places: &Places<'_>) -> anyhow::Result<Self> {
        let ctr = |args: &[&str]| places.containerd.ctr(places.namespace, args);
        let listed = |args: &[&str]| anyhow::Ok(Tally::of_lines(&ctr(args)?));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let state = &places.state_dir;
        let socket = places.containerd.socket().display().to_string();
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
        let subnet = &places.subnet;
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
                    .count()
                    .into(),
            ),
            ("sandbox folders", entries(&state.join("sandboxes")).into()),
            ("FIFOs", entries(&state.join("io")).into()),
            ("checkpoints", entries(&state.join("checkpoints")).into()),
            ("cgroups", cgroups(&places.cgroups).into()),
            ("addresses", addresses(&places.root_dir, subnet).into()),
            (
                "rules",
                rules.lines().filter(|line| line.contains(subnet)).count().into(),
            ),
            ("links", links(places.bridge).into()),
            ("processes of containerd's shim", shims.count().into()),
            ("first processes of pods", first_processes(state).into()),
            (
                "threads",
                entries(Path::new(&format!("/proc/{}/task", places.shim))).into(),
            ),
            ("files", open_files(places.shim).into()),
        ])))
    }

    pub async fn of(places: &Places<'_>) -> Self {
        wait::until("everything is counted", || async { Self::look(places) }).await
    }

    /// Waits until there is not more of anything than there was.
    pub async fn returns(&self, places: &Places<'_>) {
        wait::until("everything is as it was", || async {
            let now = Self::look(places)?;
            let more: Vec<_> = now
                .0
                .iter()
                .filter(|(what, tally)| {
                    // Worker threads come with load, up to a bound, and go after ten seconds of rest.
                    let slack = if **what == "threads" { 4 } else { 0 };
                    tally.count > self.0[*what].count + slack
                })
                .map(|(what, tally)| {
                    let before = self.0[what].count;
                    format!(
                        "{what}: {before} before, now {} {}",
                        tally.count,
                        tally.names.join(", ")
                    )
                })
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

/// Over all hierarchies.
fn cgroups(name: &str) -> usize {
    let mut roots = vec![Path::new("/sys/fs/cgroup").to_owned()];
    roots.extend(
        fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    roots.iter().map(|root| folders(&root.join(name))).sum()
}

/// All below a folder.
fn folders(dir: &Path) -> usize {
    let inside = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders_inside = inside.map(|entry| entry.path()).filter(|path| path.is_dir());
    folders_inside.map(|folder| 1 + folders(&folder)).sum()
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

/// The ports of the bridge.
fn links(bridge: &str) -> usize {
    entries(&Path::new("/sys/class/net").join(bridge).join("brif"))
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
