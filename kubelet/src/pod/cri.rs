//! From a pod's spec to what CRI takes.

use std::{collections::BTreeMap, path::PathBuf};

use clone8s::{
    cri::{
        CdiDevice, ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig,
        LinuxPodSandboxConfig, Mount, NamespaceMode, PodSandboxConfig, PodSandboxMetadata, PortMapping,
        Protocol,
    },
    huge_pages::PageSize,
    quantity::QuantityError,
    v1::{Container, PodSpec},
};

use super::{
    dns, env, hash, hook,
    resources::{self, Allocation},
    security::{self, ImageUser},
    stages::Role,
};
use crate::{
    desired::DesiredPod,
    identity, logs,
    runtime::{ContainerId, ImageRef},
    user_ranges::UserRange,
};

/// Seconds that a pod's containers have to stop, when its spec does not say.
pub const DEFAULT_GRACE_SECONDS: i32 = 30;

/// What the node adds to a pod's spec.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// The pod's own, under which the runtime puts its containers.
    pub cgroup_parent: String,
    pub log_root: PathBuf,
    /// Bytes.
    pub memory: i64,
    /// Of the huge pages that there are.
    pub page_sizes: Vec<PageSize>,
    /// The text of the node's resolv.conf.
    pub resolv_conf: String,
    /// The node's ids that are the pod's users, for a pod with users of its own.
    pub users: Option<UserRange>,
    /// The node's own address.
    pub host_ip: String,
    /// The folder that profiles of seccomp are below.
    pub seccomp_profiles: PathBuf,
    /// The name that the pod's processes see, on a network of its own.
    pub hostname: String,
}

/// A sandbox of the pod; `attempt` counts them from 0.
pub fn sandbox_config(pod: &DesiredPod, attempt: u32, node: &NodeFacts) -> PodSandboxConfig {
    let spec = pod.spec();
    let key = pod.key();
    let uid = pod.uid();
    let mut annotations = BTreeMap::from([
        (identity::SPEC_HASH.to_owned(), hash::sandbox_hash(pod)),
        (identity::GRACE_PERIOD.to_owned(), grace_seconds(spec).to_string()),
    ]);
    if !spec.pod_ip.is_empty() {
        annotations.insert(identity::POD_IP.to_owned(), spec.pod_ip.clone());
    }
    let port_mappings = if spec.host_network {
        Vec::new()
    } else {
        port_mappings(spec)
    };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: key.name.clone(),
            uid: uid.as_str().to_owned(),
            namespace: key.namespace.clone(),
            attempt,
        }),
        // CRI v1, PodSandboxConfig.hostname: empty on the node's network, which has the node's name.
        hostname: if spec.host_network {
            String::new()
        } else {
            node.hostname.clone()
        },
        log_directory: logs::pod_dir(&node.log_root, &key, &uid)
            .to_string_lossy()
            .into_owned(),
        dns_config: dns::config(spec, &node.resolv_conf),
        port_mappings,
        labels: pod_labels(pod),
        annotations,
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_parent.clone(),
            sysctls: security::sysctls(spec),
            security_context: Some(security::of_sandbox(spec, node)),
            ..Default::default()
        }),
        windows: None,
    }
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunNumbers {
    pub restart_count: u32,
    pub backoff_step: u32,
}

/// The image of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunImage<'a> {
    pub reference: &'a ImageRef,
    /// Where it must be known.
    pub user: Option<&'a ImageUser>,
}

/// A container of the pod; `mounts` are its volumes, already there, and `envs` its variables.
pub fn container_config(
    pod: &DesiredPod,
    container: &Container,
    run: &RunNumbers,
    image: RunImage<'_>,
    mounts: Vec<Mount>,
    envs: Vec<(String, String)>,
    node: &NodeFacts,
) -> Result<ContainerConfig, QuantityError> {
    let spec = pod.spec();
    let known: BTreeMap<_, _> = envs.iter().cloned().collect();
    let expand = |words: &[String]| -> Vec<String> {
        words
            .iter()
            .map(|word| env::expand(word, &known).into_owned())
            .collect()
    };
    let mut mounts = mounts;
    if let Some(users) = node.users {
        for mount in &mut mounts {
            mount.uid_mappings = users.mappings();
            mount.gid_mappings = users.mappings();
        }
    }
    let mut labels = pod_labels(pod);
    labels.insert(identity::CONTAINER_NAME.to_owned(), container.name.clone());
    let mut annotations = BTreeMap::from([
        (
            identity::SPEC_HASH.to_owned(),
            hash::container_hash(pod, container),
        ),
        (identity::RESTART_COUNT.to_owned(), run.restart_count.to_string()),
        (identity::BACKOFF_STEP.to_owned(), run.backoff_step.to_string()),
        (identity::IMAGE.to_owned(), container.image.clone()),
    ]);
    let limits = resources::limits(spec, container, node.memory, &node.page_sizes)?;
    annotations.insert(
        identity::ALLOCATION.to_owned(),
        Allocation::told(&limits).to_string(),
    );
    if let Some(Role::Sidecar(place)) = Role::of(spec, &container.name) {
        annotations.insert(identity::SIDECAR.to_owned(), place.to_string());
    }
    let pre_stop = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let pre_stop = pre_stop.map(|hook| hook::resolved(hook, spec, container, &node.host_ip));
    if let Some(Ok(hook)) = pre_stop.map(|hook| serde_json::to_string(&hook)) {
        annotations.insert(identity::PRE_STOP.to_owned(), hook);
    }
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: container.name.clone(),
            attempt: run.restart_count,
        }),
        image: Some(ImageSpec {
            image: image.reference.as_str().to_owned(),
            user_specified_image: container.image.clone(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone(),
        envs: envs
            .into_iter()
            .map(|(key, value)| KeyValue {
                key,
                value: value.into_bytes().into(),
            })
            .collect(),
        mounts,
        cdi_devices: devices(container),
        labels,
        annotations,
        log_path: logs::container_file(&container.name, run.restart_count)
            .to_string_lossy()
            .into_owned(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(limits),
            security_context: Some(security::of_container(spec, container, image.user, node)),
        }),
        ..Default::default()
    })
}

/// Makes a container see the processes of another (CRI v1, NamespaceMode TARGET).
pub fn show_processes_of(target: &ContainerId, config: &mut ContainerConfig) {
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    let options = security.namespace_options.get_or_insert_default();
    options.pid = NamespaceMode::Target.into();
    target.as_str().clone_into(&mut options.target_id);
}

/// Seconds that the pod's containers have to stop.
pub fn grace_seconds(spec: &PodSpec) -> u32 {
    let seconds = spec
        .termination_grace_period_seconds
        .unwrap_or(DEFAULT_GRACE_SECONDS);
    u32::try_from(seconds).unwrap_or(0)
}

fn devices(container: &Container) -> Vec<CdiDevice> {
    container
        .devices()
        .map(|name| CdiDevice {
            name: name.to_owned(),
        })
        .collect()
}

fn pod_labels(pod: &DesiredPod) -> BTreeMap<String, String> {
    let key = pod.key();
    BTreeMap::from([
        (identity::POD_NAME.to_owned(), key.name),
        (identity::POD_NAMESPACE.to_owned(), key.namespace),
        (identity::POD_UID.to_owned(), pod.uid().as_str().to_owned()),
        (identity::MANAGED.to_owned(), "true".to_owned()),
    ])
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let ports = spec.all_containers().flat_map(|container| &container.ports);
    ports
        .filter(|port| port.host_port != 0)
        .map(|port| PortMapping {
            protocol: match port.protocol.as_str() {
                "UDP" => Protocol::Udp,
                "SCTP" => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port,
            host_ip: port.host_ip.clone(),
        })
        .collect()
}
