//! From CRI's words to the OCI runtime's: one pure function, [`spec`].

mod capabilities;
mod mounts;
mod resources;
mod seccomp;
mod types;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clone8s::cri::{self, NamespaceMode};

use self::types::{Device, DeviceRule, Linux, Namespace, Root, User};
pub(crate) use self::{
    capabilities::{CapabilitySet, known as known_capabilities},
    resources::{clamp_oom_score_adj, resources},
    types::{LinuxResources, Process, Spec},
};
use crate::{
    error::{Error, Result},
    images::config::RunConfig,
    pins::Wanted,
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
    pub(crate) files: SandboxFiles,
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
    /// Every device node, for privileged containers.
    pub(crate) devices: Vec<HostDevice>,
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
    let limits = linux
        .and_then(|linux| linux.resources.clone())
        .unwrap_or_default();

    let mut annotations: BTreeMap<_, _> = container.annotations.clone();
    annotations.insert(SANDBOX_ID.into(), inputs.sandbox_id.into());
    let (masked_paths, readonly_paths) = hidden_paths(security);
    let (devices, device_rules) = devices(inputs, security.privileged)?;
    let mut resources = resources(&limits, inputs.host.cgroup_v2)?;
    resources.devices = device_rules;
    let mounts = mounts::mounts(inputs, security)?;
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
        annotations,
        linux: Linux {
            sysctl: BTreeMap::new(),
            resources,
            cgroups_path: inputs.cgroup.clone(),
            namespaces: namespaces(inputs, security)?,
            devices,
            seccomp: seccomp::seccomp(security, &process.capabilities)?,
            rootfs_propagation: propagation,
            masked_paths,
            readonly_paths,
        },
        process,
    })
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
    Ok(Process {
        terminal: container.tty,
        user: User {
            uid: inputs.user.uid,
            gid: inputs.user.gid,
            additional_gids: inputs.user.supplemental_gids.clone(),
        },
        args,
        env: environment(inputs)?,
        cwd: cwd.to_owned(),
        capabilities: capabilities::of_container(security, &inputs.host.capabilities)?,
        no_new_privileges: security.no_new_privs,
        oom_score_adj: Some(clamp_oom_score_adj(
            limits.oom_score_adj,
            inputs.host.oom_score_adj_floor,
        )),
        apparmor_profile: None,
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
    if inputs.wanted.net {
        set("HOSTNAME", format!("HOSTNAME={}", inputs.hostname));
    }
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
    if !values.contains_key("HOME") {
        order.push("HOME".into());
        values.insert("HOME".into(), format!("HOME={}", inputs.user.home));
    }
    Ok(order
        .into_iter()
        .filter_map(|name| values.remove(&name))
        .collect())
}

fn namespaces(inputs: &Inputs<'_>, security: &cri::LinuxContainerSecurityContext) -> Result<Vec<Namespace>> {
    let joined = |kind: &str, path: &Path| Namespace {
        kind: kind.to_owned(),
        path: Some(path.to_owned()),
    };
    let own = |kind: &str| Namespace {
        kind: kind.to_owned(),
        path: None,
    };
    let mut all = vec![own("mount")];
    let options = security
        .namespace_options
        .clone()
        .unwrap_or_else(|| crate::sandbox::namespace_options(inputs.sandbox));
    match options.pid() {
        NamespaceMode::Container => all.push(own("pid")),
        NamespaceMode::Node => {}
        mode @ (NamespaceMode::Pod | NamespaceMode::Target) => {
            return Err(Error::invalid(
                "config.linux.security_context.namespace_options.pid",
                format!("{} is not implemented; use CONTAINER or NODE", mode.as_str_name()),
            ));
        }
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
    Ok(all)
}

/// What of `/proc` and `/sys` containers must not read, and not write, unless the caller says otherwise.
fn hidden_paths(security: &cri::LinuxContainerSecurityContext) -> (Vec<String>, Vec<String>) {
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    let usual = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
    let masked = match security.masked_paths.as_slice() {
        [] => usual(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/sys/devices/virtual/powercap",
            "/sys/firmware",
        ]),
        given => given.to_vec(),
    };
    let readonly = match security.readonly_paths.as_slice() {
        [] => usual(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]),
        given => given.to_vec(),
    };
    (masked, readonly)
}

/// The devices to make, and who may use what. A privileged container has every device of the host.
fn devices(inputs: &Inputs<'_>, privileged: bool) -> Result<(Vec<Device>, Vec<DeviceRule>)> {
    if privileged {
        let devices = inputs
            .host
            .devices
            .iter()
            .map(|device| make(device, device.path.clone()))
            .collect();
        return Ok((devices, vec![DeviceRule::all(true)]));
    }
    let mut devices = Vec::new();
    let mut rules = vec![DeviceRule::all(false)];
    for device in &inputs.container.devices {
        let host_path = Path::new(&device.host_path);
        let found = inputs
            .host
            .devices
            .iter()
            .find(|found| found.path == host_path)
            .ok_or_else(|| {
                Error::invalid(
                    "config.devices",
                    format!("{} is not a device of this host", device.host_path),
                )
            })?;
        if device.permissions.is_empty() || device.permissions.contains(|c| !"rwm".contains(c)) {
            return Err(Error::invalid(
                "config.devices",
                format!(
                    "permissions {:?} of {}: must be letters of \"rwm\"",
                    device.permissions, device.host_path
                ),
            ));
        }
        devices.push(make(found, PathBuf::from(&device.container_path)));
        rules.push(DeviceRule {
            allow: true,
            kind: Some(found.kind),
            major: Some(found.major),
            minor: Some(found.minor),
            access: device.permissions.clone(),
        });
    }
    Ok((devices, rules))
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
