//! The bridge, the pods' interfaces, their addresses and routes (rtnetlink(7)).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use ipnet::IpNet;
use rustix::net::netdevice;

use crate::network::netlink::{CREATE, EXCLUSIVE, FAMILY_V4, FAMILY_V6, Message, Socket, attributes};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
pub(super) const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const PORT_STATE: u16 = 1;
const PORT_HAIRPIN: u16 = 4;
const PORT_FLUSH: u16 = 24;
pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;

const AF_BRIDGE: u8 = 7;

/// A pod's interface to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    /// The end on the host.
    pub(super) host: &'a str,
    /// The end in the pod.
    pub(super) pod: &'a str,
    pub(super) mac: [u8; 6],
    pub(super) mtu: Option<u32>,
    pub(super) bridge: u32,
}

/// The number of an interface in the socket's namespace.
pub(super) fn index(socket: &Socket, name: &str) -> io::Result<u32> {
    Ok(netdevice::name_to_index(socket.fd(), name)?)
}

/// Brings up `lo` in the calling thread's network namespace.
pub(crate) fn set_loopback_up() -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    Socket::route()?.ask([Message::new(NEW_LINK, 0, &link(LOOPBACK, IFF_UP))])
}

/// Makes the bridge where it is not there, and brings it up.
pub(super) fn make_bridge(socket: &Socket, name: &str, mac: [u8; 6], mtu: Option<u32>) -> io::Result<u32> {
    let create = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link(0, 0));
    let create = with_mtu(create.text(IFLA_IFNAME, name), mtu)
        // One of its own: else the kernel changes it with the ports that come and go, and pods lose their gateway.
        .bytes(IFLA_ADDRESS, &mac)
        .nest(IFLA_LINKINFO, |info| info.text(INFO_KIND, "bridge"));
    match socket.ask([create]) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let index = index(socket, name)?;
    socket.ask([Message::new(NEW_LINK, 0, &link(index, IFF_UP))])?;
    Ok(index)
}

/// One request makes both ends, the one at the bridge and up, the other in the pod's namespace, where it is brought up
/// once both are there.
pub(super) fn make_pair(socket: &Socket, pair: Pair<'_>, netns: BorrowedFd<'_>) -> io::Result<()> {
    let namespace = u32::try_from(netns.as_raw_fd()).map_err(io::Error::other)?;
    let create = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link(0, IFF_UP)).text(IFLA_IFNAME, pair.host);
    let create = with_mtu(create, pair.mtu)
        .u32(IFLA_MASTER, pair.bridge)
        .nest(IFLA_LINKINFO, |info| {
            info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    let peer = peer.raw(&link(0, 0)).text(IFLA_IFNAME, pair.pod);
                    with_mtu(peer, pair.mtu)
                        .bytes(IFLA_ADDRESS, &pair.mac)
                        .u32(IFLA_NET_NS_FD, namespace)
                })
            })
        });
    // Where the host's bridges pass through netfilter, a pod reaches itself by a host port only so.
    let hairpin = Message::new(NEW_LINK, 0, &link(0, 0))
        .text(IFLA_IFNAME, pair.host)
        .nest(IFLA_LINKINFO, |info| {
            info.nest(INFO_SLAVE_DATA, |port| port.bytes(PORT_HAIRPIN, &[1]))
        });
    socket.ask([create, hairpin])
}

/// Nothing passes the port any more, and the bridge forgets who was behind it.
pub(super) fn close_port(socket: &Socket, host: &str) -> io::Result<()> {
    const DISABLED: u8 = 0;
    let index = match index(socket, host) {
        Err(error) if is_gone(&error) => return Ok(()),
        other => other?,
    };
    let mut header = link(index, 0);
    header[0] = AF_BRIDGE;
    // Not by a change of the link, as hairpin mode is set: that tells the bridge to look at the port again, which
    // would enable it.
    let close = Message::new(SET_LINK, 0, &header).nest(IFLA_PROTINFO, |port| {
        port.bytes(PORT_STATE, &[DISABLED]).bytes(PORT_FLUSH, &[])
    });
    gone_is_done(socket.ask([close]))
}

pub(super) fn remove(socket: &Socket, name: &str) -> io::Result<()> {
    let remove = Message::new(DELETE_LINK, 0, &link(0, 0)).text(IFLA_IFNAME, name);
    gone_is_done(socket.ask([remove]))
}

/// Brings an interface up, with addresses and with routes to everywhere by their gateways.
pub(super) fn configure(
    socket: &Socket,
    interface: u32,
    addresses: impl IntoIterator<Item = (IpNet, IpAddr)>,
) -> io::Result<()> {
    let up = Message::new(NEW_LINK, 0, &link(interface, IFF_UP));
    let more = addresses.into_iter().flat_map(|(address, gateway)| {
        [
            address_message(NEW_ADDRESS, CREATE | EXCLUSIVE, interface, address),
            default_route(interface, gateway),
        ]
    });
    socket.ask(std::iter::once(up).chain(more))
}

/// Gives the bridge an address. One that it has already stays.
pub(super) fn add_address(socket: &Socket, interface: u32, address: IpNet) -> io::Result<()> {
    match socket.ask([address_message(
        NEW_ADDRESS,
        CREATE | EXCLUSIVE,
        interface,
        address,
    )]) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn remove_address(socket: &Socket, interface: u32, address: IpNet) -> io::Result<()> {
    match socket.ask([address_message(DELETE_ADDRESS, 0, interface, address)]) {
        Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => Err(error),
        _ => Ok(()),
    }
}

/// The addresses of an interface, without those that the kernel has made up.
pub(super) fn addresses(socket: &Socket, interface: u32) -> io::Result<Vec<IpNet>> {
    let found = socket.list(Message::new(GET_ADDRESS, 0, &[0; 8]))?;
    let read = |message: &Vec<u8>| {
        let header = message.first_chunk::<8>()?;
        let of = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let (_, bytes) = attributes(&message[8..]).find(|(kind, _)| *kind == IFA_ADDRESS)?;
        let address = IpNet::new(address(bytes)?, header[1]).ok()?;
        let made_up = matches!(address, IpNet::V6(address) if address.addr().is_unicast_link_local());
        (of == interface && !made_up).then_some(address)
    };
    Ok(found.iter().filter_map(read).collect())
}

/// The interfaces at a bridge.
pub(super) fn ports(socket: &Socket, bridge: u32) -> io::Result<Vec<String>> {
    let found = socket.list(Message::new(GET_LINK, 0, &link(0, 0)))?;
    let read = |message: &Vec<u8>| {
        let of = |wanted| {
            attributes(message.get(16..)?).find_map(|(kind, value)| (kind == wanted).then_some(value))
        };
        let name = of(IFLA_IFNAME)?.strip_suffix(&[0])?;
        (of(IFLA_MASTER)? == bridge.to_ne_bytes()).then(|| String::from_utf8_lossy(name).into_owned())
    };
    Ok(found.iter().filter_map(read).collect())
}

/// The largest packet of the interface with the host's default route: what a pod sends goes out by it.
pub(super) fn uplink_mtu() -> Option<u32> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let uplink = routes.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let interface = words.next()?;
        (words.next()? == "00000000").then_some(interface)
    })?;
    let mtu = fs::read_to_string(format!("/sys/class/net/{uplink}/mtu")).ok()?;
    // Below this IPv6 does not work; above it no uplink of a loopback's kind is meant.
    mtu.trim().parse().ok().filter(|mtu| (1280..=9216).contains(mtu))
}

fn with_mtu(message: Message, mtu: Option<u32>) -> Message {
    match mtu {
        Some(mtu) => message.u32(IFLA_MTU, mtu),
        None => message,
    }
}

/// `struct ifinfomsg`: family, padding, type, index, flags, which flags to change.
fn link(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn address_message(kind: u16, flags: u16, interface: u32, address: IpNet) -> Message {
    const IFA_BROADCAST: u16 = 4;
    /// Its range is this shim's alone, so nobody else can have it.
    const NO_DUPLICATE_DETECTION: u8 = 2;
    // `struct ifaddrmsg`: family, prefix, flags, scope, interface.
    let mut header = [0; 8];
    header[0] = family(address.addr());
    header[1] = address.prefix_len();
    if address.addr().is_ipv6() {
        header[2] = NO_DUPLICATE_DETECTION;
    }
    header[4..].copy_from_slice(&interface.to_ne_bytes());
    let octets = octets(address.addr());
    let message = Message::new(kind, flags, &header)
        .bytes(IFA_LOCAL, &octets)
        .bytes(IFA_ADDRESS, &octets);
    match address {
        IpNet::V4(range) => message.bytes(IFA_BROADCAST, &range.broadcast().octets()),
        IpNet::V6(_) => message,
    }
}

fn default_route(interface: u32, gateway: IpAddr) -> Message {
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const MAIN_TABLE: u8 = 254;
    const PROTOCOL_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    // `struct rtmsg`: family, prefixes of destination and source, tos, table, protocol, scope, type, flags.
    let header = [
        family(gateway),
        0,
        0,
        0,
        MAIN_TABLE,
        PROTOCOL_BOOT,
        0,
        UNICAST,
        0,
        0,
        0,
        0,
    ];
    Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &header)
        .u32(RTA_OIF, interface)
        .bytes(RTA_GATEWAY, &octets(gateway))
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets)
        .ok()
        .map(|octets| Ipv6Addr::from(octets).into())
}

fn gone_is_done(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}
