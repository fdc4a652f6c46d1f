//! What a cgroup is held to.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::{Cgroups, naming};

/// What the processes of a cgroup may use together. A zero says nothing, and less than zero takes a limit away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// A weight, 2 to 262144, 1024 for a core's worth.
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in each period.
    pub cpu_quota: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of both together.
    pub memory_and_swap: i64,
    /// Processes and threads.
    pub pids: i64,
    /// Bytes by page size, such as "2MB".
    pub huge_pages: BTreeMap<String, u64>,
    /// Further files of cgroup v2.
    pub unified: BTreeMap<String, String>,
}

/// A file of a cgroup and what to write to it.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    /// Of cgroup v1.
    controller: &'static str,
    file: String,
    value: String,
}

impl Cgroups {
    /// Makes the cgroup where it is not there and sets its limits.
    pub fn limit(&self, cgroup: &str, limits: &Limits) -> io::Result<()> {
        let mut settings = settings(limits, self.unified);
        settings.retain(|setting| !self.left_out.contains(&setting.controller));
        if settings.is_empty() {
            return Ok(());
        }
        if self.unified {
            self.delegate(cgroup)?;
        }
        for setting in settings {
            if !self.unified {
                self.require(setting.controller)?;
            }
            let dir = self.dir(setting.controller, cgroup);
            fs::create_dir_all(&dir)?;
            let path = dir.join(&setting.file);
            fs::write(&path, &setting.value)
                .map_err(|error| naming(&format!("write {:?} to", setting.value), &path, &error))?;
        }
        Ok(())
    }

    /// Lets every cgroup above this one hand its controllers down (cgroups(7), "Cgroups v2 hierarchy").
    pub(super) fn delegate(&self, cgroup: &str) -> io::Result<()> {
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

fn settings(limits: &Limits, unified: bool) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut set = |controller: &'static str, file: &str, value: String| {
        all.push(Setting {
            controller,
            file: file.to_owned(),
            value,
        });
    };
    let (period, quota, shares) = (limits.cpu_period, limits.cpu_quota, limits.cpu_shares);
    let (memory, swap) = (limits.memory, limits.memory_and_swap);
    if unified {
        if quota != 0 || period != 0 {
            let quota = or_max(if quota == 0 { -1 } else { quota });
            let period = if period > 0 { period } else { 100_000 };
            set("cpu", "cpu.max", format!("{quota} {period}"));
        }
        if shares > 0 {
            set("cpu", "cpu.weight", weight(shares).to_string());
        }
        if memory != 0 {
            set("memory", "memory.max", or_max(memory));
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
        if memory != 0 {
            set("memory", "memory.limit_in_bytes", memory.to_string());
        }
    }
    if limits.pids != 0 {
        set("pids", "pids.max", or_max(limits.pids));
    }
    for (page_size, limit) in &limits.huge_pages {
        let file = if unified { "max" } else { "limit_in_bytes" };
        set(
            "hugetlb",
            &format!("hugetlb.{page_size}.{file}"),
            limit.to_string(),
        );
    }
    if unified {
        for (file, value) in &limits.unified {
            set("", file, value.clone());
        }
    }
    all
}

fn or_max(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// Shares of v1 (2 to 262144) as a weight of v2 (1 to 10000), as the OCI runtimes reckon.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// Whether the kernel counts swap for cgroups.
pub(super) fn counts_swap(root: &Path, unified: bool) -> bool {
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

    fn limits() -> Limits {
        Limits {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1024,
            memory: 64 << 20,
            memory_and_swap: 96 << 20,
            pids: 100,
            huge_pages: [("2MB".to_owned(), 0)].into(),
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
            ("pids.max", "100"),
            ("hugetlb.2MB.max", "0"),
        ];
        assert_eq!(files(true), expected(&v2));
        let v1 = [
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.shares", "1024"),
            ("memory.limit_in_bytes", "67108864"),
            ("pids.max", "100"),
            ("hugetlb.2MB.limit_in_bytes", "0"),
        ];
        assert_eq!(files(false), expected(&v1));
        assert!(settings(&Limits::default(), true).is_empty());
    }

    #[test]
    fn a_limit_is_taken_away_in_either_version() {
        let none = Limits {
            cpu_quota: -1,
            memory: -1,
            ..Limits::default()
        };
        let values = |unified| {
            let all = settings(&none, unified).into_iter();
            all.map(|setting| setting.value).collect::<Vec<_>>()
        };
        assert_eq!(values(true), ["max 100000", "max"]);
        assert_eq!(values(false), ["-1", "-1"]);
    }
}
