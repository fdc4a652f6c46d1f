//! The rules of a pod's containers.

use std::collections::BTreeSet;

use crate::{
    names,
    rules::pod::{default_to, env, ephemeral, lifecycle, mounts, probe, resources, security},
    rules::{
        ImageReference,
        check::{Check, Seen},
    },
    v1::{Container, ContainerPort, PodSpec},
};

const MAX_ARGUMENTS: usize = 1000;
const MAX_PORTS: usize = 100;
/// The kernel takes no longer argument or variable.
const MAX_ARGUMENT_BYTES: usize = 128 * 1024 - 1;
pub(super) const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

pub(super) fn set_defaults(container: &mut Container, host_network: bool) {
    default_to(&mut container.image_pull_policy, pull_policy(&container.image));
    for port in &mut container.ports {
        default_to(&mut port.protocol, "TCP");
        if host_network && port.host_port == 0 {
            port.host_port = port.container_port;
        }
    }
    probe::set_defaults(container);
    lifecycle::set_defaults(container);
    if let Some(resources) = &mut container.resources {
        resources::set_defaults(resources);
    }
}

/// When an image is pulled that nobody has said it of.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let latest = ImageReference::parse(image).is_ok_and(|image| image.is_latest());
    if latest { "Always" } else { "IfNotPresent" }
}

/// What containers must not have twice in a pod.
pub(super) struct Taken<'a> {
    names: Seen<&'a str>,
    host_ports: Seen<HostPort<'a>>,
}

pub(super) fn check_containers(c: &mut Check, spec: &PodSpec, limit: usize) {
    let mut taken = Taken {
        names: Seen::new(),
        host_ports: Seen::new(),
    };
    c.list("initContainers", &spec.init_containers, limit, |c, container| {
        check_container(c, container, spec, &mut taken);
        lifecycle::check_init_container(c, container);
    });
    c.list("containers", &spec.containers, limit, |c, container| {
        check_container(c, container, spec, &mut taken);
        if !container.restart_policy.is_empty() {
            c.field("restartPolicy", |c| {
                c.wrong(
                    "cannot be set: only an init container can be a sidecar; the pod's restartPolicy counts",
                );
            });
        }
    });
    ephemeral::check(c, spec, &mut taken);
}

fn check_container<'a>(c: &mut Check, container: &'a Container, spec: &PodSpec, taken: &mut Taken<'a>) {
    check_name(c, &container.name, taken);
    check_common(c, container, spec);
    check_ports(c, container, spec.host_network, &mut taken.host_ports);
    probe::check_probes(c, container);
    lifecycle::check_lifecycle(c, container, spec);
    resources::check_resources(c, container);
}

pub(super) fn check_name<'a>(c: &mut Check, name: &'a str, taken: &mut Taken<'a>) {
    c.field("name", |c| {
        c.ok(names::check_dns_label(name));
        if taken.names.again(name) {
            c.wrong(format!("{name:?} is the name of another container of the pod"));
        }
    });
}

/// What holds for a container of every kind.
pub(super) fn check_common(c: &mut Check, container: &Container, spec: &PodSpec) {
    c.field("image", |c| {
        if let Err(sentence) = ImageReference::parse(&container.image) {
            c.wrong(sentence);
        }
    });
    c.field("imagePullPolicy", |c| {
        c.one_of(&container.image_pull_policy, &PULL_POLICIES);
    });
    check_process(c, container);
    env::check_env(c, container, spec);
    mounts::check_mounts(c, container, spec);
    if let Some(context) = &container.security_context {
        c.field("securityContext", |c| security::check_container(c, context, spec));
    }
}

/// What the sandbox forwards from the node cannot change while it lives.
pub(super) fn check_host_ports_update(c: &mut Check, new: &PodSpec, old: &PodSpec) {
    if new.host_network || old.host_network {
        return;
    }
    if forwarded(new) != forwarded(old) {
        c.field("containers", |c| {
            c.wrong(
                "host ports cannot be changed; they are part of the pod's sandbox: \
                 delete the pod and create it anew",
            );
        });
    }
}

fn forwarded(spec: &PodSpec) -> BTreeSet<(i32, &str, &str, i32)> {
    spec.all_containers()
        .flat_map(|container| &container.ports)
        .filter(|port| port.host_port != 0)
        .map(|port| {
            (
                port.host_port,
                port.protocol.as_str(),
                port.host_ip.as_str(),
                port.container_port,
            )
        })
        .collect()
}

fn check_process(c: &mut Check, container: &Container) {
    for (field, words) in [("command", &container.command), ("args", &container.args)] {
        c.list(field, words, MAX_ARGUMENTS, |c, word| check_argument(c, word));
    }
    if !container.working_dir.is_empty() {
        c.field("workingDir", |c| c.absolute_path(&container.working_dir));
    }
}

pub(super) fn check_argument(c: &mut Check, word: &str) {
    c.at_most(word, MAX_ARGUMENT_BYTES);
    if word.contains('\0') {
        c.wrong("must not contain a zero byte");
    }
}

/// A host port in use: the port, its protocol and its address.
type HostPort<'a> = (i32, &'a str, &'a str);

fn check_ports<'a>(
    c: &mut Check,
    container: &'a Container,
    host_network: bool,
    host_ports: &mut Seen<HostPort<'a>>,
) {
    let mut names_seen = Seen::new();
    c.list("ports", &container.ports, MAX_PORTS, |c, port| {
        if !port.name.is_empty() {
            c.field("name", |c| {
                c.ok(names::check_port_name(&port.name));
                if names_seen.again(port.name.as_str()) {
                    c.wrong(format!(
                        "{:?} is the name of another port of the container",
                        port.name
                    ));
                }
            });
        }
        c.field("containerPort", |c| c.port(port.container_port));
        c.field("protocol", |c| c.one_of(&port.protocol, &["TCP", "UDP", "SCTP"]));
        if port.host_port != 0 {
            c.field("hostPort", |c| check_host_port(c, port, host_network, host_ports));
        }
        if !port.host_ip.is_empty() {
            c.field("hostIP", |c| match port.host_ip.as_str() {
                "0.0.0.0" | "::" => {}
                address => c.ip(address),
            });
        }
    });
}

fn check_host_port<'a>(
    c: &mut Check,
    port: &'a ContainerPort,
    host_network: bool,
    host_ports: &mut Seen<HostPort<'a>>,
) {
    c.port(port.host_port);
    if host_network && port.host_port != port.container_port {
        c.wrong(format!(
            "must equal containerPort ({}) on the host network, but is {}",
            port.container_port, port.host_port
        ));
    }
    if host_ports.again((port.host_port, &port.protocol, &port.host_ip)) {
        c.wrong(format!(
            "{}/{} is taken by another port of the pod",
            port.host_port, port.protocol
        ));
    }
}
