//! Which of the desired pods this node takes on. Pure.
//!
//! A pod is held to the API's rules wherever it comes from. Of two that cannot both run here, the one that runs
//! already stays, then the older, then the first by name: the other waits with the reason in its status.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use clone8s::{rules::Rules as _, v1::Pod};

use crate::{
    desired::{DesiredPod, DesiredPods, PodKey, PodUid},
    eviction::Evictions,
    pod::plan::{Refusal, Want},
    sysctls::{self, SysctlPattern},
};

/// Remembers what the rules said about each pod, so that a change of one does not judge all anew.
#[derive(Debug)]
pub(crate) struct Admitted {
    judged: BTreeMap<PodKey, Judged>,
    allowed_unsafe_sysctls: Vec<SysctlPattern>,
}

#[derive(Debug)]
struct Judged {
    given: Arc<Pod>,
    /// With every default set.
    pod: Arc<Pod>,
    refusal: Option<Refusal>,
}

impl Admitted {
    pub(crate) fn new(allowed_unsafe_sysctls: Vec<SysctlPattern>) -> Self {
        Self {
            judged: BTreeMap::new(),
            allowed_unsafe_sysctls,
        }
    }

    /// What is to become of each desired pod. `running` are the uids of which the runtime has something.
    pub(crate) fn admit(
        &mut self,
        desired: &DesiredPods,
        running: &BTreeSet<PodUid>,
        evictions: &Evictions,
    ) -> Vec<(PodKey, Want)> {
        self.judged.retain(|key, _| desired.contains_key(key));
        let mut candidates = Vec::with_capacity(desired.len());
        for (key, wanted) in desired.iter() {
            let judged = self.judge(key, wanted);
            let pod = DesiredPod {
                pod: Arc::clone(&judged.pod),
                source: wanted.source,
            };
            candidates.push((key, pod, judged.refusal.clone()));
        }
        candidates.sort_by_cached_key(|(key, pod, _)| {
            let created = pod
                .pod
                .metadata
                .as_ref()
                .and_then(|metadata| metadata.creation_timestamp);
            let age = created.map(|time| (time.seconds, time.nanos));
            (!running.contains(&pod.uid()), age, (*key).clone())
        });

        let mut taken = Taken::default();
        let mut wants = Vec::with_capacity(candidates.len());
        for (key, pod, refusal) in candidates {
            let eviction = evictions.get(&pod.uid()).cloned();
            if (pod.is_terminating() || eviction.is_some()) && running.contains(&pod.uid()) {
                // It holds what it has until it is gone.
                taken.hold(&pod);
            }
            let want = if pod.is_terminating() {
                Want::Stop { pod: Some(pod) }
            } else if let Some(message) = eviction {
                Want::Evict { pod, message }
            } else if let Some(refusal) = refusal.or_else(|| taken.claim(&pod)) {
                Want::Refuse { pod, refusal }
            } else {
                Want::Run(pod)
            };
            wants.push((key.clone(), want));
        }
        wants
    }

    fn judge(&mut self, key: &PodKey, wanted: &DesiredPod) -> &Judged {
        let is_known = self
            .judged
            .get(key)
            .is_some_and(|judged| Arc::ptr_eq(&judged.given, &wanted.pod));
        if !is_known {
            let judged = judge(&wanted.pod, &self.allowed_unsafe_sysctls);
            self.judged.insert(key.clone(), judged);
        }
        &self.judged[key]
    }
}

fn judge(given: &Arc<Pod>, allowed_unsafe_sysctls: &[SysctlPattern]) -> Judged {
    let mut defaulted = (**given).clone();
    defaulted.set_defaults();
    let pod = if defaulted == **given {
        Arc::clone(given)
    } else {
        Arc::new(defaulted)
    };
    let violations: Vec<_> = pod.validate().iter().map(ToString::to_string).collect();
    let refusal = if violations.is_empty() {
        let spec = pod.spec.as_ref();
        let forbidden = spec.and_then(|spec| sysctls::forbidden(spec, allowed_unsafe_sysctls));
        forbidden.map(|message| Refusal {
            reason: "SysctlForbidden",
            message,
        })
    } else {
        Some(Refusal {
            reason: "InvalidPod",
            message: violations.join("; "),
        })
    };
    Judged {
        given: Arc::clone(given),
        pod,
        refusal,
    }
}

/// What only one pod of a node can have.
#[derive(Debug, Default)]
struct Taken {
    ports: Vec<(HostPort, PodKey)>,
    addresses: BTreeMap<IpAddr, PodKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct HostPort {
    protocol: String,
    port: i32,
    /// Empty for every address.
    ip: String,
}

impl HostPort {
    fn collides_with(&self, other: &Self) -> bool {
        let every = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || every(&self.ip) || every(&other.ip))
    }
}

impl Taken {
    /// Takes what a pod needs, or says what is in the way.
    fn claim(&mut self, pod: &DesiredPod) -> Option<Refusal> {
        for wanted in host_ports(pod) {
            if let Some((_, holder)) = self.ports.iter().find(|(held, _)| held.collides_with(&wanted)) {
                return Some(Refusal {
                    reason: "HostPortConflict",
                    message: format!(
                        "host port {}/{} is taken by pod {holder}; the pod starts when it is free",
                        wanted.port, wanted.protocol
                    ),
                });
            }
        }
        if let Some(holder) = pod_ip(pod).and_then(|ip| self.addresses.get(&ip)) {
            return Some(Refusal {
                reason: "PodIPConflict",
                message: format!(
                    "address {} is taken by pod {holder}; the pod starts when it is free",
                    pod.spec().pod_ip
                ),
            });
        }
        self.hold(pod);
        None
    }

    fn hold(&mut self, pod: &DesiredPod) {
        let key = pod.key();
        self.ports.extend(host_ports(pod).map(|port| (port, key.clone())));
        if let Some(ip) = pod_ip(pod) {
            self.addresses.insert(ip, key);
        }
    }
}

fn host_ports(pod: &DesiredPod) -> impl Iterator<Item = HostPort> {
    let ports = pod.spec().all_containers().flat_map(|container| &container.ports);
    ports.filter(|port| port.host_port != 0).map(|port| HostPort {
        protocol: port.protocol.clone(),
        port: port.host_port,
        ip: port.host_ip.clone(),
    })
}

fn pod_ip(pod: &DesiredPod) -> Option<IpAddr> {
    pod.spec().pod_ip.parse().ok()
}

#[cfg(test)]
mod tests;
