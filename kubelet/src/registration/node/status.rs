//! From what is known of the machine to the Node's status: pure.

use std::{collections::BTreeMap, time::SystemTime};

use clone8s::{
    quantity::Quantity,
    v1::{Condition, NodeStatus},
};
use clone8s_bus::QUEUE_CONDITION;

use super::facts::Facts;
use crate::{
    config::Reserved,
    runtime::RuntimeHealth,
    sources::QueueHealth,
    stats::{HostReading, Sample},
    timestamp::timestamp,
};

/// The most pods of one node.
const PODS: u32 = 110;
/// With less memory available than this the node is under pressure; pods are not promised it.
const MEMORY_FLOOR: u64 = 100 << 20;
/// The same for a disk: this many percent of it, or this many bytes where that is less: of a large disk, a few percent
/// are room enough.
const DISK_FLOOR_PERCENT: u64 = 5;
const DISK_FLOOR_BYTES: u64 = 1 << 30;
/// Percent of a disk's inodes, with the same meaning.
const INODES_FLOOR: u64 = 5;
/// Percent of the tasks that the kernel allows.
const TASKS_CEILING: u64 = 90;

/// What the other parts of the kubelet have seen.
pub(super) struct Seen<'a> {
    pub(super) health: &'a RuntimeHealth,
    pub(super) sample: Option<&'a Sample>,
    /// None for a node without a queue.
    pub(super) queue: Option<&'a QueueHealth>,
}

pub(super) fn status(
    facts: &Facts,
    name: &str,
    seen: &Seen<'_>,
    reserved: Reserved,
    before: &[Condition],
    now: SystemTime,
) -> NodeStatus {
    let host = seen.sample.map(|sample| &sample.host);
    let (capacity, allocatable) = host.map(|host| resources(host, reserved)).unwrap_or_default();
    let conditions = judgements(seen.health, host)
        .into_iter()
        .chain(seen.queue.map(queue_judgement))
        .map(|judgement| judgement.condition(before, now))
        .collect();
    NodeStatus {
        capacity,
        allocatable,
        conditions,
        addresses: facts.addresses(name),
        node_info: Some(facts.system_info(&seen.health.version)),
        stats: seen.sample.map(|sample| sample.stats.clone()),
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
fn resources(host: &HostReading, reserved: Reserved) -> (Resources, Resources) {
    let disk = host.filesystems.first().map_or(0, |disk| disk.capacity_bytes);
    let memory = host.memory.total_bytes;
    let milli_cpu = u64::try_from(host.cores)
        .unwrap_or(u64::MAX)
        .saturating_mul(1_000);
    let table = |milli_cpu: u64, memory: u64, disk: u64| {
        let cpu = Quantity::from_milli(i64::try_from(milli_cpu).unwrap_or(i64::MAX));
        BTreeMap::from([
            ("cpu".to_owned(), cpu.to_string()),
            ("memory".to_owned(), memory.to_string()),
            ("ephemeral-storage".to_owned(), disk.to_string()),
            ("pods".to_owned(), PODS.to_string()),
        ])
    };
    let pages = host.huge_pages.iter();
    let huge: BTreeMap<_, _> = pages
        .map(|(size, bytes)| {
            let bytes = Quantity::from_bytes(i64::try_from(*bytes).unwrap_or(i64::MAX));
            (size.resource(), bytes.to_string())
        })
        .collect();
    let mut capacity = table(milli_cpu, memory, disk);
    let mut allocatable = table(
        milli_cpu.saturating_sub(reserved.milli_cpu),
        memory
            .saturating_sub(MEMORY_FLOOR)
            // They are no memory for anything else.
            .saturating_sub(host.huge_pages.values().sum())
            .saturating_sub(reserved.memory),
        (disk - disk_floor(disk)).saturating_sub(reserved.storage),
    );
    capacity.extend(huge.clone());
    allocatable.extend(huge);
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
        network(health),
    ]
}

/// A runtime that is not ready for another reason says nothing of its network.
fn network(health: &RuntimeHealth) -> Judgement {
    let (status, reason, message) = match health.reason {
        "NetworkPluginNotReady" => ("True", health.reason, health.message.as_str()),
        _ if health.ready => ("False", "NetworkReady", "the pod network is set up"),
        _ => ("Unknown", "RuntimeNotReady", "the container runtime does not say"),
    };
    Judgement {
        kind: "NetworkUnavailable",
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

fn queue_judgement(queue: &QueueHealth) -> Judgement {
    Judgement {
        kind: QUEUE_CONDITION,
        status: if queue.consuming { "True" } else { "False" },
        reason: queue.reason.to_owned(),
        message: queue.message.clone(),
    }
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
        let (at, all) = (&disk.mount_point, disk.capacity_bytes);
        let (left, floor) = (disk.available_bytes, disk_floor(all));
        if left < floor {
            return Some(format!(
                "{at}: {left} of {all} bytes are available, less than {floor}"
            ));
        }
        let (left, all) = (disk.inodes_free, disk.inodes);
        (left < all / 100 * INODES_FLOOR)
            .then(|| format!("{at}: {left} of {all} inodes are free, less than {INODES_FLOOR} %"))
    })
}

fn disk_floor(capacity: u64) -> u64 {
    (capacity / 100 * DISK_FLOOR_PERCENT).min(DISK_FLOOR_BYTES)
}

fn task_pressure(host: &HostReading) -> Pressure {
    let (tasks, most) = (host.tasks, host.most_tasks);
    (most > 0 && tasks > most / 100 * TASKS_CEILING)
        .then(|| format!("{tasks} of {most} possible processes and threads, more than {TASKS_CEILING} %"))
}

#[cfg(test)]
mod tests;
