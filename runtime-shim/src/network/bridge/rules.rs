//! The built-in network's table of nf_tables: masquerading, and the host's ports that lead to pods.
//!
//! ```text
//! table inet clone8s-<bridge> {
//!     set pods4 { 10.88.0.0/16 }                                        likewise pods6
//!     map ports4 { protocol . port : pod . port }                       likewise ports6
//!     map ports-at4 { protocol . address . port : pod . port }          likewise ports-at6
//!     chain guard       filter, prerouting: from the bridge to 127.0.0.0/8: drop
//!     chain prerouting  nat: to an address of the host: jump ports
//!     chain output      nat: the same, of what the host itself sends
//!     chain ports       dnat by the maps, that with the address first
//!     chain postrouting nat: masquerade what leaves the pods' ranges, and what came to a pod by a host port from
//!                       another pod or from the loopback, or its answer would take another way
//! }
//! ```
//!
//! A pod adds nothing to it but an element for each of its host ports. Other tables, those of iptables among them,
//! are left as they are; so what one of them drops stays dropped.

use std::{io, net::IpAddr};

use ipnet::IpNet;

use super::{
    links::octets,
    nft::{
        self, Element, Family, Hook, IPV4, IPV6, OUTPUT, PORT, POSTROUTING, PREROUTING, PROTOCOL, R0, Table,
        Verdict,
    },
    ports::Forward,
};
use crate::network::netlink::{Message, Socket};

/// Where nftables' `raw`, `dstnat` and `srcnat` are: before connection tracking, before and after routing.
const RAW: i32 = -300;
const DESTINATION_NAT: i32 = -100;
const SOURCE_NAT: i32 = 100;

/// What belongs to one family of addresses.
#[derive(Debug, Clone, Copy)]
struct Names {
    family: Family,
    pods: (&'static str, u32),
    ports: (&'static str, u32),
    ports_at: (&'static str, u32),
    /// Offsets of source and destination in the IP header, and the length of each.
    source: u32,
    destination: u32,
    bytes: u32,
}

const V4: Names = Names {
    family: Family::V4,
    pods: ("pods4", 1),
    ports: ("ports4", 2),
    ports_at: ("ports-at4", 3),
    source: 12,
    destination: 16,
    bytes: 4,
};

const V6: Names = Names {
    family: Family::V6,
    pods: ("pods6", 4),
    ports: ("ports6", 5),
    ports_at: ("ports-at6", 6),
    source: 8,
    destination: 24,
    bytes: 16,
};

/// The table of one bridge.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    table: String,
    bridge: String,
}

impl Rules {
    pub(super) fn new(bridge: &str) -> Self {
        Self {
            table: format!("clone8s-{bridge}"),
            bridge: bridge.to_owned(),
        }
    }

    pub(super) fn is_there(&self, socket: &Socket) -> io::Result<bool> {
        let get = nft::message(nft::GET_TABLE, 0).text(1, &self.table);
        match socket.ask([get]) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts the whole table in place of what is there.
    pub(super) fn replace(&self, socket: &Socket, ranges: &[IpNet], forwards: &[Forward]) -> io::Result<()> {
        let table = Table(&self.table);
        // Added first, for a table that is not there cannot be deleted.
        let mut all = vec![table.add(), table.delete(), table.add()];
        all.extend(self.chains());
        for names in [V4, V6] {
            all.extend(sets(table, names));
            let pods: Vec<_> = ranges
                .iter()
                .filter(|range| range.addr().is_ipv4() == (names.family == Family::V4))
                .flat_map(interval)
                .collect();
            all.extend(table.add_elements(names.pods.0, &pods));
        }
        all.extend(self.rules());
        all.extend(on_elements(forwards, |map, elements| {
            table.add_elements(map, elements)
        }));
        socket.ask(nft::transaction(all))
    }

    pub(super) fn add(&self, socket: &Socket, forwards: &[Forward]) -> io::Result<()> {
        let table = Table(&self.table);
        socket.ask(nft::transaction(on_elements(forwards, |map, elements| {
            table.add_elements(map, elements)
        })))
    }

    pub(super) fn remove(&self, socket: &Socket, forwards: &[Forward]) -> io::Result<()> {
        let table = Table(&self.table);
        socket.ask(nft::transaction(on_elements(forwards, |map, elements| {
            table.delete_elements(map, elements)
        })))
    }

    pub(super) fn delete(&self, socket: &Socket) -> io::Result<()> {
        let table = Table(&self.table);
        socket.ask(nft::transaction([table.add(), table.delete()]))
    }

    fn chains(&self) -> Vec<Message> {
        let table = Table(&self.table);
        let nat = |number, priority| {
            Some(Hook {
                kind: "nat",
                number,
                priority,
            })
        };
        let guard = Hook {
            kind: "filter",
            number: PREROUTING,
            priority: RAW,
        };
        vec![
            table.chain("guard", Some(guard)),
            table.chain("ports", None),
            table.chain("prerouting", nat(PREROUTING, DESTINATION_NAT)),
            table.chain("output", nat(OUTPUT, DESTINATION_NAT)),
            table.chain("postrouting", nat(POSTROUTING, SOURCE_NAT)),
        ]
    }

    fn rules(&self) -> Vec<Message> {
        let table = Table(&self.table);
        let bridge = &self.bridge;
        let to_ports = |chain| {
            table.rule(chain, |rule| {
                rule.goes_to_the_host().verdict(Verdict::Jump("ports"))
            })
        };
        let mut all = vec![
            // With the loopback routed to the bridge, a pod could else send to what listens on it alone.
            table.rule("guard", |rule| {
                rule.comes_in_by(bridge)
                    .family(Family::V4)
                    .load_ip(V4.destination, 1, R0)
                    .equals(&[127])
                    .verdict(Verdict::Drop)
            }),
            to_ports("prerouting"),
            to_ports("output"),
        ];
        for names in [V4, V6] {
            all.extend(self.family_rules(names));
        }
        all
    }

    fn family_rules(&self, names: Names) -> Vec<Message> {
        let table = Table(&self.table);
        let bridge = &self.bridge;
        let Names { family, bytes, .. } = names;
        let port_at = R0.after(1).after(bytes);
        let mut all = vec![
            table.rule("ports", |rule| {
                rule.family(family)
                    .load_protocol(R0)
                    .load_ip(names.destination, bytes, R0.after(1))
                    .load_destination_port(port_at)
                    .mapped(names.ports_at.0, names.ports_at.1)
                    .redirect(family)
            }),
            table.rule("ports", |rule| {
                rule.family(family)
                    .load_protocol(R0)
                    .load_destination_port(R0.after(1))
                    .mapped(names.ports.0, names.ports.1)
                    .redirect(family)
            }),
            table.rule("postrouting", |rule| {
                rule.goes_out_by(bridge)
                    .family(family)
                    .load_ip(names.source, bytes, R0)
                    .in_set(names.pods.0, names.pods.1)
                    .was_redirected()
                    .masquerade()
            }),
            table.rule("postrouting", |rule| {
                let rule = rule
                    .family(family)
                    .load_ip(names.source, bytes, R0)
                    .in_set(names.pods.0, names.pods.1)
                    .load_ip(names.destination, bytes, R0)
                    .not_in_set(names.pods.0, names.pods.1)
                    .load_ip(names.destination, 1, R0);
                // Multicast is not translated: 224.0.0.0/4 and ff00::/8.
                let rule = match family {
                    Family::V4 => rule.masked(&[0xf0]).differs(&[0xe0]),
                    Family::V6 => rule.differs(&[0xff]),
                };
                rule.masquerade()
            }),
        ];
        if family == Family::V4 {
            all.push(table.rule("postrouting", |rule| {
                rule.goes_out_by(bridge)
                    .family(family)
                    .load_ip(names.source, 1, R0)
                    .equals(&[127])
                    .masquerade()
            }));
        }
        all
    }
}

fn sets(table: Table<'_>, names: Names) -> [Message; 3] {
    let address = match names.family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    };
    let concat = nft::DataType::concat;
    let pod = concat(&[address, PORT]);
    [
        table.intervals(names.pods.0, address, names.pods.1),
        table.map(names.ports.0, concat(&[PROTOCOL, PORT]), pod, names.ports.1),
        table.map(
            names.ports_at.0,
            concat(&[PROTOCOL, address, PORT]),
            pod,
            names.ports_at.1,
        ),
    ]
}

/// Its first address, and the first behind it where there is one.
fn interval(range: &IpNet) -> Vec<Element> {
    let element = |key, ends_interval| Element {
        key,
        value: None,
        ends_interval,
    };
    let mut all = vec![element(octets(range.network()), false)];
    let behind = match range.broadcast() {
        IpAddr::V4(last) => u32::from(last)
            .checked_add(1)
            .map(|next| next.to_be_bytes().to_vec()),
        IpAddr::V6(last) => u128::from(last)
            .checked_add(1)
            .map(|next| next.to_be_bytes().to_vec()),
    };
    all.extend(behind.map(|key| element(key, true)));
    all
}

/// The elements of each map that the forwards are in.
fn on_elements(forwards: &[Forward], change: impl Fn(&str, &[Element]) -> Vec<Message>) -> Vec<Message> {
    let mut all = Vec::new();
    for names in [V4, V6] {
        let ours: Vec<_> = forwards
            .iter()
            .filter(|forward| forward.pod.is_ipv4() == (names.family == Family::V4))
            .collect();
        for (map, has_address) in [(names.ports.0, false), (names.ports_at.0, true)] {
            let elements: Vec<_> = ours
                .iter()
                .filter(|forward| forward.host_ip.is_some() == has_address)
                .map(|forward| element(forward))
                .collect();
            all.extend(change(map, &elements));
        }
    }
    all
}

fn element(forward: &Forward) -> Element {
    let port = |port: u16| {
        let [high, low] = port.to_be_bytes();
        [high, low, 0, 0]
    };
    let mut key = vec![forward.protocol.number(), 0, 0, 0];
    key.extend(forward.host_ip.map(octets).unwrap_or_default());
    key.extend(port(forward.host_port));
    let mut value = octets(forward.pod);
    value.extend(port(forward.pod_port));
    Element {
        key,
        value: Some(value),
        ends_interval: false,
    }
}
