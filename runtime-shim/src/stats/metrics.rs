//! ListMetricDescriptors and ListPodSandboxMetrics: the kubelet's container metrics, under the names, labels and
//! units that cadvisor gave them.
//!
//! CRI's values are whole numbers, so that metrics in seconds are rounded down. A pod's own metrics have an empty
//! `container`: its network, and its cgroup where it has one to itself.

mod table;

use clone8s::cri::{self, MetricType};

use self::table::{CGROUP, CONTAINER, NETWORK, PRESSURE};
use super::{Pod, network::Interface, sample::Sample};

/// What every metric is labelled with, before its own labels.
const BASE: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// One metric, read from a `T`.
struct Metric<T> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// The keys of its own labels.
    labels: &'static [&'static str],
    /// Each value with those labels.
    read: fn(&T) -> Vec<Value>,
}

type Value = (u64, Vec<String>);

/// Every metric that there may be.
pub(crate) fn descriptors() -> Vec<cri::MetricDescriptor> {
    fn of<T>(metric: &Metric<T>) -> cri::MetricDescriptor {
        let keys = BASE.iter().chain(metric.labels);
        cri::MetricDescriptor {
            name: metric.name.to_owned(),
            help: metric.help.to_owned(),
            label_keys: keys.map(|&key| key.to_owned()).collect(),
        }
    }
    let cgroup = CGROUP.iter().chain(PRESSURE).map(of);
    let container = CONTAINER.iter().map(of);
    cgroup.chain(container).chain(NETWORK.iter().map(of)).collect()
}

pub(super) fn of_pod(pod: &Pod, at: i64) -> cri::PodSandboxMetrics {
    let metadata = pod.sandbox.config.metadata.clone().unwrap_or_default();
    let base = |container: &str, id: &str, image: &str| {
        [
            metadata.name.as_str(),
            metadata.namespace.as_str(),
            container,
            id,
            image,
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let own = base("", pod.sandbox.id.as_str(), "");
    let mut metrics = Vec::new();
    if let Some(sample) = &pod.sample {
        of_cgroup(sample, &own, at, &mut metrics);
    }
    for interface in pod.interfaces.iter().flatten() {
        write::<Interface>(NETWORK, interface, &own, at, &mut metrics);
    }
    let containers = pod.containers.iter().map(|measured| {
        let container = &measured.container;
        let name = container
            .config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.as_str())
            .unwrap_or_default();
        let image = container
            .config
            .image
            .as_ref()
            .map(|image| match image.user_specified_image.as_str() {
                "" => image.image.as_str(),
                written => written,
            })
            .unwrap_or_default();
        let labels = base(name, container.id.as_str(), image);
        let mut metrics = Vec::new();
        if let Some(sample) = &measured.sample {
            of_cgroup(sample, &labels, at, &mut metrics);
        }
        write(CONTAINER, measured, &labels, at, &mut metrics);
        cri::ContainerMetrics {
            container_id: container.id.to_string(),
            metrics,
        }
    });
    cri::PodSandboxMetrics {
        pod_sandbox_id: pod.sandbox.id.to_string(),
        container_metrics: containers.collect(),
        metrics,
    }
}

fn of_cgroup(sample: &Sample, labels: &[String], at: i64, into: &mut Vec<cri::Metric>) {
    write(CGROUP, sample, labels, at, into);
    write(PRESSURE, sample, labels, at, into);
}

fn write<T>(metrics: &[Metric<T>], from: &T, labels: &[String], at: i64, into: &mut Vec<cri::Metric>) {
    for metric in metrics {
        for (value, own) in (metric.read)(from) {
            debug_assert_eq!(own.len(), metric.labels.len(), "{}", metric.name);
            into.push(cri::Metric {
                name: metric.name.to_owned(),
                timestamp: at,
                metric_type: metric.kind.into(),
                label_values: labels.iter().cloned().chain(own).collect(),
                value: super::some(value),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_one_name_a_help_and_labels_of_its_own() {
        let all = descriptors();
        let names: BTreeSet<_> = all.iter().map(|metric| &metric.name).collect();
        assert_eq!(names.len(), all.len());
        for metric in &all {
            assert!(metric.name.starts_with("container_"), "{}", metric.name);
            assert!(!metric.help.is_empty(), "{}", metric.name);
            let keys: BTreeSet<_> = metric.label_keys.iter().collect();
            assert_eq!(keys.len(), metric.label_keys.len(), "{}", metric.name);
            assert!(
                metric.label_keys.iter().take(5).eq(BASE.iter()),
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn a_cgroup_is_written_with_values_in_its_units() {
        let sample = Sample {
            cpu: crate::stats::sample::Cpu {
                total: 2_500_000_000,
                ..Default::default()
            },
            memory: crate::stats::sample::Memory {
                used: 1000,
                inactive_file: 400,
                ..Default::default()
            },
            ..Default::default()
        };
        let labels: Vec<_> = ["web", "default", "main", "c1", "app:1"]
            .map(str::to_owned)
            .into();
        let mut metrics = Vec::new();
        of_cgroup(&sample, &labels, 7, &mut metrics);
        let find = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap();
        let cpu = find("container_cpu_usage_seconds_total");
        assert_eq!(cpu.value, crate::stats::some(2));
        assert_eq!(cpu.metric_type(), MetricType::Counter);
        assert_eq!(cpu.label_values.last().unwrap(), "total");
        let memory = find("container_memory_working_set_bytes");
        assert_eq!(memory.value, crate::stats::some(600));
        assert_eq!(memory.metric_type(), MetricType::Gauge);
        assert_eq!(memory.label_values, labels);
        let described: BTreeSet<_> = descriptors()
            .into_iter()
            .map(|metric| (metric.name, metric.label_keys.len()))
            .collect();
        for metric in metrics {
            assert!(
                described.contains(&(metric.name.clone(), metric.label_values.len())),
                "{metric:?}"
            );
        }
    }
}
