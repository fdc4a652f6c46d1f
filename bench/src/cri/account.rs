//! Whose CPU and memory a side's are.
//!
//! A server that lies in a cgroup of its own is accounted by it: shims, runtimes and pods (which get a cgroup below)
//! are in. Another is accounted by its process and the children that it has waited for; shims are not among them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::machine;
use anyhow::Context as _;

#[derive(Debug)]
pub(super) struct Account {
    server: u32,
    /// Absolute in its hierarchy; none where the server shares the root's.
    cgroup: Option<String>,
    /// The folder of the hierarchy that counts CPU time.
    hierarchy: PathBuf,
    id: String,
    made: bool,
}

impl Account {
    /// A new cgroup with `processes` in it, the CRI server first.
    pub(super) fn make(id: &str, processes: &[u32]) -> anyhow::Result<Self> {
        let hierarchy = hierarchy().context("no cgroup hierarchy counts CPU time here")?;
        let cgroup = format!("/c8bench-{id}");
        let dir = hierarchy.join(&cgroup[1..]);
        fs::create_dir_all(&dir).with_context(|| format!("make cgroup {}", dir.display()))?;
        // Not in the cgroup itself: in cgroup v2 one with processes has no controllers for its children.
        let servers = dir.join("servers");
        fs::create_dir_all(&servers).with_context(|| format!("make cgroup {}", servers.display()))?;
        for pid in processes {
            fs::write(servers.join("cgroup.procs"), pid.to_string())
                .with_context(|| format!("move process {pid} to cgroup {}", servers.display()))?;
        }
        let server = *processes.first().context("a server")?;
        Ok(Self {
            server,
            cgroup: Some(cgroup),
            hierarchy,
            id: id.to_owned(),
            made: true,
        })
    }

    /// Finds who serves a socket.
    pub(super) async fn of_socket(id: &str, socket: &Path) -> anyhow::Result<Self> {
        let stream = tokio::net::UnixStream::connect(socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        let pid = stream
            .peer_cred()?
            .pid()
            .context("the kernel does not tell who serves the socket")?;
        let server = u32::try_from(pid)?;
        let hierarchy = hierarchy().context("no cgroup hierarchy counts CPU time here")?;
        let cgroup = cgroup_of(server).filter(|cgroup| cgroup != "/");
        Ok(Self {
            server,
            cgroup,
            hierarchy,
            id: id.to_owned(),
            made: false,
        })
    }

    /// What the pods' cgroups lie in.
    pub(super) fn pods(&self) -> String {
        match &self.cgroup {
            Some(cgroup) if self.made => format!("{cgroup}/pods"),
            _ => format!("/c8bench-{}/pods", self.id),
        }
    }

    /// All CPU time so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let Some(cgroup) = &self.cgroup else {
            return machine::process_cpu(self.server);
        };
        let mut total = usage(&self.hierarchy.join(cgroup.trim_start_matches('/')))?;
        if !self.made {
            // Not there before the first pod.
            total += usage(&self.hierarchy.join(self.pods().trim_start_matches('/'))).unwrap_or_default();
        }
        Ok(total)
    }

    /// Resident memory of the CRI server's process, in bytes.
    pub(super) fn server_memory(&self) -> anyhow::Result<u64> {
        machine::process_memory(self.server, "VmRSS:")
    }

    /// What all of the side's processes outside of pods take, shared pages by halves (PSS), in bytes; none where
    /// they cannot be told from others.
    pub(super) fn all_memory(&self) -> Option<u64> {
        let cgroup = self.cgroup.as_ref().filter(|_| self.made)?;
        let procs = self.hierarchy.join(&cgroup[1..]).join("servers/cgroup.procs");
        let pids = fs::read_to_string(procs).ok()?;
        Some(
            pids.lines()
                .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
                .filter_map(|rollup| machine::kilobytes(&rollup, "Pss:"))
                .sum(),
        )
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let name = format!("c8bench-{}", self.id);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_tree(&hierarchy.path().join(&name));
        }
        remove_tree(&Path::new("/sys/fs/cgroup").join(&name));
    }
}

/// Removes a tree of cgroups from below; those that are in use stay.
fn remove_tree(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// `cpuacct` of cgroup v1, or cgroup v2 where there is nothing else.
fn hierarchy() -> Option<PathBuf> {
    [
        "/sys/fs/cgroup/cpuacct",
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup",
    ]
    .map(PathBuf::from)
    .into_iter()
    .find(|path| path.join("cpuacct.usage").exists() || path.join("cgroup.controllers").exists())
}

fn cgroup_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of = |wanted: &dyn Fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            wanted(controllers).then(|| fields.next()).flatten()
        })
    };
    of(&|controllers| controllers.split(',').any(|one| one == "cpuacct"))
        .or_else(|| of(&|controllers: &str| controllers.is_empty()))
        .map(str::to_owned)
}

fn usage(dir: &Path) -> anyhow::Result<Duration> {
    if let Ok(text) = fs::read_to_string(dir.join("cpuacct.usage")) {
        return Ok(Duration::from_nanos(text.trim().parse()?));
    }
    let path = dir.join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let micros = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .context("cpu.stat has no usage_usec")?;
    Ok(Duration::from_micros(micros.parse()?))
}
