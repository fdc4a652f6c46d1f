//! A pod for people.

use std::time::SystemTime;

use clone8s::v1::{
    Container, ContainerState, ContainerStatus, EnvFromSource, EnvVar, Pod, PodSpec, PodStatus, Volume,
    VolumeProjection, container_state::State, env_var_source::Source as EnvSource, volume::Source,
    volume_projection::Source as ProjectionSource,
};

use super::{
    Describe, Page,
    node::describe_conditions,
    probe::{describe_hooks, describe_probes},
};
use crate::output::age;

impl Describe for Pod {
    fn describe(&self, page: &mut Page, now: SystemTime) {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        describe_placement(&spec, &status, page);
        if !spec.init_containers.is_empty() {
            describe_containers("Init containers", &spec.init_containers, &status, page, now);
        }
        describe_containers("Containers", &spec.containers, &status, page, now);
        if !spec.ephemeral_containers.is_empty() {
            describe_ephemeral_containers(&spec, &status, page, now);
        }
        if !spec.volumes.is_empty() {
            page.section("Volumes");
            for volume in &spec.volumes {
                page.line(describe_volume(volume));
            }
            page.end_section();
        }
        describe_conditions(&status.conditions, page, now);
    }
}

fn describe_placement(spec: &PodSpec, status: &PodStatus, page: &mut Page) {
    page.field("Phase", &status.phase);
    page.field("Reason", &status.reason);
    page.field("Message", &status.message);
    page.field("Node", &spec.node_name);
    page.map("Node selector", &spec.node_selector);
    page.field("Pod IP", &status.pod_ip);
    page.field("Host IP", &status.host_ip);
    if spec.host_network {
        page.field("Network", "the node's");
    }
    let processes = match (spec.host_pid, spec.share_process_namespace) {
        (true, _) => "the node's",
        (false, Some(true)) => "shared by the containers",
        (false, _) => "",
    };
    page.field("Processes", processes);
    if spec.host_ipc {
        page.field("IPC", "the node's");
    }
    if spec.host_users == Some(false) {
        page.field("Users", "the pod's own");
    }
    page.field("Restart policy", &spec.restart_policy);
    page.field("Runtime class", &spec.runtime_class_name);
    let gates: Vec<_> = spec
        .readiness_gates
        .iter()
        .map(|gate| gate.condition_type.clone())
        .collect();
    page.list("Readiness gates", &gates);
}

fn describe_containers(
    heading: &str,
    containers: &[Container],
    status: &PodStatus,
    page: &mut Page,
    now: SystemTime,
) {
    page.section(heading);
    for container in containers {
        let observed = status
            .all_container_statuses()
            .find(|status| status.name == container.name);
        describe_container(container, observed, page, now);
    }
    page.end_section();
}

fn describe_ephemeral_containers(spec: &PodSpec, status: &PodStatus, page: &mut Page, now: SystemTime) {
    page.section("Ephemeral containers");
    for container in &spec.ephemeral_containers {
        let mut statuses = status.ephemeral_container_statuses.iter();
        let observed = statuses.find(|status| status.name == container.name);
        page.section(&container.name);
        page.field("Target", &container.target_container_name);
        describe_fields(&container.to_container(), observed, page, now);
        page.end_section();
    }
    page.end_section();
}

fn describe_container(
    container: &Container,
    observed: Option<&ContainerStatus>,
    page: &mut Page,
    now: SystemTime,
) {
    page.section(&container.name);
    describe_fields(container, observed, page, now);
    page.end_section();
}

fn describe_fields(
    container: &Container,
    observed: Option<&ContainerStatus>,
    page: &mut Page,
    now: SystemTime,
) {
    page.field("Image", &container.image);
    if let Some(observed) = observed {
        page.field("Image ID", &observed.image_id);
        page.field("Container ID", &observed.container_id);
        page.field(
            "State",
            observed
                .state
                .as_ref()
                .map(|state| describe_state(state, now))
                .unwrap_or_default(),
        );
        page.field(
            "Last state",
            observed
                .last_state
                .as_ref()
                .map(|state| describe_state(state, now))
                .unwrap_or_default(),
        );
        page.field("Ready", if observed.ready { "yes" } else { "no" });
        page.field("Restarts", observed.restart_count.to_string());
    }
    if container.is_sidecar() {
        page.field("Restart policy", &container.restart_policy);
    }
    describe_probes(container, page);
    describe_hooks(container, page);
    page.field("Command", container.command.join(" "));
    page.field("Arguments", container.args.join(" "));
    let ports: Vec<_> = container
        .ports
        .iter()
        .map(|port| {
            let host = if port.host_port == 0 {
                String::new()
            } else {
                format!(" on node port {}", port.host_port)
            };
            format!("{}/{}{host}", port.container_port, port.protocol)
        })
        .collect();
    page.list("Ports", &ports);
    if let Some(resources) = &container.resources {
        page.map("Requests", &resources.requests);
        page.map("Limits", &resources.limits);
    }
    let env: Vec<_> = container
        .env_from
        .iter()
        .map(describe_env_from)
        .chain(container.env.iter().map(describe_variable))
        .collect();
    page.list("Environment", &env);
    let mounts: Vec<_> = container
        .volume_mounts
        .iter()
        .map(|mount| {
            let mode = if mount.read_only { " (read-only)" } else { "" };
            format!("{} from {}{mode}", mount.mount_path, mount.name)
        })
        .collect();
    page.list("Mounts", &mounts);
}

fn describe_state(state: &ContainerState, now: SystemTime) -> String {
    match &state.state {
        None => String::new(),
        Some(State::Waiting(waiting)) => with_detail("Waiting", &waiting.reason, &waiting.message),
        Some(State::Running(running)) => {
            format!("Running for {}", age(running.started_at.as_ref(), now))
        }
        Some(State::Terminated(end)) => {
            let how = if end.signal == 0 {
                format!("exit code {}", end.exit_code)
            } else {
                format!("exit code {}, signal {}", end.exit_code, end.signal)
            };
            let ended = age(end.finished_at.as_ref(), now);
            with_detail(
                &format!("Terminated {ended} ago, {how}"),
                &end.reason,
                &end.message,
            )
        }
    }
}

fn with_detail(state: &str, reason: &str, message: &str) -> String {
    [state, reason, message]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join(": ")
}

fn describe_env_from(from: &EnvFromSource) -> String {
    match (&from.config_map_ref, &from.secret_ref) {
        (Some(map), _) => format!("{}* from config map {}", from.prefix, map.name),
        (None, Some(secret)) => format!("{}* from secret {}", from.prefix, secret.name),
        (None, None) => String::new(),
    }
}

fn describe_variable(variable: &EnvVar) -> String {
    let source = variable.value_from.as_ref().and_then(|from| from.source.as_ref());
    let from = match source {
        None => return format!("{}={}", variable.name, variable.value),
        Some(EnvSource::FieldRef(field)) => field.field_path.clone(),
        Some(EnvSource::ResourceFieldRef(resource)) => resource.resource.clone(),
        Some(EnvSource::ConfigMapKeyRef(key)) => format!("key {} of config map {}", key.key, key.name),
        Some(EnvSource::SecretKeyRef(key)) => format!("key {} of secret {}", key.key, key.name),
    };
    format!("{} from {from}", variable.name)
}

fn describe_projection(projection: &VolumeProjection) -> String {
    match &projection.source {
        Some(ProjectionSource::ConfigMap(map)) => format!("config map {}", map.name),
        Some(ProjectionSource::Secret(secret)) => format!("secret {}", secret.name),
        Some(ProjectionSource::DownwardApi(_)) => "the pod itself".to_owned(),
        None => "nothing".to_owned(),
    }
}

fn describe_volume(volume: &Volume) -> String {
    let source = match &volume.source {
        Some(Source::HostPath(host)) => format!("the node's {}", host.path),
        Some(Source::EmptyDir(dir)) if dir.medium == "Memory" => {
            format!("memory, {} at most", dir.size_limit)
        }
        Some(Source::EmptyDir(dir)) if !dir.size_limit.is_empty() => {
            format!("an empty folder, {} at most", dir.size_limit)
        }
        Some(Source::EmptyDir(_)) => "an empty folder".to_owned(),
        Some(Source::ConfigMap(map)) => format!("config map {}", map.name),
        Some(Source::Secret(secret)) => format!("secret {}", secret.secret_name),
        Some(Source::DownwardApi(_)) => "the pod itself".to_owned(),
        Some(Source::Projected(projected)) => {
            let sources: Vec<_> = projected.sources.iter().map(describe_projection).collect();
            sources.join(", ")
        }
        Some(Source::Image(image)) => format!("image {}", image.reference),
        None => "nothing".to_owned(),
    };
    format!("{}: {source}", volume.name)
}

#[cfg(test)]
mod tests {
    use clone8s::v1::{ContainerStateTerminated, ObjectMeta};

    use super::*;

    #[test]
    fn a_pod_shows_how_its_last_run_ended() {
        let ended = ContainerStateTerminated {
            exit_code: 137,
            signal: 9,
            reason: "OOMKilled".into(),
            ..Default::default()
        };
        let pod = Pod {
            metadata: Some(ObjectMeta {
                name: "web".into(),
                ..Default::default()
            }),
            spec: Some(PodSpec {
                containers: vec![Container {
                    name: "app".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            status: Some(PodStatus {
                container_statuses: vec![ContainerStatus {
                    name: "app".into(),
                    last_state: Some(ContainerState {
                        state: Some(State::Terminated(ended)),
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
        };
        let mut page = Page::default();
        pod.describe(&mut page, SystemTime::UNIX_EPOCH);
        assert!(page.finish().contains("exit code 137, signal 9: OOMKilled"));
    }
}
