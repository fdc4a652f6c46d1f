//! The host's cgroup file systems, v1 and v2.

mod limits;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub(crate) use self::limits::total;

/// Where the hierarchies are.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    root: PathBuf,
    unified: bool,
}

impl Cgroups {
    /// The host's, under `/sys/fs/cgroup`.
    pub(crate) fn of_host() -> Self {
        Self::under(Path::new("/sys/fs/cgroup"))
    }

    pub(crate) fn under(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            unified: root.join("cgroup.controllers").exists(),
        }
    }

    /// Whether there is only the one hierarchy of cgroup v2.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    /// Whether the kernel limits this here.
    pub(crate) fn has_controller(&self, name: &str) -> bool {
        if self.unified {
            let all = fs::read_to_string(self.root.join("cgroup.controllers")).unwrap_or_default();
            all.split_whitespace().any(|controller| controller == name)
        } else {
            self.root.join(name).join("cgroup.procs").exists()
        }
    }

    /// Whether swap has a limit of its own.
    pub(crate) fn counts_swap(&self) -> bool {
        limits::counts_swap(&self.root, self.unified)
    }

    /// The folder of a cgroup for a controller (cgroup v1) or for all (v2).
    pub(crate) fn dir(&self, controller: &str, cgroup: &str) -> PathBuf {
        let cgroup = cgroup.trim_start_matches('/');
        if self.unified {
            self.root.join(cgroup)
        } else {
            self.root.join(controller).join(cgroup)
        }
    }

    /// Puts a process into a cgroup of every hierarchy, and makes it where it is not there.
    pub(crate) fn join(&self, cgroup: &str, pid: u32) -> io::Result<()> {
        for hierarchy in self.hierarchies() {
            // In v1 a new cgroup of this controller takes no process before its CPUs are chosen; it counts nothing.
            if hierarchy.ends_with("cpuset") {
                continue;
            }
            let dir = hierarchy.join(cgroup.trim_start_matches('/'));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// The roots of all hierarchies.
    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.root.clone()];
        }
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.join("cgroup.procs").exists())
            .collect()
    }

    /// Removes a cgroup and those below it from every hierarchy. What has processes stays.
    pub(crate) fn remove_empty(&self, cgroup: &str) {
        for hierarchy in self.hierarchies() {
            remove_tree(&hierarchy.join(cgroup.trim_start_matches('/')));
        }
    }

    /// How many processes of a container the kernel has killed for memory.
    pub(crate) fn oom_kills(&self, cgroup: &str) -> u64 {
        let file = if self.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.dir("memory", cgroup).join(file)).unwrap_or_default();
        field(&text, "oom_kill").unwrap_or(0)
    }
}

/// The innermost first: the kernel removes no cgroup that has others in it. Its files go with it.
fn remove_tree(dir: &Path) {
    // Only empty cgroups can be removed, so an error is a usual answer and means nothing.
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {}
        _ => return,
    }
    let inside = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}

/// A value of a file of `key value` lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_goes_with_those_below_it_from_every_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        for hierarchy in ["memory", "pids"] {
            fs::create_dir_all(root.path().join(hierarchy).join("pods/p1/c1/inner")).unwrap();
            fs::write(root.path().join(hierarchy).join("cgroup.procs"), "").unwrap();
        }
        Cgroups::under(root.path()).remove_empty("/pods/p1");
        for hierarchy in ["memory", "pids"] {
            assert!(root.path().join(hierarchy).join("pods").exists());
            assert!(!root.path().join(hierarchy).join("pods/p1").exists());
        }
    }

    #[test]
    fn oom_kills_are_read_from_either_version() {
        let root = tempfile::tempdir().unwrap();
        let v1 = root.path().join("memory/pods/c1");
        fs::create_dir_all(&v1).unwrap();
        fs::write(
            v1.join("memory.oom_control"),
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        )
        .unwrap();
        assert_eq!(Cgroups::under(root.path()).oom_kills("/pods/c1"), 2);

        let root = tempfile::tempdir().unwrap();
        let v2 = root.path().join("pods/c1");
        fs::create_dir_all(&v2).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(v2.join("memory.events"), "low 0\noom 1\noom_kill 1\n").unwrap();
        let cgroups = Cgroups::under(root.path());
        assert_eq!(cgroups.oom_kills("/pods/c1"), 1);
        assert_eq!(cgroups.oom_kills("/pods/absent"), 0);
    }
}
