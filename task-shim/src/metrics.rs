//! A container's use of its cgroup, as containerd's metrics (containerd/cgroups, `cgroup1/stats` and `cgroup2/stats`).

use std::{collections::HashMap, fs, path::Path};

use prost::Message;
use prost_types::Any;

use crate::cgroup::Cgroup;

#[derive(Clone, PartialEq, Message)]
struct MetricsV1 {
    #[prost(message, optional, tag = "2")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "3")]
    cpu: Option<CpuV1>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV1>,
}

#[derive(Clone, PartialEq, Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
    #[prost(uint64, tag = "2")]
    limit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CpuV1 {
    #[prost(message, optional, tag = "1")]
    usage: Option<CpuUsageV1>,
    #[prost(message, optional, tag = "2")]
    throttling: Option<ThrottleV1>,
}

#[derive(Clone, PartialEq, Message)]
struct CpuUsageV1 {
    /// Nanoseconds, these three; `per_cpu` is the fourth.
    #[prost(uint64, tag = "1")]
    total: u64,
    #[prost(uint64, tag = "2")]
    kernel: u64,
    #[prost(uint64, tag = "3")]
    user: u64,
    #[prost(uint64, repeated, tag = "4")]
    per_cpu: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct ThrottleV1 {
    #[prost(uint64, tag = "1")]
    periods: u64,
    #[prost(uint64, tag = "2")]
    throttled_periods: u64,
    #[prost(uint64, tag = "3")]
    throttled_time: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV1 {
    #[prost(uint64, tag = "1")]
    cache: u64,
    #[prost(uint64, tag = "2")]
    rss: u64,
    #[prost(uint64, tag = "4")]
    mapped_file: u64,
    #[prost(uint64, tag = "9")]
    page_faults: u64,
    #[prost(uint64, tag = "10")]
    major_page_faults: u64,
    #[prost(uint64, tag = "11")]
    inactive_anon: u64,
    #[prost(uint64, tag = "12")]
    active_anon: u64,
    #[prost(uint64, tag = "13")]
    inactive_file: u64,
    #[prost(uint64, tag = "14")]
    active_file: u64,
    #[prost(uint64, tag = "15")]
    unevictable: u64,
    #[prost(message, optional, tag = "33")]
    usage: Option<MemoryEntryV1>,
    #[prost(message, optional, tag = "34")]
    swap: Option<MemoryEntryV1>,
    #[prost(message, optional, tag = "35")]
    kernel: Option<MemoryEntryV1>,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryEntryV1 {
    #[prost(uint64, tag = "1")]
    limit: u64,
    #[prost(uint64, tag = "2")]
    usage: u64,
    #[prost(uint64, tag = "3")]
    max: u64,
    #[prost(uint64, tag = "4")]
    failures: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MetricsV2 {
    #[prost(message, optional, tag = "1")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "2")]
    cpu: Option<CpuV2>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV2>,
    #[prost(message, optional, tag = "8")]
    memory_events: Option<MemoryEventsV2>,
}

#[derive(Clone, PartialEq, Message)]
struct CpuV2 {
    #[prost(uint64, tag = "1")]
    usage_usec: u64,
    #[prost(uint64, tag = "2")]
    user_usec: u64,
    #[prost(uint64, tag = "3")]
    system_usec: u64,
    #[prost(uint64, tag = "4")]
    periods: u64,
    #[prost(uint64, tag = "5")]
    throttled_periods: u64,
    #[prost(uint64, tag = "6")]
    throttled_usec: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV2 {
    #[prost(uint64, tag = "1")]
    anon: u64,
    #[prost(uint64, tag = "2")]
    file: u64,
    #[prost(uint64, tag = "3")]
    kernel_stack: u64,
    #[prost(uint64, tag = "4")]
    slab: u64,
    #[prost(uint64, tag = "5")]
    sock: u64,
    #[prost(uint64, tag = "6")]
    shmem: u64,
    #[prost(uint64, tag = "7")]
    file_mapped: u64,
    #[prost(uint64, tag = "11")]
    inactive_anon: u64,
    #[prost(uint64, tag = "12")]
    active_anon: u64,
    #[prost(uint64, tag = "13")]
    inactive_file: u64,
    #[prost(uint64, tag = "14")]
    active_file: u64,
    #[prost(uint64, tag = "18")]
    page_faults: u64,
    #[prost(uint64, tag = "19")]
    major_page_faults: u64,
    #[prost(uint64, tag = "32")]
    usage: u64,
    #[prost(uint64, tag = "33")]
    limit: u64,
    #[prost(uint64, tag = "34")]
    swap_usage: u64,
    #[prost(uint64, tag = "35")]
    swap_limit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryEventsV2 {
    #[prost(uint64, tag = "1")]
    low: u64,
    #[prost(uint64, tag = "2")]
    high: u64,
    #[prost(uint64, tag = "3")]
    max: u64,
    #[prost(uint64, tag = "4")]
    oom: u64,
    #[prost(uint64, tag = "5")]
    oom_kill: u64,
}

/// What the kernel does not tell is zero.
pub(crate) fn of(cgroup: &Cgroup) -> Any {
    match cgroup {
        Cgroup::Split { .. } => Any {
            type_url: "io.containerd.cgroups.v1.Metrics".into(),
            value: split(cgroup).encode_to_vec(),
        },
        Cgroup::Unified(dir) => Any {
            type_url: "io.containerd.cgroups.v2.Metrics".into(),
            value: unified(dir).encode_to_vec(),
        },
    }
}

fn split(cgroup: &Cgroup) -> MetricsV1 {
    let memory = cgroup.controller("memory");
    let stat = table(&memory.join("memory.stat"));
    let of = |name: &str| stat.get(name).copied().unwrap_or_default();
    let entry = |prefix: &str| {
        let read = |name: &str| number(&memory.join(format!("memory.{prefix}{name}")));
        Some(MemoryEntryV1 {
            limit: read("limit_in_bytes"),
            usage: read("usage_in_bytes"),
            max: read("max_usage_in_bytes"),
            failures: read("failcnt"),
        })
    };
    let accounting = cgroup.controller("cpuacct");
    let per_cpu = fs::read_to_string(accounting.join("cpuacct.usage_percpu")).unwrap_or_default();
    let throttled = table(&cgroup.controller("cpu").join("cpu.stat"));
    let throttled = |name: &str| throttled.get(name).copied().unwrap_or_default();
    MetricsV1 {
        pids: Some(pids(&cgroup.controller("pids"))),
        cpu: Some(CpuV1 {
            usage: Some(CpuUsageV1 {
                total: number(&accounting.join("cpuacct.usage")),
                kernel: number(&accounting.join("cpuacct.usage_sys")),
                user: number(&accounting.join("cpuacct.usage_user")),
                per_cpu: per_cpu
                    .split_whitespace()
                    .filter_map(|word| word.parse().ok())
                    .collect(),
            }),
            throttling: Some(ThrottleV1 {
                periods: throttled("nr_periods"),
                throttled_periods: throttled("nr_throttled"),
                throttled_time: throttled("throttled_time"),
            }),
        }),
        memory: Some(MemoryV1 {
            cache: of("cache"),
            rss: of("rss"),
            mapped_file: of("mapped_file"),
            page_faults: of("pgfault"),
            major_page_faults: of("pgmajfault"),
            inactive_anon: of("inactive_anon"),
            active_anon: of("active_anon"),
            inactive_file: of("inactive_file"),
            active_file: of("active_file"),
            unevictable: of("unevictable"),
            usage: entry(""),
            swap: entry("memsw."),
            kernel: entry("kmem."),
        }),
    }
}

fn unified(dir: &Path) -> MetricsV2 {
    let (cpu, memory, events) = (
        table(&dir.join("cpu.stat")),
        table(&dir.join("memory.stat")),
        table(&dir.join("memory.events")),
    );
    let of = |table: &HashMap<String, u64>, name: &str| table.get(name).copied().unwrap_or_default();
    MetricsV2 {
        pids: Some(pids(dir)),
        cpu: Some(CpuV2 {
            usage_usec: of(&cpu, "usage_usec"),
            user_usec: of(&cpu, "user_usec"),
            system_usec: of(&cpu, "system_usec"),
            periods: of(&cpu, "nr_periods"),
            throttled_periods: of(&cpu, "nr_throttled"),
            throttled_usec: of(&cpu, "throttled_usec"),
        }),
        memory: Some(MemoryV2 {
            anon: of(&memory, "anon"),
            file: of(&memory, "file"),
            kernel_stack: of(&memory, "kernel_stack"),
            slab: of(&memory, "slab"),
            sock: of(&memory, "sock"),
            shmem: of(&memory, "shmem"),
            file_mapped: of(&memory, "file_mapped"),
            inactive_anon: of(&memory, "inactive_anon"),
            active_anon: of(&memory, "active_anon"),
            inactive_file: of(&memory, "inactive_file"),
            active_file: of(&memory, "active_file"),
            page_faults: of(&memory, "pgfault"),
            major_page_faults: of(&memory, "pgmajfault"),
            usage: number(&dir.join("memory.current")),
            limit: number(&dir.join("memory.max")),
            swap_usage: number(&dir.join("memory.swap.current")),
            swap_limit: number(&dir.join("memory.swap.max")),
        }),
        memory_events: Some(MemoryEventsV2 {
            low: of(&events, "low"),
            high: of(&events, "high"),
            max: of(&events, "max"),
            oom: of(&events, "oom"),
            oom_kill: of(&events, "oom_kill"),
        }),
    }
}

fn pids(dir: &Path) -> Pids {
    let limit = number(&dir.join("pids.max"));
    Pids {
        current: number(&dir.join("pids.current")),
        // Zero is containerd's word for none.
        limit: if limit == u64::MAX { 0 } else { limit },
    }
}

/// `max` is the highest number.
fn number(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or_default(),
    }
}

/// Lines of a name and a number.
fn table(path: &Path) -> HashMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_v2_is_read_into_containerds_fields() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nmax 3\noom 2\noom_kill 1\n"),
            ("memory.stat", "anon 1024\nfile 2048\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let any = of(&Cgroup::Unified(dir.path().to_owned()));
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = MetricsV2::decode(any.value.as_slice()).unwrap();
        assert_eq!(metrics.cpu.unwrap().usage_usec, 1500);
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.anon, memory.usage, memory.limit), (1024, 4096, u64::MAX));
        assert_eq!(metrics.memory_events.unwrap().oom_kill, 1);
        assert_eq!(metrics.pids.unwrap(), Pids { current: 2, limit: 0 });
    }
}
