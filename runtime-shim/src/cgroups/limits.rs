//! The limits of a whole pod, where its cgroup is the shim's to make.

use std::{fs, io, path::Path};

use clone8s::cri;

use super::Cgroups;

/// A file of a cgroup and what to write to it.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    /// Of cgroup v1.
    controller: &'static str,
    file: String,
    value: String,
}

impl Cgroups {
    /// Makes the cgroup where it is not there and sets its limits; a zero sets nothing.
    pub(crate) fn limit(&self, cgroup: &str, limits: &cri::LinuxContainerResources) -> io::Result<()> {
        let settings = settings(limits, self.unified);
        if settings.is_empty() {
            return Ok(());
        }
        if self.unified {
            self.delegate(cgroup)?;
        }
        for setting in settings {
            let dir = self.dir(setting.controller, cgroup);
            fs::create_dir_all(&dir)?;
            let path = dir.join(&setting.file);
            fs::write(&path, &setting.value).map_err(|error| {
                let text = format!("write {:?} to {}: {error}", setting.value, path.display());
                io::Error::new(error.kind(), text)
            })?;
        }
        Ok(())
    }

    /// Lets every cgroup above this one hand its controllers down (cgroups(7), "Cgroups v2 hierarchy").
    fn delegate(&self, cgroup: &str) -> io::Result<()> {
        let mut dir = self.root.clone();
        for part in cgroup.split('/').filter(|part| !part.is_empty()) {
            let there = fs::read_to_string(dir.join("cgroup.controllers"))?;
            for controller in there.split_whitespace() {
                // One by one: a controller that cannot be had must not keep the others away.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            dir = dir.join(part);
            fs::create_dir_all(&dir)?;
        }
        Ok(())
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

fn settings(limits: &cri::LinuxContainerResources, unified: bool) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut set = |controller: &'static str, file: &str, value: String| {
        all.push(Setting {
            controller,
            file: file.to_owned(),
            value,
        });
    };
    let (period, quota, shares) = (limits.cpu_period, limits.cpu_quota, limits.cpu_shares);
    let (memory, swap) = (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes);
    if unified {
        if quota != 0 || period != 0 {
            let quota = if quota > 0 {
                quota.to_string()
            } else {
                "max".into()
            };
            let period = if period > 0 { period } else { 100_000 };
            set("cpu", "cpu.max", format!("{quota} {period}"));
        }
        if shares > 0 {
            set("cpu", "cpu.weight", weight(shares).to_string());
        }
        if memory > 0 {
            set("memory", "memory.max", memory.to_string());
        }
        if swap > 0 && memory > 0 {
            // v2 counts swap apart, CRI counts it with the memory.
            set(
                "memory",
                "memory.swap.max",
                swap.saturating_sub(memory).max(0).to_string(),
            );
        }
    } else {
        if period > 0 {
            set("cpu", "cpu.cfs_period_us", period.to_string());
        }
        if quota != 0 {
            set("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
        if shares > 0 {
            set("cpu", "cpu.shares", shares.to_string());
        }
        if memory > 0 {
            set("memory", "memory.limit_in_bytes", memory.to_string());
        }
    }
    for huge in &limits.hugepage_limits {
        let (file, value) = if unified {
            (format!("hugetlb.{}.max", huge.page_size), huge.limit)
        } else {
            (format!("hugetlb.{}.limit_in_bytes", huge.page_size), huge.limit)
        };
        if value > 0 {
            set("hugetlb", &file, value.to_string());
        }
    }
    if unified {
        for (file, value) in &limits.unified {
            set("", file, value.clone());
        }
    }
    all
}

/// Shares of v1 (2 to 262144) as a weight of v2 (1 to 10000), as the OCI runtimes reckon.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// Whether the kernel counts swap for cgroups.
pub(crate) fn counts_swap(root: &Path, unified: bool) -> bool {
    if !unified {
        return root.join("memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root has no limits, so it has no such file.
    let children = fs::read_dir(root).into_iter().flatten().flatten();
    children
        .map(|child| child.path().join("memory.swap.max"))
        .any(|file| file.exists())
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
    fn limits_become_files_of_either_version() {
        let files = |unified| {
            settings(&limits(), unified)
                .into_iter()
                .map(|setting| (setting.file, setting.value))
                .collect::<Vec<_>>()
        };
        let expected = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|&(file, value)| (file.to_owned(), value.to_owned()))
                .collect::<Vec<_>>()
        };
        let v2 = [
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "39"),
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
        ];
        assert_eq!(files(true), expected(&v2));
        let v1 = [
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.shares", "1024"),
            ("memory.limit_in_bytes", "67108864"),
        ];
        assert_eq!(files(false), expected(&v1));
        assert!(settings(&cri::LinuxContainerResources::default(), true).is_empty());
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
