//! The host's cgroup file systems, v1 and v2: containers' for the runtime shim, pods' for the kubelet.

mod limits;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

pub use self::limits::Limits;

/// Where the hierarchies are.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
    unified: bool,
    /// Controllers whose limits are not written.
    left_out: Vec<&'static str>,
}

impl Cgroups {
    /// The host's, under `/sys/fs/cgroup`.
    pub fn of_host() -> Self {
        Self::under(Path::new("/sys/fs/cgroup"))
    }

    pub fn under(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            unified: root.join("cgroup.controllers").exists(),
            left_out: Vec::new(),
        }
    }

    /// Whether there is only the one hierarchy of cgroup v2.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Whether the kernel limits this here.
    pub fn has_controller(&self, name: &str) -> bool {
        if self.unified {
            let all = fs::read_to_string(self.root.join("cgroup.controllers")).unwrap_or_default();
            all.split_whitespace().any(|controller| controller == name)
        } else {
            self.root.join(name).join("cgroup.procs").exists()
        }
    }

    /// Makes the cgroup, where that is needed, and makes sure that this controller can hold it to limits.
    pub fn prepare(&self, controller: &str, cgroup: &str) -> io::Result<()> {
        self.require(controller)?;
        let dir = self.dir(controller, cgroup);
        let failed = |error: io::Error| naming("make", &dir, &error);
        if self.unified {
            self.delegate(cgroup).map_err(failed)?;
            let handed_down = fs::read_to_string(dir.join("cgroup.controllers"))?;
            if !handed_down.split_whitespace().any(|one| one == controller) {
                let text = format!("the cgroups above {} do not hand it down", dir.display());
                return Err(io::Error::other(text));
            }
        } else {
            fs::create_dir_all(&dir).map_err(failed)?;
        }
        access(&dir, Access::WRITE_OK).map_err(|error| naming("write to", &dir, &error.into()))
    }

    /// Writes no limits of this controller from now on.
    pub fn leave_out(&mut self, controller: &'static str) {
        self.left_out.push(controller);
    }

    fn require(&self, controller: &str) -> io::Result<()> {
        if self.has_controller(controller) {
            return Ok(());
        }
        let text = format!("it is not mounted below {}", self.root.display());
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// Whether swap has a limit of its own.
    pub fn counts_swap(&self) -> bool {
        limits::counts_swap(&self.root, self.unified)
    }

    /// The folder of a cgroup for a controller (cgroup v1) or for all (v2).
    pub fn dir(&self, controller: &str, cgroup: &str) -> PathBuf {
        let cgroup = cgroup.trim_start_matches('/');
        if self.unified {
            self.root.join(cgroup)
        } else {
            self.root.join(controller).join(cgroup)
        }
    }

    /// Whether it is there, in any hierarchy.
    pub fn exists(&self, cgroup: &str) -> bool {
        let mut hierarchies = self.hierarchies().into_iter();
        hierarchies.any(|hierarchy| hierarchy.join(cgroup.trim_start_matches('/')).is_dir())
    }

    /// Puts a process into a cgroup of every hierarchy, and makes it where it is not there.
    pub fn join(&self, cgroup: &str, pid: u32) -> io::Result<()> {
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

    /// Removes a cgroup and those below it from every hierarchy. What has processes stays, and is the error.
    pub fn remove(&self, cgroup: &str) -> io::Result<()> {
        let dirs = self.hierarchies().into_iter();
        dirs.map(|hierarchy| remove_tree(&hierarchy.join(cgroup.trim_start_matches('/'))))
            .fold(Ok(()), io::Result::and)
    }

    /// The same where it does not matter that something stays.
    pub fn remove_empty(&self, cgroup: &str) {
        if let Err(error) = self.remove(cgroup) {
            tracing::debug!(cgroup, %error, "a cgroup stays");
        }
    }

    /// Bytes that a cgroup's processes have and the kernel cannot take back from them. None on cgroup v1, whose kernel
    /// refuses a limit below them by itself; v2's ends a process instead (admin-guide/cgroup-v2.rst, "memory.max").
    pub fn memory_held(&self, cgroup: &str) -> Option<u64> {
        if !self.unified {
            return None;
        }
        let read = |file| fs::read_to_string(self.dir("memory", cgroup).join(file)).ok();
        let used: u64 = read("memory.current")?.trim().parse().ok()?;
        let stat = read("memory.stat")?;
        let cached = ["active_file", "inactive_file"].map(|key| field(&stat, key).unwrap_or(0));
        Some(used.saturating_sub(cached.iter().sum()))
    }

    /// How many processes of a container the kernel has killed for memory.
    pub fn oom_kills(&self, cgroup: &str) -> u64 {
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
fn remove_tree(dir: &Path) -> io::Result<()> {
    let inside = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        // What stays keeps this one from going, too.
        let _ = remove_tree(&entry.path());
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(naming("remove", dir, &error)),
        _ => Ok(()),
    }
}

fn naming(what: &str, dir: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", dir.display()))
}

/// A value of a file of `key value` lines.
pub fn field(text: &str, key: &str) -> Option<u64> {
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
    fn what_keeps_a_controller_from_holding_a_cgroup_is_said() {
        let v1 = tempfile::tempdir().unwrap();
        fs::create_dir_all(v1.path().join("cpu")).unwrap();
        fs::write(v1.path().join("cpu/cgroup.procs"), "").unwrap();
        let cgroups = Cgroups::under(v1.path());
        cgroups.prepare("cpu", "/pods").unwrap();
        assert!(v1.path().join("cpu/pods").is_dir());
        let error = cgroups.prepare("pids", "/pods").unwrap_err().to_string();
        assert!(error.contains("not mounted"), "{error}");
        let pids = Limits {
            pids: 1,
            ..Limits::default()
        };
        assert!(cgroups.limit("/pods", &pids).is_err());
        assert!(!v1.path().join("pids").exists());

        let v2 = tempfile::tempdir().unwrap();
        fs::create_dir_all(v2.path().join("pods")).unwrap();
        fs::write(v2.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        fs::write(v2.path().join("pods/cgroup.controllers"), "cpu\n").unwrap();
        let cgroups = Cgroups::under(v2.path());
        cgroups.prepare("cpu", "/pods").unwrap();
        let error = cgroups.prepare("pids", "/pods").unwrap_err().to_string();
        assert!(error.contains("do not hand it down"), "{error}");
    }

    #[test]
    fn memory_that_is_held_is_what_is_used_less_the_cache_of_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("p")).unwrap();
        for (file, text) in [
            ("cgroup.controllers", "memory\n"),
            ("p/memory.current", "1000\n"),
            (
                "p/memory.stat",
                "anon 500\nfile 400\nshmem 150\ninactive_file 200\nactive_file 50\n",
            ),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let cgroups = Cgroups::under(dir.path());
        assert_eq!(cgroups.memory_held("/p"), Some(750));
        assert_eq!(cgroups.memory_held("/absent"), None);
        fs::remove_file(dir.path().join("cgroup.controllers")).unwrap();
        assert_eq!(Cgroups::under(dir.path()).memory_held("/p"), None, "cgroup v1");
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
