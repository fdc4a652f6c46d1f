//! A container's cgroup, by path, in cgroup v1 and v2.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// The one folder.
    Unified(PathBuf),
    /// The path below each controller's hierarchy.
    Split { root: PathBuf, path: String },
}

impl Cgroup {
    /// `path` is what the specification names; else the kernel tells where the process is.
    pub(crate) fn find(path: Option<&str>, pid: u32) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let is_unified = root.join("cgroup.controllers").exists();
        let path = match path {
            Some(path) => path.to_owned(),
            None => of_process(pid, is_unified)?,
        };
        // A process that has ended already is in the root, whose figures are the machine's.
        if path.trim_matches('/').is_empty() {
            return None;
        }
        let relative = path.trim_start_matches('/').to_owned();
        Some(if is_unified {
            Self::Unified(root.join(relative))
        } else {
            Self::Split {
                root: root.to_owned(),
                path: relative,
            }
        })
    }

    /// A folder in which the container's processes are listed.
    pub(crate) fn any(&self) -> PathBuf {
        self.controller("devices")
    }

    pub(crate) fn controller(&self, name: &str) -> PathBuf {
        match self {
            Self::Unified(path) => path.clone(),
            Self::Split { root, path } => root.join(name).join(path),
        }
    }

    /// Every process in it and below.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        collect(&self.any(), &mut pids);
        pids
    }
}

fn collect(dir: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&child.path(), pids);
        }
    }
}

fn of_process(pid: u32, is_unified: bool) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    // "4:devices:/path", and "0::/path" in cgroup v2.
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let wanted = if is_unified {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|one| one == "devices")
        };
        wanted.then(|| fields.next().map(str::to_owned)).flatten()
    })
}
