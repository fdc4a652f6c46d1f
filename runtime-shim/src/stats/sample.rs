//! One look at a cgroup's files (kernel documentation, admin-guide/cgroup-v1 and cgroup-v2.rst).

mod cri_form;
#[cfg(test)]
mod tests;

use std::{fs, path::Path};

use super::{
    devices::{self, Devices},
    pressure::Pressures,
};
use crate::cgroups::{Cgroups, field};

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) cpu: Cpu,
    pub(super) memory: Memory,
    /// In the cgroup itself, without those of cgroups below it.
    pub(super) processes: u64,
    /// With those of all cgroups below.
    pub(super) threads: u64,
    /// None when there is none.
    pub(super) thread_limit: Option<u64>,
    pub(super) oom_kills: u64,
    pub(super) pressure: Pressures,
    pub(super) devices: Devices,
}

/// Times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) total: u64,
    pub(super) user: u64,
    pub(super) system: u64,
    pub(super) periods: u64,
    pub(super) throttled_periods: u64,
    pub(super) throttled: u64,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) used: u64,
    /// None when there is none.
    pub(super) limit: Option<u64>,
    /// The highest use so far; none where the kernel does not keep it.
    pub(super) peak: Option<u64>,
    pub(super) cache: u64,
    pub(super) active_file: u64,
    pub(super) inactive_file: u64,
    pub(super) mapped_file: u64,
    pub(super) rss: u64,
    pub(super) kernel: u64,
    pub(super) faults: u64,
    pub(super) major_faults: u64,
    /// How often the limit was hit.
    pub(super) failures: u64,
    pub(super) swap: u64,
    pub(super) swap_limit: Option<u64>,
}

impl Memory {
    /// What the kernel could not take back without harm, as kubelets reckon it.
    pub(super) fn working_set(&self) -> u64 {
        self.used.saturating_sub(self.inactive_file)
    }
}

/// None when the cgroup is not there.
pub(super) fn sample(cgroups: &Cgroups, cgroup: &str) -> Option<Sample> {
    if cgroups.is_unified() {
        unified(&cgroups.dir("", cgroup))
    } else {
        separate(cgroups, cgroup)
    }
}

fn separate(cgroups: &Cgroups, cgroup: &str) -> Option<Sample> {
    let memory = cgroups.dir("memory", cgroup);
    let stat = text(&memory, "memory.stat")?;
    let of = |key: &str| field(&stat, key).unwrap_or(0);
    let used = number(&memory, "memory.usage_in_bytes")?;
    let limit = number(&memory, "memory.limit_in_bytes").filter(|&limit| is_limit(limit));
    let both_limit = number(&memory, "memory.memsw.limit_in_bytes").filter(|&limit| is_limit(limit));
    let accounting = cgroups.dir("cpuacct", cgroup);
    let throttling = text(&cgroups.dir("cpu", cgroup), "cpu.stat").unwrap_or_default();
    let throttled = |key: &str| field(&throttling, key).unwrap_or(0);
    let pids = cgroups.dir("pids", cgroup);
    Some(Sample {
        cpu: Cpu {
            total: number(&accounting, "cpuacct.usage")?,
            user: number(&accounting, "cpuacct.usage_user").unwrap_or(0),
            system: number(&accounting, "cpuacct.usage_sys").unwrap_or(0),
            periods: throttled("nr_periods"),
            throttled_periods: throttled("nr_throttled"),
            throttled: throttled("throttled_time"),
        },
        memory: Memory {
            used,
            limit,
            peak: number(&memory, "memory.max_usage_in_bytes"),
            cache: of("total_cache"),
            active_file: of("total_active_file"),
            inactive_file: of("total_inactive_file"),
            mapped_file: of("total_mapped_file"),
            rss: of("total_rss"),
            kernel: number(&memory, "memory.kmem.usage_in_bytes").unwrap_or(0),
            faults: of("total_pgfault"),
            major_faults: of("total_pgmajfault"),
            failures: number(&memory, "memory.failcnt").unwrap_or(0),
            // Absent where the kernel does not account swap.
            swap: of("total_swap"),
            // v1 limits memory and swap together; what is left for swap is the difference.
            swap_limit: both_limit
                .zip(limit)
                .map(|(both, memory)| both.saturating_sub(memory)),
        },
        processes: lines(&memory, "cgroup.procs"),
        threads: number(&pids, "pids.current").unwrap_or(0),
        thread_limit: number(&pids, "pids.max"),
        oom_kills: cgroups.oom_kills(cgroup),
        pressure: Pressures::default(),
        devices: devices::separate(&cgroups.dir("blkio", cgroup)),
    })
}

fn unified(dir: &Path) -> Option<Sample> {
    let stat = text(dir, "memory.stat")?;
    let cpu = text(dir, "cpu.stat")?;
    let events = text(dir, "memory.events").unwrap_or_default();
    let of = |key: &str| field(&stat, key).unwrap_or(0);
    let count = |key: &str| field(&cpu, key).unwrap_or(0);
    let time = |key: &str| count(key).saturating_mul(1000);
    Some(Sample {
        cpu: Cpu {
            total: field(&cpu, "usage_usec")?.saturating_mul(1000),
            user: time("user_usec"),
            system: time("system_usec"),
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled: time("throttled_usec"),
        },
        memory: Memory {
            used: number(dir, "memory.current")?,
            // "max" is no number, and means none.
            limit: number(dir, "memory.max"),
            peak: number(dir, "memory.peak"),
            cache: of("file"),
            active_file: of("active_file"),
            inactive_file: of("inactive_file"),
            mapped_file: of("file_mapped"),
            rss: of("anon"),
            kernel: field(&stat, "kernel").unwrap_or_else(|| of("kernel_stack") + of("slab") + of("sock")),
            faults: of("pgfault"),
            major_faults: of("pgmajfault"),
            failures: field(&events, "max").unwrap_or(0),
            swap: number(dir, "memory.swap.current").unwrap_or(0),
            swap_limit: number(dir, "memory.swap.max"),
        },
        processes: lines(dir, "cgroup.procs"),
        threads: number(dir, "pids.current").unwrap_or(0),
        thread_limit: number(dir, "pids.max"),
        oom_kills: field(&events, "oom_kill").unwrap_or(0),
        pressure: Pressures::read(dir),
        devices: devices::unified(dir),
    })
}

/// cgroup v1 writes no limit as the largest number of whole pages.
fn is_limit(limit: u64) -> bool {
    limit < u64::MAX >> 2
}

fn text(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    text(dir, file)?.trim().parse().ok()
}

fn lines(dir: &Path, file: &str) -> u64 {
    text(dir, file).map_or(0, |text| text.lines().count() as u64)
}
