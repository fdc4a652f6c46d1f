//! Whether a pod takes more of the node's disk than it may. Pure.

use clone8s::{
    quantity::{self, Quantity},
    v1::{Container, ContainerStats, PodSpec, PodStats, volume::Source},
};

const RESOURCE: &str = "ephemeral-storage";

/// Why the pod has to go, in Kubernetes' words; None while it keeps to its limits.
pub(super) fn verdict(spec: &PodSpec, stats: &PodStats) -> Option<String> {
    beyond_volume(spec, stats)
        .or_else(|| beyond_pod(spec, stats))
        .or_else(|| beyond_container(spec, stats))
}

fn beyond_volume(spec: &PodSpec, stats: &PodStats) -> Option<String> {
    spec.volumes.iter().find_map(|volume| {
        let Some(Source::EmptyDir(empty_dir)) = &volume.source else {
            return None;
        };
        let limit = bytes(&empty_dir.size_limit)?;
        let mut measured = stats.volumes.iter();
        let used = measured.find(|measured| measured.name == volume.name)?.used_bytes;
        (used > limit).then(|| {
            format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, empty_dir.size_limit
            )
        })
    })
}

/// All that the pod has on the disk, beside the limits of its containers together.
fn beyond_pod(spec: &PodSpec, stats: &PodStats) -> Option<String> {
    spec.all_containers().find_map(limit)?;
    let limit = |container: &Container| Ok::<_, std::convert::Infallible>(limit(container).unwrap_or(0));
    let limit = spec
        .most_at_once(
            limit,
            |sum, more| *sum += more,
            |most, other| *most = other.max(*most),
        )
        .ok()?;
    let volumes: u64 = stats.volumes.iter().map(|volume| volume.used_bytes).sum();
    let used = volumes + stats.containers.iter().map(used).sum::<u64>();
    (used > limit).then(|| {
        let limit = Quantity::from_bytes(i64::try_from(limit).unwrap_or(i64::MAX));
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
    })
}

fn beyond_container(spec: &PodSpec, stats: &PodStats) -> Option<String> {
    spec.all_containers().find_map(|container| {
        let limit_bytes = limit(container)?;
        let own = stats.containers.iter().filter(|own| own.name == container.name);
        let text = &container.resources.as_ref()?.limits[RESOURCE];
        (own.map(used).sum::<u64>() > limit_bytes).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {text:?}. ",
                container.name
            )
        })
    })
}

fn used(container: &ContainerStats) -> u64 {
    container.rootfs_used_bytes + container.logs_used_bytes
}

fn limit(container: &Container) -> Option<u64> {
    bytes(container.resources.as_ref()?.limits.get(RESOURCE)?)
}

/// None for no limit; what is no quantity has been refused before.
fn bytes(text: &str) -> Option<u64> {
    u64::try_from(quantity::bytes(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{EmptyDirVolumeSource, ResourceRequirements, Volume, VolumeStats};
    use rstest::rstest;

    use super::*;
    use crate::pod::testing::container;

    fn limited(name: &str, limit: &str) -> Container {
        Container {
            resources: Some(ResourceRequirements {
                limits: [(RESOURCE.to_owned(), limit.to_owned())].into(),
                ..Default::default()
            }),
            ..container(name, "a:1")
        }
    }

    fn spec() -> PodSpec {
        PodSpec {
            containers: vec![limited("a", "2Ki"), limited("b", "1Ki"), container("c", "c:1")],
            volumes: vec![Volume {
                name: "v".into(),
                source: Some(Source::EmptyDir(EmptyDirVolumeSource {
                    size_limit: "1Ki".into(),
                    ..Default::default()
                })),
            }],
            ..Default::default()
        }
    }

    fn stats(volume: u64, containers: [(u64, u64); 3]) -> PodStats {
        let names = ["a", "b", "c"].into_iter();
        PodStats {
            volumes: vec![VolumeStats {
                name: "v".into(),
                used_bytes: volume,
            }],
            containers: names
                .zip(containers)
                .map(|(name, (rootfs, logs))| ContainerStats {
                    name: name.into(),
                    rootfs_used_bytes: rootfs,
                    logs_used_bytes: logs,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    #[rstest]
    #[case::within(1024, [(1024, 0), (512, 512), (0, 0)], None)]
    #[case::volume(1025, [(0, 0); 3], Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". "))]
    #[case::container(0, [(0, 0), (512, 513), (0, 0)],
        Some("Container b exceeded its local ephemeral storage limit \"1Ki\". "))]
    #[case::together(1024, [(2048, 0), (0, 0), (0, 1)],
        Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Ki. "))]
    fn a_pod_keeps_to_its_limits(
        #[case] volume: u64,
        #[case] containers: [(u64, u64); 3],
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(verdict(&spec(), &stats(volume, containers)).as_deref(), expected);
    }

    #[test]
    fn without_limits_everything_is_allowed() {
        let spec = PodSpec {
            containers: vec![container("a", "a:1")],
            ..Default::default()
        };
        assert_eq!(verdict(&spec, &stats(1 << 40, [(1 << 40, 1); 3])), None);
    }
}
