//! What a sandbox and a container were made from, as short hashes on them: a difference from the spec is an update.
//!
//! Protobuf leaves unset fields out, so a spec keeps its hash when a newer version of the schema adds a field.

use clone8s::{
    devices::is_device,
    huge_pages::is_huge_pages,
    v1::{
        Container, HostAlias, PodSecurityContext, PodSpec, ResourceRequirements, SecurityContext,
        volume::Source,
    },
};
use sha2::{Digest as _, Sha256};

use super::{hostname, security};
use crate::{desired::DesiredPod, volumes::hosts};

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
        hostname: hostname::short(pod).to_owned(),
        subdomain: spec.subdomain.clone(),
        set_hostname_as_fqdn: Some(true).filter(|_| hostname::shows_full(spec)),
        security_context: of_sandbox(spec).map(Box::new),
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
    let volumes = spec.mounted_volumes(container).cloned();
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
            security_context: own_context(spec, container),
            ..container.clone()
        }],
        security_context: of_every_container(spec).map(Box::new),
        host_aliases: host_aliases(spec, container),
        ..Default::default()
    };
    short_hash(&essence)
}

/// What of the pod's security context is the sandbox's.
fn of_sandbox(spec: &PodSpec) -> Option<PodSecurityContext> {
    let context = spec.security_context.as_ref()?;
    let of_sandbox = PodSecurityContext {
        sysctls: context.sysctls.clone(),
        se_linux_options: context.se_linux_options.clone(),
        ..Default::default()
    };
    (of_sandbox != PodSecurityContext::default()).then_some(of_sandbox)
}

/// What of it every container has, whatever it says itself. What becomes of volumes when their group changes means
/// nothing for those that there are.
fn of_every_container(spec: &PodSpec) -> Option<PodSecurityContext> {
    let context = spec.security_context.as_ref()?;
    let of_every = PodSecurityContext {
        supplemental_groups: context.supplemental_groups.clone(),
        supplemental_groups_policy: context.supplemental_groups_policy.clone(),
        fs_group: context.fs_group,
        ..Default::default()
    };
    (of_every != PodSecurityContext::default()).then_some(of_every)
}

/// What holds for a container, wherever it is said.
fn own_context(spec: &PodSpec, container: &Container) -> Option<SecurityContext> {
    let effective = security::effective(spec, container);
    (container.security_context.is_some() || effective != SecurityContext::default()).then_some(effective)
}

/// The lines of the /etc/hosts that the container has from the kubelet.
fn host_aliases(spec: &PodSpec, container: &Container) -> Vec<HostAlias> {
    if hosts::is_own(container) {
        return Vec::new();
    }
    spec.host_aliases.clone()
}

/// The resources whose change is to start the container anew, as that of devices and huge pages always does; the others
/// change in place.
fn resources_of_a_restart(container: &Container) -> Option<ResourceRequirements> {
    let restarts = |name: &String| {
        if is_device(name) || is_huge_pages(name) {
            return true;
        }
        let mut policies = container.resize_policy.iter();
        policies.any(|policy| policy.resource_name == *name && policy.restart_policy == "RestartContainer")
    };
    let mut resources = container.resources.clone().unwrap_or_default();
    resources.limits.retain(|name, _| restarts(name));
    resources.requests.retain(|name, _| restarts(name));
    (resources != ResourceRequirements::default()).then_some(resources)
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
    use clone8s::v1::{ContainerResizePolicy, ImageVolumeSource, Volume, VolumeMount};
    use rstest::rstest;

    use super::*;
    use crate::pod::testing::{container, pod};

    type Edit = fn(&mut PodSpec);

    fn limited(name: &str, limit: &str) -> ResourceRequirements {
        ResourceRequirements {
            limits: [(name.to_owned(), limit.to_owned())].into(),
            ..Default::default()
        }
    }

    fn context(spec: &mut PodSpec) -> &mut PodSecurityContext {
        spec.security_context.get_or_insert_default()
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
        spec.containers[0].resources = Some(limited("memory", "1Gi"));
        spec.containers[0].resize_policy = restart_for("memory");
    })]
    #[case::device(|spec: &mut PodSpec| spec.containers[0].resources = Some(limited("vendor.com/gpu=0", "1")))]
    #[case::huge_pages(|spec: &mut PodSpec| spec.containers[0].resources = Some(limited("hugepages-2Mi", "2Mi")))]
    #[case::pod_ip(|spec: &mut PodSpec| spec.pod_ip = "10.0.0.9".into())]
    #[case::user(|spec: &mut PodSpec| context(spec).run_as_user = Some(1))]
    #[case::groups(|spec: &mut PodSpec| context(spec).supplemental_groups = vec![1])]
    #[case::group_of_volumes(|spec: &mut PodSpec| context(spec).fs_group = Some(1))]
    #[case::parameters(|spec: &mut PodSpec| context(spec).sysctls.push(clone8s::v1::Sysctl::default()))]
    #[case::aliases(|spec: &mut PodSpec| spec.host_aliases.push(HostAlias::default()))]
    #[case::subdomain(|spec: &mut PodSpec| spec.subdomain = "sub".into())]
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
    #[case::resources(|spec: &mut PodSpec| spec.containers[0].resources = Some(limited("memory", "1Gi")))]
    #[case::what_a_resize_does(|spec: &mut PodSpec| spec.containers[0].resize_policy = restart_for("cpu"))]
    #[case::probe(|spec: &mut PodSpec| spec.containers[0].liveness_probe = Some(clone8s::v1::Probe::default()))]
    #[case::unmounted_volume(|spec: &mut PodSpec| spec.volumes.push(clone8s::v1::Volume { name: "v".into(), source: None }))]
    #[case::empty_context(|spec: &mut PodSpec| spec.security_context = Some(Box::default()))]
    #[case::of_volumes_that_are_not(|spec: &mut PodSpec| context(spec).fs_group_change_policy = "OnRootMismatch".into())]
    #[case::full_name_that_is_not(|spec: &mut PodSpec| spec.set_hostname_as_fqdn = Some(true))]
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
    fn what_a_container_says_itself_is_not_changed_by_its_pod() {
        let own = |user| SecurityContext {
            run_as_user: Some(user),
            ..Default::default()
        };
        let mut before = pod("p", vec![container("own", "a:1"), container("pods", "a:1")]);
        let spec = std::sync::Arc::make_mut(&mut before.pod)
            .spec
            .get_or_insert_default();
        context(spec).run_as_user = Some(1);
        spec.containers[0].security_context = Some(own(2));
        let mut after = before.clone();
        let spec = std::sync::Arc::make_mut(&mut after.pod)
            .spec
            .get_or_insert_default();
        context(spec).run_as_user = Some(3);
        let hashes = |pod: &DesiredPod| [0, 1].map(|n| container_hash(pod, &pod.spec().containers[n]));
        let ([own_before, pods_before], [own_after, pods_after]) = (hashes(&before), hashes(&after));
        assert_eq!(own_before, own_after);
        assert_ne!(pods_before, pods_after);

        // Where it is said makes no difference.
        let spec = std::sync::Arc::make_mut(&mut after.pod)
            .spec
            .get_or_insert_default();
        spec.security_context = None;
        spec.containers[1].security_context = Some(own(1));
        assert_eq!(hashes(&after)[1], pods_before);
    }

    /// Hashes of the versions before: what runs is not started anew by a kubelet that knows more.
    #[test]
    fn a_pod_that_says_nothing_new_keeps_its_hashes() {
        let mut pod = pod("p", vec![container("a", "a:1")]);
        let spec = std::sync::Arc::make_mut(&mut pod.pod)
            .spec
            .get_or_insert_default();
        spec.containers[0].security_context = Some(SecurityContext {
            run_as_user: Some(1000),
            ..Default::default()
        });
        assert_eq!(sandbox_hash(&pod), "a6b5b593f4fe58d2");
        assert_eq!(
            container_hash(&pod, &pod.spec().containers[0]),
            "43e2a069ded0f462"
        );
    }
}
