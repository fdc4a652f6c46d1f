//! The rules of pods.
//!
//! An update may change containers freely, and the kubelet restarts only those that changed. What belongs to the
//! pod's sandbox or to its volumes is fixed for the pod's life, because no running container could follow:
//! hostNetwork, hostPID, hostIPC, shareProcessNamespace, hostUsers, hostname, subdomain, setHostnameAsFQDN, podIP,
//! dnsPolicy, dnsConfig, runtimeClassName, the security context's sysctls and seLinuxOptions, host ports, and the source
//! of a volume.
//! Ephemeral containers come by a call of their own, and stay as they are.
//! nodeName can be set once; nodeSelector is fixed from then on.

mod container;
mod env;
mod ephemeral;
mod hosts;
mod lifecycle;
mod mirror;
mod mounts;
mod probe;
mod projection;
mod resources;
mod security;
pub mod sysctl;
mod volume;

pub use self::{env::subscript, ephemeral::check_added_container};
use super::{Rules, Violation, check::Check, meta, priority_class::PREEMPTION_POLICIES};
use crate::{
    names,
    v1::{Pod, PodDnsConfig, PodSecurityContext, PodSpec, PodStatus},
};

const MAX_CONTAINERS: usize = 100;
const MAX_STATUS_MESSAGE: usize = 4096;
const MAX_READINESS_GATES: usize = 20;
const MAX_PULL_SECRETS: usize = 20;

/// The conditions of a pod that its node sets, and the scheduler before it.
pub const NODE_CONDITIONS: [&str; 5] = [
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
];

/// The condition of a pod that does not end by itself: it is evicted, or its node is lost.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// The reason of a pod's condition Ready where the node monitor has set it, in the place of a node that does not report.
pub const NODE_NOT_READY: &str = "NodeNotReady";

impl Rules for Pod {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
        let spec = self.spec.get_or_insert_default();
        default_to(&mut spec.restart_policy, "Always");
        default_to(&mut spec.dns_policy, "ClusterFirst");
        spec.termination_grace_period_seconds.get_or_insert(30);
        for volume in &mut spec.volumes {
            volume::set_defaults(volume);
        }
        let host_network = spec.host_network;
        for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
            container::set_defaults(container, host_network);
        }
        for container in &mut spec.ephemeral_containers {
            ephemeral::set_defaults(container);
        }
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            mirror::check(c, self);
            c.field("spec", |c| match &self.spec {
                None => c.wrong("must be there, with at least one container"),
                Some(spec) => check_spec(c, spec),
            });
            if let Some(status) = &self.status {
                c.field("status", |c| check_status(c, status));
            }
        })
    }

    fn validate_new(&self) -> Vec<Violation> {
        let mut c = Check::default();
        if let Some(spec) = &self.spec {
            c.field("spec", |c| ephemeral::check_new(c, spec));
        }
        c.finish()
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |c| {
            mirror::check_update(c, self, old);
            let none = PodSpec::default();
            let new = self.spec.as_ref().unwrap_or(&none);
            let old = old.spec.as_ref().unwrap_or(&none);
            c.field("spec", |c| check_update(c, new, old));
        })
    }
}

fn default_to(field: &mut String, word: &str) {
    if field.is_empty() {
        word.clone_into(field);
    }
}

fn check_spec(c: &mut Check, spec: &PodSpec) {
    if spec.containers.is_empty() {
        c.field("containers", |c| c.wrong("must have at least one container"));
    }
    volume::check_volumes(c, spec);
    container::check_containers(c, spec, MAX_CONTAINERS);
    c.field("restartPolicy", |c| {
        c.one_of(&spec.restart_policy, &["Always", "OnFailure", "Never"]);
    });
    if let Some(seconds) = spec.termination_grace_period_seconds {
        c.field("terminationGracePeriodSeconds", |c| meta::grace(c, seconds));
    }
    if !spec.node_name.is_empty() {
        c.field("nodeName", |c| c.ok(names::check_dns_label(&spec.node_name)));
    }
    meta::labels(c, "nodeSelector", &spec.node_selector);
    hosts::check(c, spec);
    if let Some(context) = &spec.security_context {
        c.field("securityContext", |c| security::check_pod(c, context, spec));
    }
    if !spec.pod_ip.is_empty() {
        c.field("podIP", |c| {
            c.ip(&spec.pod_ip);
            if spec.host_network {
                c.wrong("must be empty on the host network, where a pod has the node's addresses");
            }
        });
    }
    if !spec.runtime_class_name.is_empty() {
        c.field("runtimeClassName", |c| {
            c.ok(names::check_dns_subdomain(&spec.runtime_class_name));
        });
    }
    c.list(
        "readinessGates",
        &spec.readiness_gates,
        MAX_READINESS_GATES,
        |c, gate| {
            c.field("conditionType", |c| {
                c.ok(names::check_qualified_name(&gate.condition_type));
                if NODE_CONDITIONS.contains(&gate.condition_type.as_str()) {
                    c.wrong(format!(
                        "{:?} is a condition that the node itself sets",
                        gate.condition_type
                    ));
                }
            });
        },
    );
    c.list(
        "imagePullSecrets",
        &spec.image_pull_secrets,
        MAX_PULL_SECRETS,
        |c, secret| {
            c.field("name", |c| c.ok(names::check_dns_subdomain(&secret.name)));
        },
    );
    if !spec.priority_class_name.is_empty() {
        c.field("priorityClassName", |c| {
            c.ok(names::check_dns_subdomain(&spec.priority_class_name));
        });
    }
    if !spec.preemption_policy.is_empty() {
        c.field("preemptionPolicy", |c| {
            c.one_of(&spec.preemption_policy, &PREEMPTION_POLICIES);
        });
    }
    check_namespaces(c, spec);
    check_dns(c, spec);
}

fn check_namespaces(c: &mut Check, spec: &PodSpec) {
    if spec.host_pid && spec.share_process_namespace == Some(true) {
        c.field("shareProcessNamespace", |c| {
            c.wrong("must not be true together with hostPID: there the containers see each other's processes anyway");
        });
    }
    if spec.host_users == Some(false) {
        let shared = [
            ("hostNetwork", spec.host_network),
            ("hostPID", spec.host_pid),
            ("hostIPC", spec.host_ipc),
        ];
        for (name, _) in shared.into_iter().filter(|(_, is_shared)| *is_shared) {
            c.field(name, |c| {
                c.wrong("must not be true where hostUsers is false: the node's namespaces belong to the node's users");
            });
        }
    }
}

fn check_dns(c: &mut Check, spec: &PodSpec) {
    c.field("dnsPolicy", |c| {
        c.one_of(&spec.dns_policy, &["ClusterFirst", "Default", "None"]);
    });
    let none = PodDnsConfig::default();
    let config = spec.dns_config.as_ref().unwrap_or(&none);
    c.field("dnsConfig", |c| {
        if spec.dns_policy == "None" && config.nameservers.is_empty() {
            c.field("nameservers", |c| {
                c.wrong("must have at least one address when dnsPolicy is \"None\"");
            });
        }
        c.list("nameservers", &config.nameservers, 3, |c, address| c.ip(address));
        c.list("searches", &config.searches, 32, |c, domain| {
            let domain = domain.strip_suffix('.').unwrap_or(domain);
            c.ok(names::check_dns_subdomain(domain));
        });
        c.list("options", &config.options, 32, |c, option| {
            c.field("name", |c| check_resolver_word(c, &option.name));
            if !option.value.is_empty() {
                c.field("value", |c| check_resolver_word(c, &option.value));
            }
        });
    });
}

/// A word that becomes part of a line of resolv.conf.
fn check_resolver_word(c: &mut Check, word: &str) {
    c.not_empty(word);
    c.at_most(word, names::MAX_SUBDOMAIN);
    if word.contains(|c: char| c.is_whitespace() || c.is_control()) {
        c.wrong(format!("must be one word, but is {word:?}"));
    }
}

fn check_status(c: &mut Check, status: &PodStatus) {
    if !status.phase.is_empty() {
        let phases = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
        c.field("phase", |c| c.one_of(&status.phase, &phases));
    }
    c.field("message", |c| c.at_most(&status.message, MAX_STATUS_MESSAGE));
    meta::conditions(c, &status.conditions);
    for (field, statuses) in [
        ("initContainerStatuses", &status.init_container_statuses),
        ("containerStatuses", &status.container_statuses),
        ("ephemeralContainerStatuses", &status.ephemeral_container_statuses),
    ] {
        c.list(field, statuses, MAX_CONTAINERS, |c, container| {
            c.field("name", |c| c.not_empty(&container.name));
        });
    }
}

fn check_update(c: &mut Check, new: &PodSpec, old: &PodSpec) {
    const FIXED: &str = "it is part of the pod's sandbox: delete the pod and create it anew";
    c.field("hostNetwork", |c| {
        c.unchanged(&new.host_network, &old.host_network, FIXED);
    });
    c.field("hostPID", |c| c.unchanged(&new.host_pid, &old.host_pid, FIXED));
    c.field("hostIPC", |c| c.unchanged(&new.host_ipc, &old.host_ipc, FIXED));
    c.field("shareProcessNamespace", |c| {
        let shares = |spec: &PodSpec| spec.share_process_namespace == Some(true);
        c.unchanged(&shares(new), &shares(old), FIXED);
    });
    c.field("hostUsers", |c| {
        let has_own = |spec: &PodSpec| spec.host_users == Some(false);
        c.unchanged(&has_own(new), &has_own(old), FIXED);
    });
    c.field("hostname", |c| c.unchanged(&new.hostname, &old.hostname, FIXED));
    c.field("subdomain", |c| {
        c.unchanged(&new.subdomain, &old.subdomain, FIXED);
    });
    c.field("setHostnameAsFQDN", |c| {
        let has_full = |spec: &PodSpec| spec.set_hostname_as_fqdn == Some(true);
        c.unchanged(&has_full(new), &has_full(old), FIXED);
    });
    c.field("securityContext", |c| {
        let none = PodSecurityContext::default();
        let [new, old] = [new, old].map(|spec| spec.security_context.as_deref().unwrap_or(&none));
        c.field("sysctls", |c| c.unchanged(&new.sysctls, &old.sysctls, FIXED));
        c.field("seLinuxOptions", |c| {
            c.unchanged(&new.se_linux_options, &old.se_linux_options, FIXED);
        });
    });
    c.field("podIP", |c| c.unchanged(&new.pod_ip, &old.pod_ip, FIXED));
    c.field("dnsPolicy", |c| {
        c.unchanged(&new.dns_policy, &old.dns_policy, FIXED);
    });
    c.field("dnsConfig", |c| {
        c.unchanged(&new.dns_config, &old.dns_config, FIXED);
    });
    c.field("runtimeClassName", |c| {
        c.unchanged(&new.runtime_class_name, &old.runtime_class_name, FIXED);
    });
    if !old.node_name.is_empty() {
        const PLACED: &str = "the pod has its node: delete it and create it anew to move it";
        c.field("nodeName", |c| {
            c.unchanged(&new.node_name, &old.node_name, PLACED);
        });
        c.field("nodeSelector", |c| {
            c.unchanged(&new.node_selector, &old.node_selector, PLACED);
        });
    }
    ephemeral::check_update(c, new, old);
    container::check_host_ports_update(c, new, old);
    volume::check_volumes_update(c, new, old);
}

#[cfg(test)]
mod tests;
