//! CRI's limits as the host's cgroups take them.

use clone8s::cri;
pub(crate) use clone8s_daemon::cgroups::{Cgroups, Limits, field};

pub(crate) fn limits(limits: &cri::LinuxContainerResources) -> Limits {
    // A zero is what kubelets say of pages that they do not know.
    let huge = limits.hugepage_limits.iter().filter(|huge| huge.limit > 0);
    Limits {
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        memory: limits.memory_limit_in_bytes,
        memory_and_swap: limits.memory_swap_limit_in_bytes,
        pids: 0,
        huge_pages: huge.map(|huge| (huge.page_size.clone(), huge.limit)).collect(),
        unified: limits.unified.clone(),
    }
}

/// Containers' limits and what the sandbox itself takes, together.
pub(crate) fn total(
    resources: Option<&cri::LinuxContainerResources>,
    overhead: Option<&cri::LinuxContainerResources>,
) -> cri::LinuxContainerResources {
    let Some(resources) = resources else {
        return cri::LinuxContainerResources::default();
    };
    let mut sum = resources.clone();
    let Some(overhead) = overhead else {
        return sum;
    };
    // Without a limit there is nothing to add to.
    let add = |sum: &mut i64, more: i64| {
        if *sum > 0 && more > 0 {
            *sum = sum.saturating_add(more);
        }
    };
    add(&mut sum.memory_limit_in_bytes, overhead.memory_limit_in_bytes);
    add(
        &mut sum.memory_swap_limit_in_bytes,
        overhead.memory_swap_limit_in_bytes,
    );
    add(&mut sum.cpu_shares, overhead.cpu_shares);
    if sum.cpu_period == overhead.cpu_period || overhead.cpu_period == 0 {
        add(&mut sum.cpu_quota, overhead.cpu_quota);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> cri::LinuxContainerResources {
        cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1024,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 96 << 20,
            ..Default::default()
        }
    }

    #[test]
    fn what_the_sandbox_takes_is_added_to_limits_that_there_are() {
        let overhead = cri::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            cpu_quota: 10_000,
            ..Default::default()
        };
        let sum = total(Some(&limits()), Some(&overhead));
        assert_eq!((sum.memory_limit_in_bytes, sum.cpu_quota), (65 << 20, 60_000));
        let unlimited = total(Some(&cri::LinuxContainerResources::default()), Some(&overhead));
        assert_eq!(unlimited, cri::LinuxContainerResources::default());
        assert_eq!(
            total(None, Some(&overhead)),
            cri::LinuxContainerResources::default()
        );
    }
}
