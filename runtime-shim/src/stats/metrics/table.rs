//! Which metrics there are, and where each value comes from.

use clone8s::cri::{self, MetricType};

use super::{Metric, Value};
use crate::{
    container::state::State,
    stats::{
        Measured,
        devices::{self, Device},
        network::Interface,
        sample::Sample,
    },
};

const fn counter<T>(name: &'static str, help: &'static str, read: fn(&T) -> Vec<Value>) -> Metric<T> {
    labelled(name, help, MetricType::Counter, &[], read)
}

const fn gauge<T>(name: &'static str, help: &'static str, read: fn(&T) -> Vec<Value>) -> Metric<T> {
    labelled(name, help, MetricType::Gauge, &[], read)
}

const fn labelled<T>(
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    read: fn(&T) -> Vec<Value>,
) -> Metric<T> {
    Metric {
        name,
        help,
        kind,
        labels,
        read,
    }
}

fn one(value: u64) -> Vec<Value> {
    vec![(value, Vec::new())]
}

fn maybe(value: Option<u64>) -> Vec<Value> {
    value.map(one).unwrap_or_default()
}

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;

/// Of a cgroup, a container's or a pod's.
pub(super) const CGROUP: &[Metric<Sample>] = &[
    counter(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        |of| one(of.cpu.user / NANOS),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        |of| one(of.cpu.system / NANOS),
    ),
    labelled(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        MetricType::Counter,
        &["cpu"],
        |of| vec![(of.cpu.total / NANOS, vec!["total".to_owned()])],
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        |of| one(of.cpu.periods),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        |of| one(of.cpu.throttled_periods),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled, in seconds.",
        |of| one(of.cpu.throttled / NANOS),
    ),
    gauge(
        "container_memory_cache",
        "Number of bytes of page cache memory.",
        |of| one(of.memory.cache),
    ),
    gauge("container_memory_rss", "Size of RSS in bytes.", |of| {
        one(of.memory.rss)
    }),
    gauge(
        "container_memory_kernel_usage",
        "Size of kernel memory allocated in bytes.",
        |of| one(of.memory.kernel),
    ),
    gauge(
        "container_memory_mapped_file",
        "Size of memory mapped files in bytes.",
        |of| one(of.memory.mapped_file),
    ),
    gauge("container_memory_swap", "Container swap usage in bytes.", |of| {
        one(of.memory.swap)
    }),
    counter(
        "container_memory_failcnt",
        "Number of memory usage hits limits.",
        |of| one(of.memory.failures),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed.",
        |of| one(of.memory.used),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes.",
        |of| maybe(of.memory.peak),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Current working set in bytes.",
        |of| one(of.memory.working_set()),
    ),
    gauge(
        "container_memory_total_active_file_bytes",
        "Current total active file in bytes.",
        |of| one(of.memory.active_file),
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        "Current total inactive file in bytes.",
        |of| one(of.memory.inactive_file),
    ),
    labelled(
        "container_memory_failures_total",
        "Cumulative count of memory allocation failures.",
        MetricType::Counter,
        &["failure_type", "scope"],
        |of| {
            let value = |count, kind: &str| (count, vec![kind.to_owned(), "hierarchy".to_owned()]);
            vec![
                value(of.memory.faults, "pgfault"),
                value(of.memory.major_faults, "pgmajfault"),
            ]
        },
    ),
    counter(
        "container_oom_events_total",
        "Count of out of memory events observed for the container.",
        |of| one(of.oom_kills),
    ),
    gauge(
        "container_processes",
        "Number of processes running inside the container.",
        |of| one(of.processes),
    ),
    gauge(
        "container_threads",
        "Number of threads running inside the container.",
        |of| one(of.threads),
    ),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, 0 for no limit.",
        |of| one(of.thread_limit.unwrap_or(0)),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit for the container in bytes, 0 for no limit.",
        |of| one(of.memory.limit.unwrap_or(0)),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Memory swap limit for the container in bytes, 0 for no limit.",
        |of| one(of.memory.swap_limit.unwrap_or(0)),
    ),
    labelled(
        "container_fs_reads_bytes_total",
        "Cumulative count of bytes read.",
        MetricType::Counter,
        &["device"],
        |of| of_devices(of, |device| device.read_bytes),
    ),
    labelled(
        "container_fs_writes_bytes_total",
        "Cumulative count of bytes written.",
        MetricType::Counter,
        &["device"],
        |of| of_devices(of, |device| device.written_bytes),
    ),
    labelled(
        "container_fs_reads_total",
        "Cumulative count of reads completed.",
        MetricType::Counter,
        &["device"],
        |of| of_devices(of, |device| device.reads),
    ),
    labelled(
        "container_fs_writes_total",
        "Cumulative count of writes completed.",
        MetricType::Counter,
        &["device"],
        |of| of_devices(of, |device| device.writes),
    ),
];

/// Of a cgroup whose kernel tells pressure.
pub(super) const PRESSURE: &[Metric<Sample>] = &[
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion, in seconds.",
        |of| waiting(of.pressure.cpu.as_ref()),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion, in seconds.",
        |of| stalled(of.pressure.cpu.as_ref()),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion, in seconds.",
        |of| waiting(of.pressure.memory.as_ref()),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion, in seconds.",
        |of| stalled(of.pressure.memory.as_ref()),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion, in seconds.",
        |of| waiting(of.pressure.io.as_ref()),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion, in seconds.",
        |of| stalled(of.pressure.io.as_ref()),
    ),
];

/// Of a container beyond its cgroup.
pub(super) const CONTAINER: &[Metric<Measured>] = &[
    labelled(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        MetricType::Gauge,
        &["device"],
        |of| layer(of, |layer| layer.used_bytes),
    ),
    labelled(
        "container_fs_inodes_used",
        "Number of inodes that are consumed by the container on this filesystem.",
        MetricType::Gauge,
        &["device"],
        |of| layer(of, |layer| layer.inodes_used),
    ),
    gauge(
        "container_spec_cpu_period",
        "CPU period of the container, in microseconds.",
        |of| limit(of, |limits| limits.cpu_period),
    ),
    gauge(
        "container_spec_cpu_quota",
        "CPU quota of the container, in microseconds of each period.",
        |of| limit(of, |limits| limits.cpu_quota),
    ),
    gauge("container_spec_cpu_shares", "CPU share of the container.", |of| {
        limit(of, |limits| limits.cpu_shares)
    }),
    gauge(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        |of| maybe(started(of)),
    ),
    gauge(
        "container_last_seen",
        "Last time a container was seen by the exporter, in seconds since unix epoch.",
        |of| maybe(started(of).and_then(|_| seconds_of(of.at))),
    ),
];

/// Of each of a pod's network interfaces.
pub(super) const NETWORK: &[Metric<Interface>] = &[
    traffic(
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received.",
        |of| of_interface(of, of.received.bytes),
    ),
    traffic(
        "container_network_receive_packets_total",
        "Cumulative count of packets received.",
        |of| of_interface(of, of.received.packets),
    ),
    traffic(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving.",
        |of| of_interface(of, of.received.dropped),
    ),
    traffic(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving.",
        |of| of_interface(of, of.received.errors),
    ),
    traffic(
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted.",
        |of| of_interface(of, of.sent.bytes),
    ),
    traffic(
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted.",
        |of| of_interface(of, of.sent.packets),
    ),
    traffic(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting.",
        |of| of_interface(of, of.sent.dropped),
    ),
    traffic(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting.",
        |of| of_interface(of, of.sent.errors),
    ),
];

const fn traffic(
    name: &'static str,
    help: &'static str,
    read: fn(&Interface) -> Vec<Value>,
) -> Metric<Interface> {
    labelled(name, help, MetricType::Counter, &["interface"], read)
}

fn of_interface(interface: &Interface, value: u64) -> Vec<Value> {
    vec![(value, vec![interface.name.clone()])]
}

fn of_devices(sample: &Sample, value: fn(&Device) -> u64) -> Vec<Value> {
    let all = sample.devices.iter();
    all.map(|(number, device)| (value(device), vec![devices::name(number)]))
        .collect()
}

fn waiting(pressure: Option<&cri::PsiStats>) -> Vec<Value> {
    seconds(pressure.and_then(|psi| psi.some.as_ref()))
}

fn stalled(pressure: Option<&cri::PsiStats>) -> Vec<Value> {
    seconds(pressure.and_then(|psi| psi.full.as_ref()))
}

fn seconds(data: Option<&cri::PsiData>) -> Vec<Value> {
    maybe(data.map(|data| data.total / MICROS))
}

fn layer(of: &Measured, value: fn(&cri::FilesystemUsage) -> Option<cri::UInt64Value>) -> Vec<Value> {
    let Some(layer) = &of.layer else {
        return Vec::new();
    };
    let device = layer.fs_id.as_ref().map(|id| id.mountpoint.clone());
    value(layer)
        .map(|value| (value.value, vec![device.unwrap_or_default()]))
        .into_iter()
        .collect()
}

/// Of a container that runs.
fn started(of: &Measured) -> Option<u64> {
    match of.container.state() {
        State::Running { started_at, .. } => seconds_of(started_at),
        State::Created | State::Exited(_) => None,
    }
}

fn seconds_of(nanos: i64) -> Option<u64> {
    u64::try_from(nanos).ok().map(|nanos| nanos / NANOS)
}

/// A limit that is set.
fn limit(of: &Measured, value: fn(&cri::LinuxContainerResources) -> i64) -> Vec<Value> {
    let limits = of.container.resources();
    maybe(u64::try_from(value(&limits)).ok().filter(|&value| value > 0))
}
