//! What the runtime says of its containers, by pod: pure.

use clone8s::{
    cri,
    v1::{ContainerStats, CpuStats, MemoryStats, PodStats},
};

use super::{ByPod, rate::Rates};
use crate::identity;

/// The pods of this kubelet alone, sorted by namespace, name and uid, and their containers by name.
pub(super) fn pods(containers: &[cri::ContainerStats], before: &Rates, next: &mut Rates) -> Vec<PodStats> {
    let mut by_pod: ByPod<Vec<ContainerStats>> = ByPod::new();
    for container in containers {
        let Some(attributes) = &container.attributes else {
            continue;
        };
        let labels = &attributes.labels;
        if !labels.contains_key(identity::MANAGED) {
            continue;
        }
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let pod = (
            label(identity::POD_NAMESPACE),
            label(identity::POD_NAME),
            label(identity::POD_UID),
        );
        by_pod.entry(pod).or_default().push(ContainerStats {
            name: label(identity::CONTAINER_NAME),
            cpu: container
                .cpu
                .as_ref()
                .map(|cpu| cpu_stats(&attributes.id, cpu, before, next)),
            memory: container.memory.as_ref().map(memory_stats),
            rootfs_used_bytes: container
                .writable_layer
                .as_ref()
                .map_or(0, |layer| value(layer.used_bytes.as_ref())),
            ..Default::default()
        });
    }
    by_pod
        .into_iter()
        .map(|((namespace, name, uid), mut containers)| {
            containers.sort_by(|a, b| a.name.cmp(&b.name));
            PodStats {
                namespace,
                name,
                uid,
                containers,
                ..Default::default()
            }
        })
        .collect()
}

fn cpu_stats(id: &str, cpu: &cri::CpuUsage, before: &Rates, next: &mut Rates) -> CpuStats {
    next.container(
        before,
        id,
        value(cpu.usage_core_nano_seconds.as_ref()),
        cpu.timestamp,
    )
}

fn memory_stats(memory: &cri::MemoryUsage) -> MemoryStats {
    let working_set = value(memory.working_set_bytes.as_ref());
    let available = value(memory.available_bytes.as_ref());
    MemoryStats {
        // The container's limit; 0 for one without.
        total_bytes: if available == 0 {
            0
        } else {
            working_set.saturating_add(available)
        },
        available_bytes: available,
        working_set_bytes: working_set,
    }
}

fn value(value: Option<&cri::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(pod: &str, name: &str, managed: bool) -> cri::ContainerStats {
        let mut labels = std::collections::BTreeMap::from([
            (identity::POD_NAMESPACE.to_owned(), "default".to_owned()),
            (identity::POD_NAME.to_owned(), pod.to_owned()),
            (identity::POD_UID.to_owned(), format!("uid-of-{pod}")),
            (identity::CONTAINER_NAME.to_owned(), name.to_owned()),
        ]);
        if managed {
            labels.insert(identity::MANAGED.to_owned(), "true".to_owned());
        }
        let number = |value| Some(cri::UInt64Value { value });
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: format!("{pod}-{name}"),
                labels,
                ..Default::default()
            }),
            cpu: Some(cri::CpuUsage {
                timestamp: 1,
                usage_core_nano_seconds: number(7),
                ..Default::default()
            }),
            memory: Some(cri::MemoryUsage {
                working_set_bytes: number(100),
                available_bytes: number(28),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn containers_are_grouped_by_pod_and_those_of_other_programs_left_out() {
        let all = [
            container("b", "main", true),
            container("a", "side", true),
            container("a", "main", true),
            container("foreign", "main", false),
        ];
        let pods = pods(&all, &Rates::default(), &mut Rates::default());
        let names: Vec<_> = pods
            .iter()
            .map(|pod| {
                (
                    pod.name.as_str(),
                    pod.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(names, [("a", vec!["main", "side"]), ("b", vec!["main"])]);
        let memory = pods[0].containers[0].memory.as_ref().unwrap();
        assert_eq!(
            (
                memory.total_bytes,
                memory.available_bytes,
                memory.working_set_bytes
            ),
            (128, 28, 100)
        );
        assert_eq!(pods[0].uid, "uid-of-a");
    }
}
