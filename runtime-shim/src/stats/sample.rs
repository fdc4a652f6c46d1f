//! One look at a cgroup's files (kernel documentation, admin-guide/cgroup-v1 and cgroup-v2.rst).

use std::{fs, path::Path};

use clone8s::cri;

use super::some;
use crate::cgroups::{Cgroups, field};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) cpu_nanos: u64,
    pub(super) processes: u64,
    used: u64,
    /// None when there is none.
    limit: Option<u64>,
    inactive_file: u64,
    rss: u64,
    faults: u64,
    major_faults: u64,
    swap: u64,
    swap_limit: Option<u64>,
}

impl Cgroups {
    /// None when the cgroup is not there.
    pub(super) fn sample(&self, cgroup: &str) -> Option<Sample> {
        if self.is_unified() {
            unified(&self.dir("", cgroup))
        } else {
            self.separate(cgroup)
        }
    }

    fn separate(&self, cgroup: &str) -> Option<Sample> {
        let memory = self.dir("memory", cgroup);
        let stat = fs::read_to_string(memory.join("memory.stat")).ok()?;
        let of = |key: &str| field(&stat, key).unwrap_or(0);
        let used = number(&memory, "memory.usage_in_bytes")?;
        Some(Sample {
            cpu_nanos: number(&self.dir("cpuacct", cgroup), "cpuacct.usage")?,
            processes: number(&self.dir("pids", cgroup), "pids.current").unwrap_or(0),
            used,
            limit: number(&memory, "memory.limit_in_bytes").filter(|&limit| is_limit(limit)),
            inactive_file: of("total_inactive_file"),
            rss: of("total_rss"),
            faults: of("total_pgfault"),
            major_faults: of("total_pgmajfault"),
            // Absent where the kernel does not account swap.
            swap: number(&memory, "memory.memsw.usage_in_bytes")
                .unwrap_or(used)
                .saturating_sub(used),
            swap_limit: None,
        })
    }
}

fn unified(dir: &Path) -> Option<Sample> {
    let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
    let cpu = fs::read_to_string(dir.join("cpu.stat")).ok()?;
    let of = |key: &str| field(&stat, key).unwrap_or(0);
    Some(Sample {
        cpu_nanos: field(&cpu, "usage_usec")? * 1000,
        processes: number(dir, "pids.current").unwrap_or(0),
        used: number(dir, "memory.current")?,
        // "max" is no number, and means none.
        limit: number(dir, "memory.max"),
        inactive_file: of("inactive_file"),
        rss: of("anon"),
        faults: of("pgfault"),
        major_faults: of("pgmajfault"),
        swap: number(dir, "memory.swap.current").unwrap_or(0),
        swap_limit: number(dir, "memory.swap.max"),
    })
}

/// cgroup v1 writes no limit as the largest number of whole pages.
fn is_limit(limit: u64) -> bool {
    limit < u64::MAX >> 2
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

impl Sample {
    pub(super) fn memory(&self, at: i64) -> cri::MemoryUsage {
        // What the kernel could not take back without harm, as kubelets reckon it.
        let working_set = self.used.saturating_sub(self.inactive_file);
        cri::MemoryUsage {
            timestamp: at,
            working_set_bytes: some(working_set),
            available_bytes: self
                .limit
                .and_then(|limit| some(limit.saturating_sub(working_set))),
            usage_bytes: some(self.used),
            rss_bytes: some(self.rss),
            page_faults: some(self.faults),
            major_page_faults: some(self.major_faults),
            psi: None,
        }
    }

    pub(super) fn swap(&self, at: i64) -> cri::SwapUsage {
        cri::SwapUsage {
            timestamp: at,
            swap_available_bytes: self
                .swap_limit
                .and_then(|limit| some(limit.saturating_sub(self.swap))),
            swap_usage_bytes: some(self.swap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn cgroup_v1_is_read_from_its_controllers() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                (
                    "memory/p/c/memory.stat",
                    "cache 1\ntotal_rss 300\ntotal_inactive_file 400\ntotal_pgfault 5\n",
                ),
                ("memory/p/c/memory.usage_in_bytes", "1000\n"),
                ("memory/p/c/memory.limit_in_bytes", "9223372036854771712\n"),
                ("cpuacct/p/c/cpuacct.usage", "77\n"),
                ("pids/p/c/pids.current", "3\n"),
            ],
        );
        let sample = Cgroups::under(root.path()).sample("/p/c").unwrap();
        assert_eq!((sample.cpu_nanos, sample.processes, sample.limit), (77, 3, None));
        let memory = sample.memory(1);
        assert_eq!(memory.working_set_bytes, some(600));
        assert_eq!(memory.available_bytes, None);
        assert_eq!(memory.rss_bytes, some(300));
        assert_eq!(Cgroups::under(root.path()).sample("/absent"), None);
    }

    #[test]
    fn cgroup_v2_is_read_from_one_folder() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("cgroup.controllers", "cpu memory pids\n"),
                (
                    "p/c/memory.stat",
                    "anon 300\ninactive_file 400\npgfault 5\npgmajfault 1\n",
                ),
                ("p/c/memory.current", "1000\n"),
                ("p/c/memory.max", "2000\n"),
                ("p/c/memory.swap.max", "max\n"),
                ("p/c/memory.swap.current", "7\n"),
                ("p/c/cpu.stat", "usage_usec 12\nuser_usec 9\n"),
                ("p/c/pids.current", "3\n"),
            ],
        );
        let sample = Cgroups::under(root.path()).sample("/p/c").unwrap();
        assert_eq!((sample.cpu_nanos, sample.processes), (12_000, 3));
        assert_eq!(sample.memory(1).available_bytes, some(1400));
        assert_eq!(sample.swap(1).swap_usage_bytes, some(7));
        assert_eq!(sample.swap(1).swap_available_bytes, None);
    }
}
