//! What each sandbox has of the network: its cable to the bridge, its addresses and the host's ports.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    BridgeError, Wish,
    addresses::Addresses,
    ports::{Forward, Ports, forwards},
};
use crate::{config::PodRanges, ids::SandboxId, network::PortMapping};

/// Of the host's ends of cables; then digits of the sandbox's id.
const CABLE: &str = "c8s";
/// What an interface name holds.
const NAME_LENGTH: usize = 15;

/// How a sandbox is attached: all that detaching it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cable {
    pub(super) bridge: String,
    /// The host's end.
    pub(super) interface: String,
    /// The pod's addresses, each with the length of its range's prefix.
    pub(super) addresses: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortMapping>,
}

impl Cable {
    pub(in crate::network) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(IpNet::addr)
    }

    pub(in crate::network) fn ports(&self) -> &[PortMapping] {
        &self.ports
    }

    pub(super) fn forwards(&self) -> Vec<Forward> {
        forwards(&self.ports, &self.addresses().collect::<Vec<_>>())
    }
}

/// What is given away. Never locked across a system call.
#[derive(Debug)]
pub(super) struct State {
    pub(super) addresses: Addresses,
    pub(super) ports: Ports,
    pub(super) cables: HashMap<SandboxId, Cable>,
}

impl State {
    pub(super) fn new(ranges: PodRanges) -> Self {
        Self {
            addresses: Addresses::new(ranges),
            ports: Ports::default(),
            cables: HashMap::new(),
        }
    }

    pub(super) fn claim(&mut self, bridge: &str, wish: &Wish) -> Result<Cable, BridgeError> {
        let Wish { sandbox, ports, .. } = wish;
        self.ports.claim(sandbox, ports)?;
        match self.addresses.allocate(sandbox, wish.fixed_address) {
            Ok(addresses) => {
                let cable = Cable {
                    bridge: bridge.to_owned(),
                    interface: interface_of(sandbox),
                    addresses,
                    ports: ports.clone(),
                };
                self.cables.insert(sandbox.clone(), cable.clone());
                Ok(cable)
            }
            Err(error) => {
                self.ports.release(sandbox);
                Err(error)
            }
        }
    }

    pub(super) fn release(&mut self, sandbox: &SandboxId) {
        self.addresses.release(sandbox);
        self.ports.release(sandbox);
        self.cables.remove(sandbox);
    }

    /// Those in force and those of pods that are there from before.
    pub(super) fn ranges(&self) -> Vec<IpNet> {
        let mut all: Vec<_> = self.addresses.ranges().iter().collect();
        let held = self.cables.values().flat_map(|cable| &cable.addresses);
        for range in held.map(IpNet::trunc) {
            if !all.iter().any(|known| known.contains(&range)) {
                all.push(range);
            }
        }
        all
    }

    pub(super) fn forwards(&self) -> Vec<Forward> {
        self.cables.values().flat_map(Cable::forwards).collect()
    }
}

fn interface_of(sandbox: &SandboxId) -> String {
    let digits = sandbox.as_str().chars().take(NAME_LENGTH - CABLE.len());
    CABLE.chars().chain(digits).collect()
}

pub(super) fn is_cable(interface: &str) -> bool {
    interface
        .strip_prefix(CABLE)
        .is_some_and(|digits| digits.len() == NAME_LENGTH - CABLE.len())
}
