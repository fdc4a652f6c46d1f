//! Connections that the kernel tracks (ctnetlink), where they outlive what they were made for.

use std::{collections::HashSet, io, net::IpAddr};

use super::links::{GET_ADDRESS, IFA_ADDRESS, IFA_LOCAL, address};
use super::ports::{Forward, Protocol};
use crate::network::netlink::{FAMILY_V4, FAMILY_V6, Message, Socket, attributes};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

/// Forgets what was sent to UDP ports of the host that lead elsewhere from now on.
///
/// UDP has no end of a connection: a client that goes on sending from one port would reach for ever where its first
/// packet went, a pod that is gone or the host.
pub(super) fn forget(netfilter: &Socket, route: &Socket, forwards: &[Forward]) -> io::Result<()> {
    let ours: Vec<_> = forwards
        .iter()
        .filter(|forward| forward.protocol == Protocol::Udp)
        .collect();
    if ours.is_empty() {
        return Ok(());
    }
    let host = host_addresses(route)?;
    for family in [FAMILY_V4, FAMILY_V6] {
        for found in netfilter.list(Message::new(SUBSYSTEM << 8 | GET, 0, &[family, 0, 0, 0]))? {
            let Some(flow) = found.get(4..).and_then(read) else {
                continue;
            };
            let for_host = flow.destination.is_loopback() || host.contains(&flow.destination);
            let is_ours = |forward: &&Forward| {
                forward.host_port == flow.port
                    && forward.host_ip.is_none_or(|address| address == flow.destination)
            };
            if flow.protocol != Protocol::Udp.number() || !for_host || !ours.iter().any(is_ours) {
                continue;
            }
            let delete = Message::new(SUBSYSTEM << 8 | DELETE, 0, &[family, 0, 0, 0])
                .nest(TUPLE_ORIGINAL, |tuple| tuple.raw(flow.tuple));
            match netfilter.ask([delete]) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Where the first packet of a connection went.
#[derive(Debug, PartialEq, Eq)]
struct Flow<'a> {
    protocol: u8,
    destination: IpAddr,
    port: u16,
    /// As the kernel names it.
    tuple: &'a [u8],
}

fn read(message: &[u8]) -> Option<Flow<'_>> {
    let tuple = value(message, TUPLE_ORIGINAL)?;
    let ip = value(tuple, TUPLE_IP)?;
    let destination = attributes(ip).find_map(|(kind, bytes)| match kind {
        2 => address(bytes).filter(IpAddr::is_ipv4),
        4 => address(bytes).filter(IpAddr::is_ipv6),
        _ => None,
    })?;
    let protocol = value(tuple, TUPLE_PROTOCOL)?;
    Some(Flow {
        protocol: *value(protocol, 1)?.first()?,
        destination,
        port: u16::from_be_bytes(*value(protocol, 3)?.first_chunk()?),
        tuple,
    })
}

fn host_addresses(route: &Socket) -> io::Result<HashSet<IpAddr>> {
    let found = route.list(Message::new(GET_ADDRESS, 0, &[0; 8]))?;
    let addresses = found.iter().filter_map(|message| {
        let message = message.get(8..)?;
        // Local where there is one: the other is the far end of a link of two.
        address(value(message, IFA_LOCAL).or_else(|| value(message, IFA_ADDRESS))?)
    });
    Ok(addresses.collect())
}

fn value(message: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(message).find_map(|(kind, bytes)| (kind == wanted).then_some(bytes))
}
