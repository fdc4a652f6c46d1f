//! A limit of what an interface sends (tc-tbf(8)).

use std::io;

use crate::network::netlink::{CREATE, EXCLUSIVE, Message, Socket};

const NEW_QDISC: u16 = 36;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE: u16 = 4;
const TBF_BURST: u16 = 6;

/// So many bits a second at most, with bursts of what passes in a fiftieth of a second. A packet that would wait for
/// longer than that is dropped.
pub(super) fn limit(socket: &Socket, interface: u32, bits_per_second: u64) -> io::Result<()> {
    /// The largest packet that a pod gives to its interface at one time.
    const LARGEST_PACKET: u64 = 64 << 10;
    const ETHERNET: u8 = 1;

    let rate = bits_per_second.div_ceil(8);
    let burst = u32::try_from((rate / 50).max(LARGEST_PACKET)).unwrap_or(u32::MAX);
    let limit = burst.saturating_mul(2);
    // `struct tcmsg`: family, interface, handle, parent, info.
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    header[8..12].copy_from_slice(&0x1_0000u32.to_ne_bytes());
    header[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
    // `struct tc_tbf_qopt`: rate and peak rate (each of link layer, overheads and bytes a second), limit, buffer, mtu.
    let mut parameters = [0; 36];
    parameters[1] = ETHERNET;
    let rate_32 = u32::try_from(rate).unwrap_or(u32::MAX);
    parameters[8..12].copy_from_slice(&rate_32.to_ne_bytes());
    parameters[24..28].copy_from_slice(&limit.to_ne_bytes());
    let qdisc = Message::new(NEW_QDISC, CREATE | EXCLUSIVE, &header)
        .text(KIND, "tbf")
        .nest(OPTIONS, |options| {
            options
                .bytes(TBF_PARAMETERS, &parameters)
                .bytes(TBF_RATE, &rate.to_ne_bytes())
                .u32(TBF_BURST, burst)
        });
    socket.ask([qdisc])
}
