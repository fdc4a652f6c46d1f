//! The built-in network: a bridge, and a virtual cable from it to each pod. All by netlink, with no program run.
//!
//! ```text
//! attach: address, ports claimed ─► cable made ─► in the pod: addresses, routes ─► the host's ports
//! detach: port of the bridge closed ─► the host's ports ─► address, ports free       (repeatable)
//! ```
//!
//! It keeps nothing on disk: who has which address stands in the sandboxes' records, and the cables go with the pods'
//! network namespaces. What the kernel holds beside them, the bridge and a table of rules, is made anew from memory
//! whenever it is found missing.

mod addresses;
mod cables;
mod flows;
mod links;
mod nft;
mod ports;
mod rules;
mod shaping;
mod sysctls;

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use ipnet::IpNet;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use self::{
    addresses::gateway,
    cables::{State, is_cable},
    links::Pair,
    ports::Forward,
    rules::Rules,
};
pub(crate) use self::{cables::Cable, links::set_loopback_up, ports::Protocol};
use super::{Bandwidth, INTERFACE, PortMapping, netlink::Socket};
use crate::{config::PodRanges, ids::SandboxId, table::lock};

/// Why a sandbox could not be attached to the built-in network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BridgeError {
    #[error("pod address {address} is taken by sandbox {by}; remove that one, or ask for another address")]
    AddressTaken { address: IpAddr, by: SandboxId },
    #[error("pod address {address}: not one that a pod can have in {ranges}")]
    OutsideRange { address: IpAddr, ranges: String },
    #[error("no pod address is free in {range}; remove pods, or give the node a larger range")]
    Exhausted { range: IpNet },
    #[error(
        "the host's port {port}/{protocol} is taken by sandbox {by}; remove that one, or use another port"
    )]
    PortTaken {
        protocol: Protocol,
        port: u16,
        by: SandboxId,
    },
    #[error("built-in network: cannot {what}: {cause}")]
    Kernel { what: String, cause: io::Error },
}

/// What is wanted of the network for one sandbox.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) sandbox: SandboxId,
    pub(super) netns: PathBuf,
    pub(super) ports: Vec<PortMapping>,
    pub(super) fixed_address: Option<IpAddr>,
    pub(super) bandwidth: Bandwidth,
}

/// The bridge of a node.
#[derive(Debug)]
pub(super) struct Bridge {
    name: String,
    rules: Rules,
    state: Mutex<State>,
    /// The bridge's index once all is set up. Held while rules change, so that a rule is not lost to a replacement.
    set_up: Mutex<Option<u32>>,
}

impl Bridge {
    pub(super) fn new(name: &str, ranges: PodRanges) -> Self {
        Self {
            name: name.to_owned(),
            rules: Rules::new(name),
            state: Mutex::new(State::new(ranges)),
            set_up: Mutex::new(None),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn ranges(&self) -> PodRanges {
        lock(&self.state).addresses.ranges().clone()
    }

    /// For pods to come.
    pub(super) fn set_ranges(&self, ranges: PodRanges) {
        let mut state = lock(&self.state);
        if *state.addresses.ranges() != ranges {
            state.addresses.set_ranges(ranges);
            drop(state);
            // The next pod finds it missing and sets it up for the ranges of then.
            *lock(&self.set_up) = None;
        }
    }

    /// Takes up a sandbox that was attached by an earlier process, by this network or, with addresses of its
    /// ranges, by plugins.
    pub(super) fn restore(
        &self,
        sandbox: &SandboxId,
        addresses: &[IpAddr],
        ports: &[PortMapping],
        cable: Option<&Cable>,
    ) {
        let mut state = lock(&self.state);
        state.addresses.restore(sandbox, addresses);
        // They were no conflict when they were made.
        let _ = state.ports.claim(sandbox, ports);
        if let Some(cable) = cable.filter(|cable| cable.bridge == self.name) {
            state.cables.insert(sandbox.clone(), cable.clone());
        }
    }

    pub(super) fn cable(&self, sandbox: &SandboxId) -> Option<Cable> {
        lock(&self.state).cables.get(sandbox).cloned()
    }

    /// Takes back what a sandbox of other means held of the ranges and ports.
    pub(super) fn release(&self, sandbox: &SandboxId) {
        lock(&self.state).release(sandbox);
    }

    /// Sets up what is missing.
    pub(super) async fn ensure(self: &Arc<Self>) -> Result<(), BridgeError> {
        self.in_thread(|bridge| {
            let (route, netfilter) = sockets()?;
            bridge.ready(&route, &netfilter).map(drop)
        })
        .await
    }

    /// Sets up bridge and rules for the sandboxes that there are, and removes what is left of those that are not.
    pub(super) async fn reconcile(self: &Arc<Self>) -> Result<(), BridgeError> {
        self.in_thread(|bridge| {
            let (route, netfilter) = sockets()?;
            let mut set_up = lock(&bridge.set_up);
            *set_up = Some(bridge.build(&route, &netfilter)?);
            drop(set_up);
            let known: Vec<_> = lock(&bridge.state)
                .cables
                .values()
                .map(|cable| cable.interface.clone())
                .collect();
            bridge.remove_cables(&route, |cable| !known.iter().any(|known| known == cable))
        })
        .await
    }

    pub(super) async fn attach(self: &Arc<Self>, wish: &Wish) -> Result<Cable, BridgeError> {
        let cable = lock(&self.state).claim(&self.name, wish)?;
        let (made, netns, bandwidth) = (cable.clone(), wish.netns.clone(), wish.bandwidth);
        let wired = self
            .in_thread(move |bridge| bridge.wire(&made, &netns, bandwidth))
            .await;
        if let Err(error) = wired {
            if let Err(undo) = self.detach(&wish.sandbox, &cable).await {
                tracing::warn!(sandbox = %wish.sandbox, error = %undo, "failed network not cleaned up");
            }
            return Err(error);
        }
        Ok(cable)
    }

    /// The namespace's end of the cable goes with the namespace, and takes the host's end along; to wait for that
    /// would take longer than all else. From here on nothing passes through it.
    pub(super) async fn detach(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        cable: &Cable,
    ) -> Result<(), BridgeError> {
        let (sandbox, cable) = (sandbox.clone(), cable.clone());
        self.in_thread(move |bridge| {
            let (route, netfilter) = sockets()?;
            links::close_port(&route, &cable.interface)
                .map_err(kernel(|| format!("close port {} of the bridge", cable.interface)))?;
            let forwards = cable.forwards();
            let mut set_up = lock(&bridge.set_up);
            lock(&bridge.state).release(&sandbox);
            if forwards.is_empty() {
                return Ok(());
            }
            // Not all are there, or the table is not: what should be there is known.
            if bridge.rules.remove(&netfilter, &forwards).is_err() {
                *set_up = Some(bridge.build(&route, &netfilter)?);
            }
            drop(set_up);
            forget_flows(&netfilter, &route, &forwards);
            Ok(())
        })
        .await
    }

    /// Whether what the sandbox was attached by is there.
    pub(super) fn check(&self, cable: &Cable) -> Result<(), BridgeError> {
        let (route, netfilter) = sockets()?;
        for interface in [&self.name, &cable.interface] {
            links::index(&route, interface).map_err(kernel(|| format!("find interface {interface}")))?;
        }
        match self.rules.is_there(&netfilter) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::from(io::ErrorKind::NotFound)),
            Err(error) => Err(error),
        }
        .map_err(kernel(|| "find the table of nf_tables".into()))
    }

    /// Removes the bridge and its rules.
    pub(super) async fn tear_down(self: &Arc<Self>) -> Result<(), BridgeError> {
        self.in_thread(|bridge| {
            let (route, netfilter) = sockets()?;
            *lock(&bridge.set_up) = None;
            bridge.remove_cables(&route, |_| true)?;
            links::remove(&route, &bridge.name)
                .map_err(kernel(|| format!("remove bridge {}", bridge.name)))?;
            bridge
                .rules
                .delete(&netfilter)
                .map_err(kernel(|| "remove the table of nf_tables".into()))
        })
        .await
    }

    /// Not on a thread of the async runtime: the kernel's lock on links can be held for long, and a thread that has
    /// entered another namespace must end there.
    async fn in_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, BridgeError> + Send + 'static,
    ) -> Result<T, BridgeError> {
        let bridge = Arc::clone(self);
        let (reply, done) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("pod-network".into())
            .spawn(move || {
                let _ = reply.send(work(&bridge));
            })
            .map_err(kernel(|| "start a thread".into()))?;
        done.await.unwrap_or_else(|_| {
            Err(BridgeError::Kernel {
                what: "finish".into(),
                cause: io::Error::other("the thread died"),
            })
        })
    }

    /// Ends in the pod's namespace.
    fn wire(&self, cable: &Cable, netns: &Path, bandwidth: Bandwidth) -> Result<(), BridgeError> {
        let (route, netfilter) = sockets()?;
        let namespace = File::open(netns).map_err(kernel(|| format!("open {}", netns.display())))?;
        let bridge = self.ready(&route, &netfilter)?;
        let pair = Pair {
            host: &cable.interface,
            pod: INTERFACE,
            mac: mac(cable.addresses()),
            mtu: links::uplink_mtu(),
            bridge,
        };
        links::make_pair(&route, pair, namespace.as_fd())
            .map_err(kernel(|| format!("attach {} to bridge {}", pair.host, self.name)))?;
        let cannot_limit = || "limit the pod's bandwidth (the kernel needs sch_tbf)".to_owned();
        if let Some(limit) = bandwidth.ingress {
            // What the host's end sends is what the pod receives.
            links::index(&route, pair.host)
                .and_then(|interface| shaping::limit(&route, interface, limit))
                .map_err(kernel(cannot_limit))?;
        }
        let forwards = cable.forwards();
        if !forwards.is_empty() {
            let set_up = lock(&self.set_up);
            self.rules
                .add(&netfilter, &forwards)
                .map_err(kernel(|| "lead the host's ports to the pod".into()))?;
            drop(set_up);
            forget_flows(&netfilter, &route, &forwards);
        }
        let enter = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let inside = Socket::route()?;
            let interface = links::index(&inside, INTERFACE)?;
            Ok((inside, interface))
        };
        let (inside, interface) = enter().map_err(kernel(|| "enter the pod's network".into()))?;
        let gateways = cable
            .addresses
            .iter()
            .map(|&address| (address, gateway(address.trunc()).addr()));
        links::configure(&inside, interface, gateways)
            .map_err(kernel(|| "give the pod its addresses and routes".into()))?;
        if let Some(limit) = bandwidth.egress {
            shaping::limit(&inside, interface, limit).map_err(kernel(cannot_limit))?;
        }
        Ok(())
    }

    fn remove_cables(&self, route: &Socket, unwanted: impl Fn(&str) -> bool) -> Result<(), BridgeError> {
        let Ok(index) = links::index(route, &self.name) else {
            return Ok(());
        };
        let ports = links::ports(route, index)
            .map_err(kernel(|| format!("list the interfaces at bridge {}", self.name)))?;
        for port in ports.iter().filter(|port| is_cable(port) && unwanted(port)) {
            links::remove(route, port).map_err(kernel(|| format!("remove interface {port}")))?;
        }
        Ok(())
    }

    /// The bridge's index. What is missing, because it is the first pod or because somebody has removed it, is made.
    fn ready(&self, route: &Socket, netfilter: &Socket) -> Result<u32, BridgeError> {
        let mut set_up = lock(&self.set_up);
        if let Some(known) = *set_up
            && links::index(route, &self.name).is_ok_and(|index| index == known)
            && self.rules.is_there(netfilter).unwrap_or(false)
        {
            return Ok(known);
        }
        let index = self.build(route, netfilter)?;
        *set_up = Some(index);
        Ok(index)
    }

    /// Bridge, its addresses, parameters and rules, as the state wants them. The caller holds `set_up`.
    fn build(&self, route: &Socket, netfilter: &Socket) -> Result<u32, BridgeError> {
        let (ranges, forwards) = {
            let state = lock(&self.state);
            (state.ranges(), state.forwards())
        };
        let gateways: Vec<_> = ranges.iter().copied().map(gateway).collect();
        let mac = mac(gateways.iter().map(IpNet::addr));
        let index = links::make_bridge(route, &self.name, mac, links::uplink_mtu())
            .map_err(kernel(|| format!("make bridge {}", self.name)))?;
        let stale = links::addresses(route, index)
            .map_err(kernel(|| format!("list the addresses of bridge {}", self.name)))?
            .into_iter()
            .filter(|address| !gateways.contains(address));
        for address in stale {
            links::remove_address(route, index, address).map_err(kernel(|| {
                format!("take the address {address} from bridge {}", self.name)
            }))?;
        }
        for gateway in gateways {
            links::add_address(route, index, gateway).map_err(kernel(|| {
                format!("give bridge {} the address {gateway}", self.name)
            }))?;
        }
        let forward = kernel(|| "let the host forward".into());
        if ranges.iter().any(|range| range.addr().is_ipv4()) {
            sysctls::forward_v4(&self.name).map_err(forward)?;
        }
        if ranges.iter().any(|range| range.addr().is_ipv6()) {
            sysctls::forward_v6().map_err(kernel(|| "let the host forward".into()))?;
        }
        self.rules
            .replace(netfilter, &ranges, &forwards)
            .map_err(kernel(|| {
                "set the rules of nf_tables (the kernel needs nf_tables with NAT: modprobe nft_nat nft_masq nft_fib_inet)"
                    .into()
            }))?;
        Ok(index)
    }
}

fn sockets() -> Result<(Socket, Socket), BridgeError> {
    let both = || Ok((Socket::route()?, Socket::netfilter()?));
    both().map_err(kernel(|| "open netlink sockets".into()))
}

/// A kernel without ctnetlink serves pods all the same.
fn forget_flows(netfilter: &Socket, route: &Socket, forwards: &[Forward]) {
    if let Err(error) = flows::forget(netfilter, route, forwards) {
        tracing::warn!(%error, "connections to UDP ports of the host may go on to where they went before");
    }
}

/// For `map_err`.
fn kernel(what: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> BridgeError {
    |cause| BridgeError::Kernel { what: what(), cause }
}

/// Of the address: whoever has the same address later has the same MAC, so that no neighbour's memory is wrong.
fn mac(addresses: impl Iterator<Item = IpAddr>) -> [u8; 6] {
    /// Locally administered, as other pod networks use it.
    const START: [u8; 2] = [0x0a, 0x58];
    let octets = addresses.take(1).flat_map(links::octets).collect::<Vec<_>>();
    let mut mac = [START[0], START[1], 0, 0, 0, 0];
    let last = octets.len().saturating_sub(4);
    for (to, from) in mac[2..].iter_mut().zip(&octets[last..]) {
        *to = *from;
    }
    mac
}

#[cfg(test)]
mod tests;
