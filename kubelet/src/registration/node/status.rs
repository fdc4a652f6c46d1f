//! From what is known of the machine to the Node's status: pure.

use std::{collections::BTreeMap, time::SystemTime};

use clone8s::v1::{Condition, NodeStatus};

use super::facts::Facts;
use crate::{
    runtime::RuntimeHealth,
    stats::{HostReading, Sample},
    timestamp::timestamp,
};

/// The most pods of one node.
const PODS: u32 = 110;
/// With less memory available than this the node is under pressure; pods are not promised it.
const MEMORY_FLOOR: u64 = 100 << 20;
/// Percent of a disk, and of its inodes, with the same meaning.
const DISK_FLOOR: u64 = 10;
const INODES_FLOOR: u64 = 5;
/// Percent of the tasks that the kernel allows.
const TASKS_CEILING: u64 = 90;

pub(super) fn status(
    facts: &Facts,
    name: &str,
    health: &RuntimeHealth,
    sample: Option<&Sample>,
    before: &[Condition],
    now: SystemTime,
) -> NodeStatus {
    let host = sample.map(|sample| &sample.host);
    let (capacity, allocatable) = host.map(resources).unwrap_or_default();
    let conditions = judgements(health, host)
        .into_iter()
        .map(|judgement| judgement.condition(before, now))
        .collect();
    NodeStatus {
        capacity,
        allocatable,
        conditions,
        addresses: facts.addresses(name),
        node_info: Some(facts.system_info(&health.version)),
        stats: sample.map(|sample| sample.stats.clone()),
    }
}

/// True when a condition says something else than before; its words for people do not count.
pub(super) fn changed(before: &[Condition], now: &[Condition]) -> bool {
    let essence = |condition: &Condition| {
        (
            condition.r#type.clone(),
            condition.status.clone(),
            condition.reason.clone(),
        )
    };
    !before.iter().map(essence).eq(now.iter().map(essence))
}

type Resources = BTreeMap<String, String>;

/// What there is, and what pods may have of it.
fn resources(host: &HostReading) -> (Resources, Resources) {
    let disk = host.filesystems.first().map_or(0, |disk| disk.capacity_bytes);
    let memory = host.memory.total_bytes;
    let table = |memory: u64, disk: u64| {
        BTreeMap::from([
            ("cpu".to_owned(), host.cores.to_string()),
            ("memory".to_owned(), memory.to_string()),
            ("ephemeral-storage".to_owned(), disk.to_string()),
            ("pods".to_owned(), PODS.to_string()),
        ])
    };
    let capacity = table(memory, disk);
    let allocatable = table(
        memory.saturating_sub(MEMORY_FLOOR),
        disk - disk / 100 * DISK_FLOOR,
    );
    (capacity, allocatable)
}

/// A condition without its times.
struct Judgement {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Judgement {
    fn condition(self, before: &[Condition], now: SystemTime) -> Condition {
        let unchanged = before
            .iter()
            .find(|condition| condition.r#type == self.kind && condition.status == self.status);
        let now = timestamp(now);
        Condition {
            r#type: self.kind.to_owned(),
            status: self.status.to_owned(),
            reason: self.reason,
            message: self.message,
            last_transition_time: unchanged.map_or(Some(now), |before| before.last_transition_time),
            last_heartbeat_time: Some(now),
        }
    }
}

fn judgements(health: &RuntimeHealth, host: Option<&HostReading>) -> Vec<Judgement> {
    let network_ready = health.reason != "NetworkPluginNotReady";
    vec![
        Judgement {
            kind: "Ready",
            status: if health.ready { "True" } else { "False" },
            reason: health.reason.to_owned(),
            message: health.message.clone(),
        },
        pressure("MemoryPressure", "Memory", host.map(memory_pressure)),
        pressure("DiskPressure", "Disk", host.map(disk_pressure)),
        pressure("PIDPressure", "PID", host.map(task_pressure)),
        Judgement {
            kind: "NetworkUnavailable",
            status: if network_ready { "False" } else { "True" },
            reason: if network_ready {
                "NetworkReady"
            } else {
                "NetworkPluginNotReady"
            }
            .to_owned(),
            message: if network_ready {
                "the pod network is set up".to_owned()
            } else {
                health.message.clone()
            },
        },
    ]
}

/// What presses, if anything does.
type Pressure = Option<String>;

/// `finding` is None before the first sample.
fn pressure(kind: &'static str, what: &str, finding: Option<Pressure>) -> Judgement {
    let (status, reason, message) = match finding {
        None => (
            "Unknown",
            "NotSampledYet".to_owned(),
            "the node was not looked at yet".to_owned(),
        ),
        Some(None) => (
            "False",
            format!("KubeletHasSufficient{what}"),
            "there is enough".to_owned(),
        ),
        Some(Some(message)) => ("True", format!("KubeletHasInsufficient{what}"), message),
    };
    Judgement {
        kind,
        status,
        reason,
        message,
    }
}

fn memory_pressure(host: &HostReading) -> Pressure {
    let available = host.memory.available_bytes;
    (available < MEMORY_FLOOR).then(|| format!("{available} bytes are available, less than {MEMORY_FLOOR}"))
}

fn disk_pressure(host: &HostReading) -> Pressure {
    host.filesystems.iter().find_map(|disk| {
        let low = |left: u64, all: u64, floor: u64| all > 0 && left < all / 100 * floor;
        let at = &disk.mount_point;
        if low(disk.available_bytes, disk.capacity_bytes, DISK_FLOOR) {
            let (left, all) = (disk.available_bytes, disk.capacity_bytes);
            return Some(format!(
                "{at}: {left} of {all} bytes are available, less than {DISK_FLOOR} %"
            ));
        }
        low(disk.inodes_free, disk.inodes, INODES_FLOOR).then(|| {
            let (left, all) = (disk.inodes_free, disk.inodes);
            format!("{at}: {left} of {all} inodes are free, less than {INODES_FLOOR} %")
        })
    })
}

fn task_pressure(host: &HostReading) -> Pressure {
    let (tasks, most) = (host.tasks, host.most_tasks);
    (most > 0 && tasks > most / 100 * TASKS_CEILING)
        .then(|| format!("{tasks} of {most} possible processes and threads, more than {TASKS_CEILING} %"))
}

#[cfg(test)]
mod tests;
