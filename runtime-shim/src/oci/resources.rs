//! Limits (OCI runtime spec 1.0.2, config-linux.md, "Control groups").

use clone8s::cri;

use super::types::{Cpu, HugepageLimit, LinuxResources, Memory};
use crate::error::{Error, Result};

/// CRI's limits as the runtime takes them; a zero means that nothing is asked for.
pub(crate) fn resources(limits: &cri::LinuxContainerResources, cgroup_v2: bool) -> Result<LinuxResources> {
    if !limits.unified.is_empty() && !cgroup_v2 {
        return Err(Error::invalid("resources.unified", "this host has cgroup v1"));
    }
    for (field, value) in [
        ("resources.cpu_period", limits.cpu_period),
        ("resources.cpu_shares", limits.cpu_shares),
        ("resources.memory_limit_in_bytes", limits.memory_limit_in_bytes),
    ] {
        if value < 0 {
            return Err(Error::invalid(field, format!("{value} is negative")));
        }
    }
    let asked = |value: i64| (value != 0).then_some(value);
    let memory = Memory {
        limit: asked(limits.memory_limit_in_bytes),
        swap: asked(limits.memory_swap_limit_in_bytes),
    };
    let cpu = Cpu {
        shares: asked(limits.cpu_shares).map(i64::unsigned_abs),
        quota: asked(limits.cpu_quota),
        period: asked(limits.cpu_period).map(i64::unsigned_abs),
        cpus: limits.cpuset_cpus.clone(),
        mems: limits.cpuset_mems.clone(),
    };
    let hugepages = limits.hugepage_limits.iter();
    Ok(LinuxResources {
        devices: Vec::new(),
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        hugepage_limits: hugepages
            .map(|huge| HugepageLimit {
                page_size: huge.page_size.clone(),
                limit: huge.limit,
            })
            .collect(),
        unified: limits.unified.clone(),
    })
}

/// What may be set of what is asked: without CAP_SYS_RESOURCE a process cannot go below its own lowest value, and
/// the OCI runtime dies of trying.
pub(crate) fn clamp_oom_score_adj(asked: i64, floor: i32) -> i32 {
    // The kernel's range (proc(5), oom_score_adj).
    let asked = i32::try_from(asked.clamp(-1000, 1000)).unwrap_or_default();
    asked.max(floor)
}
