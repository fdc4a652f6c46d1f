//! The kernel calls behind a sandbox's namespaces.

use std::{io, path::Path};

use rustix::{
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
    thread::UnshareFlags,
};

/// `NSFS_MAGIC` of linux/magic.h: the file system of pinned namespaces.
const NSFS: i64 = 0x6e73_6673;

/// Moves the calling thread into new namespaces. The thread must not do anything else afterwards.
pub(super) fn enter_new(net_and_uts: bool, ipc: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    if net_and_uts {
        flags |= UnshareFlags::NEWNET | UnshareFlags::NEWUTS;
    }
    if ipc {
        flags |= UnshareFlags::NEWIPC;
    }
    crate::kernel::unshare(flags)
}

const RTM_NEWLINK: u16 = 16;

/// Brings up `lo` in the calling thread's network namespace.
pub(super) fn set_loopback_up() -> io::Result<()> {
    const LOOPBACK_INDEX: u32 = 1;
    const IFF_UP: u32 = 1;
    change_link(RTM_NEWLINK, LOOPBACK_INDEX, IFF_UP)
}

/// One request to the kernel about a network interface, and its answer (rtnetlink(7)).
fn change_link(request: u16, index: u32, flags: u32) -> io::Result<()> {
    const REQUEST_WITH_ACK: u16 = 1 | 4;
    const ERROR: u16 = 2;

    // No protocol is number 0, which is NETLINK_ROUTE.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut message = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, port.
    message.extend(32u32.to_ne_bytes());
    message.extend(request.to_ne_bytes());
    message.extend(REQUEST_WITH_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and type, index, flags, which flags to change.
    message.extend([0; 4]);
    message.extend(index.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    send(&socket, &message, SendFlags::empty())?;

    let mut answer = [0u8; 256];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if length < 20 || kind != ERROR {
        return Err(io::Error::other(
            "an unexpected answer from the kernel to a change of an interface",
        ));
    }
    // An acknowledgement is an error of code 0.
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// Whether a path is a pinned namespace and not the empty file below it.
pub(crate) fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == NSFS)
}
