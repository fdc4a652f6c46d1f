//! What a sandbox and a container were made from, as short hashes on them: a difference from the spec is an update.
//!
//! Protobuf leaves unset fields out, so a spec keeps its hash when a newer version of the schema adds a field.

use clone8s::v1::{Container, PodSpec, ResourceRequirements, SecurityContext, Volume, volume::Source};
use sha2::{Digest as _, Sha256};

use crate::desired::DesiredPod;

/// Of all that only a new sandbox can change.
pub fn sandbox_hash(pod: &DesiredPod) -> String {
    let spec = pod.spec();
    let host_ports = spec.all_containers().flat_map(|container| {
        container
            .ports
            .iter()
            .filter(|port| port.host_port != 0 && !spec.host_network)
            .cloned()
    });
    let essence = PodSpec {
        host_network: spec.host_network,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        // As written or as the default, it is the same pod.
        share_process_namespace: spec.share_process_namespace.filter(|shares| *shares),
        host_users: spec.host_users.filter(|of_host| !of_host),
        hostname: hostname(pod).to_owned(),
        pod_ip: spec.pod_ip.clone(),
        dns_policy: spec.dns_policy.clone(),
        dns_config: spec.dns_config.clone(),
        runtime_class_name: spec.runtime_class_name.clone(),
        containers: vec![Container {
            ports: host_ports.collect(),
            security_context: Some(SecurityContext {
                privileged: Some(is_privileged(spec)),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    short_hash(&essence)
}

/// Of all that only a new container can change: its spec, the volumes that it mounts, and its sandbox.
pub fn container_hash(pod: &DesiredPod, container: &Container) -> String {
    let spec = pod.spec();
    let is_mounted = |volume: &&Volume| {
        let mut mounts = container.volume_mounts.iter();
        mounts.any(|mount| mount.name == volume.name)
    };
    let volumes = spec.volumes.iter().filter(is_mounted).cloned();
    let volumes = volumes.map(|mut volume| {
        if let Some(Source::Image(image)) = &mut volume.source {
            // When to pull is no part of what runs.
            image.pull_policy.clear();
        }
        volume
    });
    let essence = PodSpec {
        hostname: sandbox_hash(pod),
        volumes: volumes.collect(),
        containers: vec![Container {
            // Nor is it here; ports that matter are the sandbox's.
            image_pull_policy: String::new(),
            ports: Vec::new(),
            resources: resources_of_a_restart(container),
            resize_policy: Vec::new(),
            // Who is asked, and what follows, changes while it runs.
            liveness_probe: None,
            readiness_probe: None,
            startup_probe: None,
            ..container.clone()
        }],
        ..Default::default()
    };
    short_hash(&essence)
}

/// The resources whose change is to start the container anew; the others change in place.
fn resources_of_a_restart(container: &Container) -> Option<ResourceRequirements> {
    let restarts = |name: &String| {
        let mut policies = container.resize_policy.iter();
        policies.any(|policy| policy.resource_name == *name && policy.restart_policy == "RestartContainer")
    };
    let mut resources = container.resources.clone().unwrap_or_default();
    resources.limits.retain(|name, _| restarts(name));
    resources.requests.retain(|name, _| restarts(name));
    (resources != ResourceRequirements::default()).then_some(resources)
}

/// The name that the pod's processes see.
pub fn hostname(pod: &DesiredPod) -> &str {
    let spec = pod.spec();
    if !spec.hostname.is_empty() {
        return &spec.hostname;
    }
    let name = pod
        .pod
        .metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str());
    // A kernel's limit; a pod's name may be longer, and ends in letters or digits then too.
    let end = name.len().min(63);
    name[..end].trim_end_matches(['-', '.'])
}

/// Whether a container asks for all privileges, which the sandbox must then allow.
pub fn is_privileged(spec: &PodSpec) -> bool {
    spec.all_containers().any(|container| {
        container
            .security_context
            .as_ref()
            .is_some_and(|context| context.privileged == Some(true))
    })
}

pub(crate) fn short_hash(essence: &impl prost::Message) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(essence.encode_to_vec());
    digest[..8]
        .iter()
        .fold(String::with_capacity(16), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{ContainerResizePolicy, ImageVolumeSource, VolumeMount};
    use rstest::rstest;

    use super::*;
    use crate::pod::testing::{container, pod};

    type Edit = fn(&mut PodSpec);

    fn memory(limit: &str) -> ResourceRequirements {
        ResourceRequirements {
            limits: [("memory".to_owned(), limit.to_owned())].into(),
            ..Default::default()
        }
    }

    fn restart_for(resource: &str) -> Vec<ContainerResizePolicy> {
        vec![ContainerResizePolicy {
            resource_name: resource.to_owned(),
            restart_policy: "RestartContainer".to_owned(),
        }]
    }

    #[rstest]
    #[case::image(|spec: &mut PodSpec| spec.containers[0].image = "b:2".into())]
    #[case::command(|spec: &mut PodSpec| spec.containers[0].command = vec!["x".into()])]
    #[case::env(|spec: &mut PodSpec| spec.containers[0].env.push(clone8s::v1::EnvVar { name: "A".into(), value: "1".into(), ..Default::default() }))]
    #[case::host_network(|spec: &mut PodSpec| spec.host_network = true)]
    #[case::host_pid(|spec: &mut PodSpec| spec.host_pid = true)]
    #[case::host_ipc(|spec: &mut PodSpec| spec.host_ipc = true)]
    #[case::processes(|spec: &mut PodSpec| spec.share_process_namespace = Some(true))]
    #[case::users(|spec: &mut PodSpec| spec.host_users = Some(false))]
    #[case::resources(|spec: &mut PodSpec| {
        spec.containers[0].resources = Some(memory("1Gi"));
        spec.containers[0].resize_policy = restart_for("memory");
    })]
    #[case::pod_ip(|spec: &mut PodSpec| spec.pod_ip = "10.0.0.9".into())]
    fn a_change_that_a_running_container_cannot_take_changes_its_hash(#[case] edit: Edit) {
        let before = pod("p", vec![container("a", "a:1")]);
        let mut after = before.clone();
        edit(
            std::sync::Arc::make_mut(&mut after.pod)
                .spec
                .get_or_insert_default(),
        );
        assert_ne!(
            container_hash(&before, &before.spec().containers[0]),
            container_hash(&after, &after.spec().containers[0])
        );
    }

    #[rstest]
    #[case::another_container(|spec: &mut PodSpec| spec.containers.push(container("b", "b:1")))]
    #[case::pull_policy(|spec: &mut PodSpec| spec.containers[0].image_pull_policy = "Always".into())]
    #[case::defaults_written_out(|spec: &mut PodSpec| (spec.share_process_namespace, spec.host_users) = (Some(false), Some(true)))]
    #[case::grace(|spec: &mut PodSpec| spec.termination_grace_period_seconds = Some(3))]
    #[case::restart_policy(|spec: &mut PodSpec| spec.restart_policy = "Never".into())]
    #[case::resources(|spec: &mut PodSpec| spec.containers[0].resources = Some(memory("1Gi")))]
    #[case::what_a_resize_does(|spec: &mut PodSpec| spec.containers[0].resize_policy = restart_for("cpu"))]
    #[case::probe(|spec: &mut PodSpec| spec.containers[0].liveness_probe = Some(clone8s::v1::Probe::default()))]
    #[case::unmounted_volume(|spec: &mut PodSpec| spec.volumes.push(clone8s::v1::Volume { name: "v".into(), source: None }))]
    fn a_change_that_needs_no_restart_keeps_the_hash(#[case] edit: Edit) {
        let before = pod("p", vec![container("a", "a:1")]);
        let mut after = before.clone();
        edit(
            std::sync::Arc::make_mut(&mut after.pod)
                .spec
                .get_or_insert_default(),
        );
        assert_eq!(
            container_hash(&before, &before.spec().containers[0]),
            container_hash(&after, &after.spec().containers[0])
        );
        assert_eq!(sandbox_hash(&before), sandbox_hash(&after));
    }

    #[test]
    fn the_image_of_a_volume_counts_and_when_to_pull_it_does_not() {
        let hash = |reference: &str, pull_policy: &str| {
            let mut pod = pod("p", vec![container("a", "a:1")]);
            let spec = std::sync::Arc::make_mut(&mut pod.pod)
                .spec
                .get_or_insert_default();
            spec.volumes.push(Volume {
                name: "v".into(),
                source: Some(Source::Image(ImageVolumeSource {
                    reference: reference.into(),
                    pull_policy: pull_policy.into(),
                })),
            });
            spec.containers[0].volume_mounts.push(VolumeMount {
                name: "v".into(),
                ..Default::default()
            });
            container_hash(&pod, &pod.spec().containers[0])
        };
        assert_eq!(hash("data:1", "Always"), hash("data:1", "Never"));
        assert_ne!(hash("data:1", "Always"), hash("data:2", "Always"));
    }

    #[test]
    fn a_long_name_makes_a_hostname_that_the_kernel_takes() {
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(60));
        let pod = pod(&long, vec![container("a", "a:1")]);
        assert_eq!(hostname(&pod), "a".repeat(62));
    }
}
