use std::time::Duration;

use clone8s::{
    huge_pages::PageSize,
    v1::{FilesystemStats, MemoryStats},
};
use rstest::rstest;

use super::*;

const GIB: u64 = 1 << 30;

fn now(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn healthy() -> RuntimeHealth {
    RuntimeHealth {
        ready: true,
        reason: "KubeletReady",
        message: "the container runtime is ready".to_owned(),
        version: "containerd://1.6".to_owned(),
    }
}

fn roomy() -> HostReading {
    HostReading {
        cores: 4,
        memory: MemoryStats {
            total_bytes: 8 * GIB,
            available_bytes: 4 * GIB,
            working_set_bytes: 4 * GIB,
        },
        filesystems: vec![FilesystemStats {
            mount_point: "/".to_owned(),
            capacity_bytes: 100 * GIB,
            available_bytes: 50 * GIB,
            inodes: 1000,
            inodes_free: 500,
        }],
        tasks: 200,
        most_tasks: 30_000,
        ..HostReading::default()
    }
}

fn of(health: &RuntimeHealth, host: HostReading, before: &[Condition], at: u64) -> NodeStatus {
    reserving(Reserved::default(), health, host, before, at)
}

fn reserving(
    reserved: Reserved,
    health: &RuntimeHealth,
    host: HostReading,
    before: &[Condition],
    at: u64,
) -> NodeStatus {
    let sample = Sample {
        stats: clone8s::v1::NodeStats::default(),
        host,
    };
    status(
        &Facts::default(),
        "node-1",
        &Seen {
            health,
            sample: Some(&sample),
            queue: None,
        },
        reserved,
        before,
        now(at),
    )
}

fn summary(status: &NodeStatus) -> Vec<(&str, &str, &str)> {
    status
        .conditions
        .iter()
        .map(|condition| {
            (
                condition.r#type.as_str(),
                condition.status.as_str(),
                condition.reason.as_str(),
            )
        })
        .collect()
}

#[test]
fn a_healthy_node_is_ready_and_under_no_pressure() {
    assert_eq!(
        summary(&of(&healthy(), roomy(), &[], 1)),
        [
            ("Ready", "True", "KubeletReady"),
            ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            ("DiskPressure", "False", "KubeletHasSufficientDisk"),
            ("PIDPressure", "False", "KubeletHasSufficientPID"),
            ("NetworkUnavailable", "False", "NetworkReady"),
        ]
    );
}

#[test]
fn pods_are_promised_less_than_there_is() {
    let status = of(&healthy(), roomy(), &[], 1);
    let get = |table: &Resources, name: &str| table[name].parse::<u64>().unwrap();
    assert_eq!(status.capacity["cpu"], "4");
    assert_eq!(status.capacity["pods"], "110");
    assert_eq!(get(&status.capacity, "memory"), 8 * GIB);
    assert_eq!(get(&status.allocatable, "memory"), 8 * GIB - MEMORY_FLOOR);
    assert_eq!(get(&status.allocatable, "ephemeral-storage"), 99 * GIB);
}

#[test]
fn huge_pages_are_counted_by_their_size_and_are_no_other_memory() {
    let pages = [(2 << 20, GIB), (1 << 30, 0)];
    let host = HostReading {
        huge_pages: pages
            .map(|(size, bytes)| (PageSize::new(size).unwrap(), bytes))
            .into(),
        ..roomy()
    };
    let status = of(&healthy(), host, &[], 1);
    for table in [&status.capacity, &status.allocatable] {
        assert_eq!(table["hugepages-2Mi"], "1Gi");
        assert_eq!(table["hugepages-1Gi"], "0");
    }
    assert_eq!(status.capacity["memory"], (8 * GIB).to_string());
    assert_eq!(status.allocatable["memory"], (7 * GIB - MEMORY_FLOOR).to_string());
}

#[test]
fn what_is_reserved_is_not_promised() {
    let reserved = Reserved {
        milli_cpu: 500,
        memory: GIB,
        storage: 200 * GIB,
    };
    let status = reserving(reserved, &healthy(), roomy(), &[], 1);
    assert_eq!(status.allocatable["cpu"], "3500m");
    assert_eq!(status.allocatable["memory"], (7 * GIB - MEMORY_FLOOR).to_string());
    assert_eq!(status.allocatable["ephemeral-storage"], "0");
    assert_eq!(status.capacity["cpu"], "4");
}

#[rstest]
#[case::memory("MemoryPressure", |host: &mut HostReading| host.memory.available_bytes = MEMORY_FLOOR - 1)]
#[case::disk("DiskPressure", |host: &mut HostReading| host.filesystems[0].available_bytes = GIB - 1)]
#[case::inodes("DiskPressure", |host: &mut HostReading| host.filesystems[0].inodes_free = 40)]
#[case::tasks("PIDPressure", |host: &mut HostReading| host.tasks = 29_000)]
fn what_runs_out_is_a_pressure_of_its_own(#[case] kind: &str, #[case] take: fn(&mut HostReading)) {
    let mut host = roomy();
    take(&mut host);
    let status = of(&healthy(), host, &[], 1);
    let pressed: Vec<_> = status
        .conditions
        .iter()
        .filter(|condition| condition.r#type != "Ready" && condition.status == "True")
        .map(|condition| condition.r#type.as_str())
        .collect();
    assert_eq!(pressed, [kind]);
}

#[test]
fn a_filesystem_that_has_no_inodes_to_count_is_under_no_pressure() {
    let mut host = roomy();
    host.filesystems[0].inodes = 0;
    host.filesystems[0].inodes_free = 0;
    assert_eq!(summary(&of(&healthy(), host, &[], 1))[2].1, "False");
}

#[test]
fn a_missing_pod_network_makes_the_node_unready_and_says_so_twice() {
    let health = RuntimeHealth {
        ready: false,
        reason: "NetworkPluginNotReady",
        message: "no CNI configuration in /etc/cni/net.d".to_owned(),
        version: String::new(),
    };
    let status = of(&health, roomy(), &[], 1);
    assert_eq!(summary(&status)[0], ("Ready", "False", "NetworkPluginNotReady"));
    assert_eq!(
        summary(&status)[4],
        ("NetworkUnavailable", "True", "NetworkPluginNotReady")
    );
    assert!(status.conditions[4].message.contains("/etc/cni/net.d"));
}

#[test]
fn before_the_first_sample_pressure_is_unknown() {
    let status = status(
        &Facts::default(),
        "node-1",
        &Seen {
            health: &healthy(),
            sample: None,
            queue: None,
        },
        Reserved::default(),
        &[],
        now(1),
    );
    assert_eq!(status.conditions[1].status, "Unknown");
    assert!(status.capacity.is_empty());
}

#[test]
fn of_a_small_disk_five_percent_are_the_floor() {
    assert_eq!(disk_floor(2_000_000_000), 100_000_000);
    assert_eq!(disk_floor(500 * GIB), GIB);
}

#[test]
fn a_runtime_that_does_not_answer_leaves_the_network_unknown() {
    let status = of(&RuntimeHealth::starting(), roomy(), &[], 1);
    assert_eq!(
        summary(&status)[4],
        ("NetworkUnavailable", "Unknown", "RuntimeNotReady")
    );
}

#[test]
fn a_heartbeat_moves_its_own_time_and_a_change_the_transitions() {
    let first = of(&healthy(), roomy(), &[], 1).conditions;
    let second = of(&healthy(), roomy(), &first, 11).conditions;
    assert!(!changed(&first, &second));
    let times = |condition: &Condition| {
        (
            condition.last_transition_time.unwrap().seconds,
            condition.last_heartbeat_time.unwrap().seconds,
        )
    };
    assert_eq!(times(&second[0]), (1, 11));
    let third = of(&RuntimeHealth::starting(), roomy(), &second, 21).conditions;
    assert!(changed(&second, &third));
    assert_eq!((times(&third[0]), times(&third[1])), ((21, 21), (1, 21)));
}
