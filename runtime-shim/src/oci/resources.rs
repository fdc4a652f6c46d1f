//! Limits (OCI runtime spec 1.0.2, config-linux.md, "Control groups").

use clone8s::cri;

use super::{
    Host,
    types::{Cpu, HugepageLimit, LinuxResources, Memory},
};
use crate::error::{Error, Result};

/// CRI's limits as the runtime takes them; a zero means that nothing is asked for. `field` is the path of the limits.
pub(crate) fn resources(
    field: &str,
    limits: &cri::LinuxContainerResources,
    host: &Host,
) -> Result<LinuxResources> {
    check(field, limits)?;
    if !limits.unified.is_empty() && !host.cgroup_v2 {
        return Err(Error::unmet(
            format!("{field}.unified"),
            "this host has cgroup v1, and these are files of v2",
        ));
    }
    // Kubelets name every size of huge pages, also where they cannot be limited.
    let huge = limits
        .hugepage_limits
        .iter()
        .filter(|huge| host.hugetlb || huge.limit != 0);
    if let Some(huge) = huge.clone().find(|_| !host.hugetlb) {
        return Err(Error::unmet(
            format!("{field}.hugepage_limits"),
            format!(
                "{} of {}: this host has no hugetlb cgroup",
                huge.limit, huge.page_size
            ),
        ));
    }
    let asked = |value: i64| (value != 0).then_some(value);
    let memory = Memory {
        limit: asked(limits.memory_limit_in_bytes),
        // Kubelets set it everywhere, also where the kernel does not count swap.
        // Where it is not set, there is none beyond the memory, as with containerd.
        swap: asked(limits.memory_swap_limit_in_bytes)
            .or(asked(limits.memory_limit_in_bytes))
            .filter(|_| host.swap),
    };
    let cpu = Cpu {
        shares: asked(limits.cpu_shares).map(i64::unsigned_abs),
        quota: asked(limits.cpu_quota),
        period: asked(limits.cpu_period).map(i64::unsigned_abs),
        cpus: limits.cpuset_cpus.clone(),
        mems: limits.cpuset_mems.clone(),
    };
    Ok(LinuxResources {
        devices: Vec::new(),
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        hugepage_limits: huge
            .map(|huge| HugepageLimit {
                page_size: huge.page_size.clone(),
                limit: huge.limit,
            })
            .collect(),
        unified: limits.unified.clone(),
    })
}

/// What is wrong with limits on any host.
fn check(field: &str, limits: &cri::LinuxContainerResources) -> Result<()> {
    let refuse = |name: &str, problem: String| Err(Error::invalid(format!("{field}.{name}"), problem));
    if limits.cpu_shares < 0 {
        return refuse("cpu_shares", format!("{} is negative", limits.cpu_shares));
    }
    // The kernel's range (Documentation/scheduler/sched-bwc.rst).
    if limits.cpu_period != 0 && !(1000..=1_000_000).contains(&limits.cpu_period) {
        let problem = format!(
            "{} is not between 1000 and 1000000 microseconds",
            limits.cpu_period
        );
        return refuse("cpu_period", problem);
    }
    if limits.cpu_quota < -1 || (1..1000).contains(&limits.cpu_quota) {
        let problem = format!(
            "{} is neither -1 nor at least 1000 microseconds",
            limits.cpu_quota
        );
        return refuse("cpu_quota", problem);
    }
    let (memory, swap) = (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes);
    if memory < -1 {
        return refuse(
            "memory_limit_in_bytes",
            format!("{memory} is neither a number of bytes nor -1, which is no limit"),
        );
    }
    if swap < -1 || swap > 0 && swap < memory {
        let problem = format!("{swap}: memory and swap together, so at least the memory limit, or -1");
        return refuse("memory_swap_limit_in_bytes", problem);
    }
    for (name, list) in [
        ("cpuset_cpus", &limits.cpuset_cpus),
        ("cpuset_mems", &limits.cpuset_mems),
    ] {
        if !list.is_empty() && !is_id_list(list) {
            return refuse(name, format!("{list:?} is no list of numbers such as 0-2,7"));
        }
    }
    for (index, huge) in limits.hugepage_limits.iter().enumerate() {
        let number = ["KB", "MB", "GB"]
            .iter()
            .find_map(|unit| huge.page_size.strip_suffix(unit));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            let problem = format!("{:?} is no size such as 2MB", huge.page_size);
            return refuse(&format!("hugepage_limits[{index}].page_size"), problem);
        }
    }
    for (file, value) in &limits.unified {
        // A file of the container's own cgroup, such as memory.high.
        let is_file = file.split_once('.').is_some_and(|(controller, rest)| {
            !controller.is_empty() && !rest.is_empty() && !file.contains("..")
        });
        if !is_file
            || !file
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        {
            return refuse(
                "unified",
                format!("{file:?} is no file of a cgroup such as memory.high"),
            );
        }
        if file.starts_with("cgroup.") {
            return refuse("unified", format!("{file} is not for containers to set"));
        }
        if value.contains('\0') {
            return refuse("unified", format!("the value of {file} has a NUL in it"));
        }
    }
    Ok(())
}

/// Numbers and ranges of them, as cpuset(7) writes them.
fn is_id_list(text: &str) -> bool {
    text.split(',').all(|part| {
        let mut ends = part.split('-').map(str::parse::<u32>);
        match (ends.next(), ends.next(), ends.next()) {
            (Some(Ok(_)), None, None) => true,
            (Some(Ok(first)), Some(Ok(last)), None) => first <= last,
            _ => false,
        }
    })
}

/// What may be set of what is asked: without CAP_SYS_RESOURCE a process cannot go below its own lowest value, and
/// the OCI runtime dies of trying.
pub(crate) fn clamp_oom_score_adj(asked: i64, floor: i32) -> i32 {
    // The kernel's range (proc(5), oom_score_adj).
    let asked = i32::try_from(asked.clamp(-1000, 1000)).unwrap_or_default();
    asked.max(floor)
}
