//! A node for people.

use std::time::SystemTime;

use clone8s::v1::{Condition, Node, NodeStats};

use super::{Describe, Page};
use crate::output::age;

const MIB: u64 = 1024 * 1024;

impl Describe for Node {
    fn describe(&self, page: &mut Page, now: SystemTime) {
        let status = self.status.clone().unwrap_or_default();
        if self.spec.as_ref().is_some_and(|spec| spec.unschedulable) {
            page.field("Unschedulable", "yes");
        }
        for address in &status.addresses {
            page.field(&address.r#type, &address.address);
        }
        if let Some(info) = &status.node_info {
            page.field("OS", format!("{} ({})", info.os_image, info.architecture));
            page.field("Kernel", &info.kernel_version);
            page.field("Runtime", &info.container_runtime_version);
            page.field("Kubelet", &info.kubelet_version);
        }
        page.map("Capacity", &status.capacity);
        page.map("Allocatable", &status.allocatable);
        if let Some(stats) = &status.stats {
            describe_stats(stats, page, now);
        }
        describe_conditions(&status.conditions, page, now);
    }
}

fn describe_stats(stats: &NodeStats, page: &mut Page, now: SystemTime) {
    page.section(&format!("Use, {} ago", age(stats.time.as_ref(), now)));
    if let Some(cpu) = &stats.cpu {
        page.field("CPU", format!("{}m", cpu.usage_nano_cores / 1_000_000));
    }
    if let Some(memory) = &stats.memory {
        page.field(
            "Memory",
            format!(
                "{} MiB of {} MiB",
                memory.working_set_bytes / MIB,
                memory.total_bytes / MIB
            ),
        );
    }
    if let Some(load) = &stats.load {
        page.field(
            "Load",
            format!("{:.2} {:.2} {:.2}", load.one, load.five, load.fifteen),
        );
    }
    for fs in &stats.filesystems {
        let used = fs.capacity_bytes.saturating_sub(fs.available_bytes);
        page.field(
            &fs.mount_point,
            format!("{} MiB of {} MiB", used / MIB, fs.capacity_bytes / MIB),
        );
    }
    page.end_section();
}

pub(super) fn describe_conditions(conditions: &[Condition], page: &mut Page, now: SystemTime) {
    if conditions.is_empty() {
        return;
    }
    page.section("Conditions");
    for condition in conditions {
        let why: Vec<_> = [&condition.reason, &condition.message]
            .into_iter()
            .filter(|part| !part.is_empty())
            .cloned()
            .collect();
        page.line(format!(
            "{:<26} {:<8} {:>6}  {}",
            condition.r#type,
            condition.status,
            age(condition.last_transition_time.as_ref(), now),
            why.join(": ")
        ));
    }
    page.end_section();
}
