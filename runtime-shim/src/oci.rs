//! From CRI's words to the OCI runtime's: one pure function, [`spec`].

mod apparmor;
mod capabilities;
mod mounts;
mod resources;
mod seccomp;
mod selinux;
mod types;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clone8s::cri::{self, NamespaceMode};

pub(crate) use self::mounts::not_a_plain_path;
use self::types::{Device, DeviceRule, IdMapping, Linux, Namespace, Root, User};
pub(crate) use self::{
    capabilities::{CapabilitySet, known as known_capabilities},
    mounts::check as check_mounts,
    resources::{clamp_oom_score_adj, resources},
    types::{Hook, Hooks, LinuxResources, Process, Spec},
};
use crate::{
    cdi::Edits,
    error::{Error, Result},
    images::config::RunConfig,
    pins::{IdMappings, IdRange, Wanted},
};

/// By this annotation containerd's runc shim serves all containers of a sandbox in one process.
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that a spec depends on.
#[derive(Debug, Clone)]
pub(crate) struct Inputs<'a> {
    pub(crate) sandbox_id: &'a str,
    pub(crate) sandbox: &'a cri::PodSandboxConfig,
    pub(crate) container: &'a cri::ContainerConfig,
    pub(crate) image: &'a RunConfig,
    pub(crate) user: ResolvedUser,
    pub(crate) wanted: Wanted,
    pub(crate) hostname: String,
    /// Of the pod's user namespace.
    pub(crate) mappings: Option<IdMappings>,
    pub(crate) files: SandboxFiles,
    /// Where the PID namespace of the container that it wants to look at will be found.
    pub(crate) target: Option<PathBuf>,
    /// Where each of the container's mounts comes from on the host.
    pub(crate) sources: Vec<String>,
    /// The devices that it may use; all of the host's for a privileged one.
    pub(crate) devices: Vec<GrantedDevice>,
    /// What its CDI devices add.
    pub(crate) edits: Edits,
    /// The kernel's AppArmor profiles; none where there is no AppArmor.
    pub(crate) apparmor_profiles: Option<Vec<String>>,
    /// With a slash in front.
    pub(crate) cgroup: String,
    pub(crate) host: &'a Host,
}

/// Who the process is, as numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResolvedUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) supplemental_gids: Vec<u32>,
    /// From the image's passwd file; `/` where it has none.
    pub(crate) home: String,
}

/// The sandbox's pins and files on the host.
#[derive(Debug, Clone)]
pub(crate) struct SandboxFiles {
    pub(crate) net: PathBuf,
    pub(crate) ipc: PathBuf,
    pub(crate) uts: PathBuf,
    pub(crate) pid: PathBuf,
    pub(crate) user: PathBuf,
    pub(crate) shm: PathBuf,
    pub(crate) hosts: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

/// What the host allows.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) cgroup_v2: bool,
    /// What containers can be given: this process cannot give more than it has.
    pub(crate) capabilities: CapabilitySet,
    /// The lowest `oom_score_adj` that may be set.
    pub(crate) oom_score_adj_floor: i32,
    /// Whether huge pages can be limited.
    pub(crate) hugetlb: bool,
    /// Whether swap can be limited.
    pub(crate) swap: bool,
    pub(crate) apparmor: bool,
    pub(crate) selinux: bool,
}

/// A device that a container may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantedDevice {
    pub(crate) device: HostDevice,
    /// In the container.
    pub(crate) path: PathBuf,
    /// Letters of `rwm`.
    pub(crate) access: String,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    pub(crate) path: PathBuf,
    /// `c` or `b`.
    pub(crate) kind: char,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The OCI spec of a container (OCI runtime spec 1.0.2), or which field of its config cannot be met.
pub(crate) fn spec(inputs: &Inputs<'_>) -> Result<Spec> {
    let container = inputs.container;
    let default_security = cri::LinuxContainerSecurityContext::default();
    let linux = container.linux.as_ref();
    let security = linux
        .and_then(|linux| linux.security_context.as_ref())
        .unwrap_or(&default_security);
    selinux::check(security, inputs.host)?;
    let limits = linux
        .and_then(|linux| linux.resources.clone())
        .unwrap_or_default();

    let mut annotations: BTreeMap<_, _> = container.annotations.clone();
    annotations.extend(cri_annotations(inputs));
    let (masked_paths, readonly_paths) = hidden_paths(security);
    let (devices, device_rules) = devices(inputs, security.privileged);
    let mut resources = resources("config.linux.resources", &limits, inputs.host)?;
    resources.devices = device_rules;
    let mounts = mounts::mounts(inputs, security);
    let propagation = mounts::rootfs_propagation(container);

    let process = process(inputs, security, &limits)?;
    Ok(Spec {
        oci_version: "1.0.2".into(),
        root: Root {
            path: "rootfs".into(),
            readonly: security.readonly_rootfs,
        },
        // The pinned namespace has the sandbox's name already.
        hostname: None,
        mounts,
        hooks: inputs.edits.hooks.clone(),
        annotations,
        linux: Linux {
            sysctl: BTreeMap::new(),
            resources,
            cgroups_path: inputs.cgroup.clone(),
            namespaces: namespaces(inputs, security),
            uid_mappings: id_mappings(inputs, |all| &all.uids),
            gid_mappings: id_mappings(inputs, |all| &all.gids),
            devices,
            seccomp: seccomp::seccomp(security, &process.capabilities)?,
            rootfs_propagation: propagation,
            masked_paths,
            readonly_paths,
        },
        process,
    })
}

/// What containerd's runtimes and the hooks of others know containers by; nobody else's may look like it.
fn cri_annotations(inputs: &Inputs<'_>) -> Vec<(String, String)> {
    let pod = inputs.sandbox.metadata.clone().unwrap_or_default();
    let container = inputs.container.metadata.clone().unwrap_or_default();
    let image = inputs.container.image.clone().unwrap_or_default();
    let image = match image.user_specified_image.as_str() {
        "" => image.image,
        name => name.to_owned(),
    };
    [
        (SANDBOX_ID, inputs.sandbox_id.to_owned()),
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", container.name),
        ("io.kubernetes.cri.image-name", image),
        ("io.kubernetes.cri.sandbox-name", pod.name),
        ("io.kubernetes.cri.sandbox-namespace", pod.namespace),
        ("io.kubernetes.cri.sandbox-uid", pod.uid),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn process(
    inputs: &Inputs<'_>,
    security: &cri::LinuxContainerSecurityContext,
    limits: &cri::LinuxContainerResources,
) -> Result<Process> {
    let (container, image) = (inputs.container, inputs.image);
    let args = arguments(container, image)?;
    let cwd = match (container.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => "/",
        ("", cwd) | (cwd, _) => cwd,
    };
    // An image's relative folder is meant from its root.
    let cwd = if cwd.starts_with('/') {
        cwd.to_owned()
    } else {
        format!("/{cwd}")
    };
    Ok(Process {
        terminal: container.tty,
        user: User {
            uid: inputs.user.uid,
            gid: inputs.user.gid,
            additional_gids: [&inputs.user.supplemental_gids[..], &inputs.edits.groups[..]].concat(),
        },
        args,
        env: environment(inputs)?,
        cwd,
        capabilities: capabilities::of_container(security, &inputs.host.capabilities)?,
        no_new_privileges: security.no_new_privs,
        oom_score_adj: Some(clamp_oom_score_adj(
            limits.oom_score_adj,
            inputs.host.oom_score_adj_floor,
        )),
        apparmor_profile: apparmor::profile(security, inputs.apparmor_profiles.as_deref())?,
    })
}

/// CRI: `command` takes the place of the image's entrypoint and then of its arguments too, `args` that of its
/// arguments alone.
fn arguments(container: &cri::ContainerConfig, image: &RunConfig) -> Result<Vec<String>> {
    let (command, args) = match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &container.args),
        (false, _) => (&container.command, &container.args),
    };
    let all: Vec<_> = command.iter().chain(args).cloned().collect();
    if all.is_empty() {
        Err(Error::invalid(
            "config.command",
            "neither the container nor its image names a command",
        ))
    } else {
        Ok(all)
    }
}

/// The image's variables, then the container's in place of those of the same name.
fn environment(inputs: &Inputs<'_>) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, entry: String| {
        if values.insert(name.to_owned(), entry).is_none() {
            order.push(name.to_owned());
        }
    };
    set("PATH", PATH.into());
    set("HOSTNAME", format!("HOSTNAME={}", inputs.hostname));
    if inputs.container.tty {
        set("TERM", "TERM=xterm".into());
    }
    for entry in &inputs.image.env {
        let name = entry.split('=').next().unwrap_or_default();
        set(name, entry.clone());
    }
    for env in &inputs.container.envs {
        if env.key.is_empty() || env.key.contains(['=', '\0']) {
            return Err(Error::invalid(
                "config.envs",
                format!("{:?} cannot be a variable's name", env.key),
            ));
        }
        let value = std::str::from_utf8(&env.value)
            .map_err(|_| Error::invalid("config.envs", format!("{} is not UTF-8", env.key)))?;
        set(&env.key, format!("{}={value}", env.key));
    }
    for entry in &inputs.edits.env {
        set(entry.split('=').next().unwrap_or_default(), entry.clone());
    }
    if !values.contains_key("HOME") {
        order.push("HOME".into());
        values.insert("HOME".into(), format!("HOME={}", inputs.user.home));
    }
    Ok(order
        .into_iter()
        .filter_map(|name| values.remove(&name))
        .collect())
}

/// Whose processes a container sees. A container that says nothing about namespaces follows its sandbox.
pub(crate) fn processes(sandbox: &cri::PodSandboxConfig, container: &cri::ContainerConfig) -> NamespaceMode {
    namespace_options(container)
        .cloned()
        .unwrap_or_else(|| crate::sandbox::namespace_options(sandbox))
        .pid()
}

/// A container's own options, if it has any.
pub(crate) fn namespace_options(container: &cri::ContainerConfig) -> Option<&cri::NamespaceOption> {
    container
        .linux
        .as_ref()?
        .security_context
        .as_ref()?
        .namespace_options
        .as_ref()
}

fn namespaces(inputs: &Inputs<'_>, security: &cri::LinuxContainerSecurityContext) -> Vec<Namespace> {
    let joined = |kind: &str, path: &Path| Namespace {
        kind: kind.to_owned(),
        path: Some(path.to_owned()),
    };
    let own = |kind: &str| Namespace {
        kind: kind.to_owned(),
        path: None,
    };
    let mut all = vec![own("mount")];
    match processes(inputs.sandbox, inputs.container) {
        NamespaceMode::Container => all.push(own("pid")),
        NamespaceMode::Node => {}
        NamespaceMode::Pod => all.push(joined("pid", &inputs.files.pid)),
        NamespaceMode::Target => all.extend(inputs.target.as_deref().map(|path| joined("pid", path))),
    }
    if inputs.wanted.user {
        all.push(joined("user", &inputs.files.user));
    }
    if inputs.wanted.net {
        all.push(joined("network", &inputs.files.net));
        all.push(joined("uts", &inputs.files.uts));
    }
    if inputs.wanted.ipc {
        all.push(joined("ipc", &inputs.files.ipc));
    }
    if inputs.host.cgroup_v2 && !security.privileged {
        all.push(own("cgroup"));
    }
    all
}

/// Beside the path of the user namespace: runc up to 1.1 wants both, later ones check that they agree.
fn id_mappings(inputs: &Inputs<'_>, of: impl Fn(&IdMappings) -> &Vec<IdRange>) -> Vec<IdMapping> {
    let ranges = inputs.mappings.as_ref().map(of).into_iter().flatten();
    ranges
        .map(|range| IdMapping {
            container_id: range.inside,
            host_id: range.outside,
            size: range.length,
        })
        .collect()
}

/// What of `/proc` and `/sys` the container must not read, and not write: as asked for. A caller that names nothing
/// wants nothing hidden (Kubernetes' `procMount: Unmasked`), as containerd understands it too.
fn hidden_paths(security: &cri::LinuxContainerSecurityContext) -> (Vec<String>, Vec<String>) {
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    (security.masked_paths.clone(), security.readonly_paths.clone())
}

/// The devices to make, and who may use what. Of two for one path the last counts.
fn devices(inputs: &Inputs<'_>, privileged: bool) -> (Vec<Device>, Vec<DeviceRule>) {
    let granted = inputs.devices.iter().chain(&inputs.edits.devices);
    let mut devices: BTreeMap<&Path, Device> = BTreeMap::new();
    let mut rules = vec![DeviceRule::all(privileged)];
    for granted in granted {
        devices.insert(&granted.path, make(&granted.device, granted.path.clone()));
        if !privileged {
            rules.push(DeviceRule {
                allow: true,
                kind: Some(granted.device.kind),
                major: Some(granted.device.major),
                minor: Some(granted.device.minor),
                access: granted.access.clone(),
            });
        }
    }
    (devices.into_values().collect(), rules)
}

fn make(device: &HostDevice, path: PathBuf) -> Device {
    Device {
        path,
        kind: device.kind,
        major: device.major,
        minor: device.minor,
        file_mode: device.mode,
        uid: device.uid,
        gid: device.gid,
    }
}
