//! The node's own address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// The address that the node would use to reach others: of the interface with its default route. Without one: 127.0.0.1.
pub fn host_ip() -> IpAddr {
    // TEST-NET-1 (RFC 5737). Connecting a datagram socket chooses a route and sends nothing.
    let elsewhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect(elsewhere)?;
            socket.local_addr()
        })
        .map(|address| address.ip())
        .ok()
        .filter(|address| !address.is_unspecified())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
