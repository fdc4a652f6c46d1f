//! Which sandbox has which ports of the host.

use std::{collections::HashMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::BridgeError;
use crate::{ids::SandboxId, network::PortMapping};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As IP numbers it.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that leads to one address of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forward {
    pub(super) protocol: Protocol,
    /// None for every address of the host.
    pub(super) host_ip: Option<IpAddr>,
    pub(super) host_port: u16,
    pub(super) pod: IpAddr,
    pub(super) pod_port: u16,
}

/// The mappings on the pod's addresses of the same family; `0.0.0.0` and `::` are every address of theirs.
pub(super) fn forwards(mappings: &[PortMapping], addresses: &[IpAddr]) -> Vec<Forward> {
    let mut all = Vec::new();
    for mapping in mappings {
        let host_ip = mapping.host_ip.filter(|address| !address.is_unspecified());
        for &pod in addresses {
            if mapping.host_ip.is_none_or(|host| host.is_ipv4() == pod.is_ipv4()) {
                all.push(Forward {
                    protocol: mapping.protocol,
                    host_ip,
                    host_port: mapping.host_port,
                    pod,
                    pod_port: mapping.container_port,
                });
            }
        }
    }
    all
}

/// The host's ports that are given away.
#[derive(Debug, Default)]
pub(super) struct Ports(HashMap<(Protocol, u16), Vec<Claim>>);

#[derive(Debug)]
struct Claim {
    sandbox: SandboxId,
    /// None and unspecified ones for every address.
    host_ip: Option<IpAddr>,
}

impl Claim {
    fn overlaps(&self, other: Option<IpAddr>) -> bool {
        let (Some(ours), Some(theirs)) = (self.host_ip, other) else {
            return true;
        };
        if ours.is_ipv4() != theirs.is_ipv4() {
            return false;
        }
        ours == theirs || ours.is_unspecified() || theirs.is_unspecified()
    }
}

impl Ports {
    /// All of them or none.
    pub(super) fn claim(&mut self, sandbox: &SandboxId, mappings: &[PortMapping]) -> Result<(), BridgeError> {
        for mapping in mappings {
            if let Err(taken) = self.claim_one(sandbox, mapping) {
                self.release(sandbox);
                return Err(taken);
            }
        }
        Ok(())
    }

    fn claim_one(&mut self, sandbox: &SandboxId, mapping: &PortMapping) -> Result<(), BridgeError> {
        let claims = self.0.entry((mapping.protocol, mapping.host_port)).or_default();
        if let Some(other) = claims.iter().find(|claim| claim.overlaps(mapping.host_ip)) {
            return Err(BridgeError::PortTaken {
                protocol: mapping.protocol,
                port: mapping.host_port,
                by: other.sandbox.clone(),
            });
        }
        claims.push(Claim {
            sandbox: sandbox.clone(),
            host_ip: mapping.host_ip,
        });
        Ok(())
    }

    pub(super) fn release(&mut self, sandbox: &SandboxId) {
        self.0.retain(|_, claims| {
            claims.retain(|claim| claim.sandbox != *sandbox);
            !claims.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: Protocol, host_ip: Option<&str>, host_port: u16) -> PortMapping {
        PortMapping {
            protocol,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
        }
    }

    #[test]
    fn a_port_is_one_sandboxs_on_an_address_and_names_who_has_it() {
        let mut ports = Ports::default();
        let (a, b) = (SandboxId::from("a"), SandboxId::from("b"));
        ports
            .claim(&a, &[mapping(Protocol::Tcp, Some("127.0.0.1"), 80)])
            .unwrap();
        let refused = |ports: &mut Ports, ip| ports.claim(&b, &[mapping(Protocol::Tcp, ip, 80)]).unwrap_err();
        for ip in [None, Some("0.0.0.0"), Some("127.0.0.1")] {
            let error = refused(&mut ports, ip).to_string();
            assert!(error.contains("80") && error.contains("sandbox a"), "{error}");
        }
        for free in [
            mapping(Protocol::Tcp, Some("127.0.0.2"), 80),
            mapping(Protocol::Tcp, Some("::"), 80),
            mapping(Protocol::Udp, None, 80),
        ] {
            ports.claim(&b, &[free]).unwrap();
        }
        ports.release(&a);
        ports
            .claim(&a, &[mapping(Protocol::Tcp, Some("127.0.0.1"), 80)])
            .unwrap();
    }

    #[test]
    fn of_several_ports_all_are_claimed_or_none() {
        let mut ports = Ports::default();
        let (a, b) = (SandboxId::from("a"), SandboxId::from("b"));
        ports.claim(&a, &[mapping(Protocol::Tcp, None, 81)]).unwrap();
        let both = [mapping(Protocol::Tcp, None, 80), mapping(Protocol::Tcp, None, 81)];
        ports.claim(&b, &both).unwrap_err();
        ports.claim(&a, &[mapping(Protocol::Tcp, None, 80)]).unwrap();
        let twice = [mapping(Protocol::Udp, None, 90), mapping(Protocol::Udp, None, 90)];
        ports.claim(&b, &twice).unwrap_err();
    }

    #[test]
    fn a_mapping_leads_to_the_addresses_of_its_own_family() {
        let pod: [IpAddr; 2] = ["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let to = |ip| -> Vec<_> {
            forwards(&[mapping(Protocol::Tcp, ip, 80)], &pod)
                .into_iter()
                .map(|forward| (forward.host_ip.is_some(), forward.pod))
                .collect()
        };
        assert_eq!(to(None), [(false, pod[0]), (false, pod[1])]);
        assert_eq!(to(Some("0.0.0.0")), [(false, pod[0])]);
        assert_eq!(to(Some("::")), [(false, pod[1])]);
        assert_eq!(to(Some("127.0.0.1")), [(true, pod[0])]);
    }
}
