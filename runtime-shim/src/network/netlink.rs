//! netlink(7): requests to the kernel's tables of links, addresses and routes, and to nf_tables.
//!
//! Both by one small writer of messages: the crates that speak nf_tables run the `nft` program, need a C library, or
//! bind by the GPL. A pod's start waits for this, so several requests go in one system call.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
        sockopt,
    },
};

pub(super) const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;

/// Families of addresses, here and in nf_tables.
pub(super) const FAMILY_V4: u8 = 2;
pub(super) const FAMILY_V6: u8 = 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
/// Rules of thousands of host ports are replaced in one message.
const SEND_BUFFER: usize = 4 << 20;

/// One request: a header of its kind, then attributes.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    acknowledged: bool,
}

impl Message {
    /// `flags` beside REQUEST; `header` is what the kind has in front of its attributes.
    pub(super) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        let acknowledged = true;
        Self { bytes, acknowledged }.raw(header)
    }

    /// Kernels differ on whether they answer this one when all is well.
    pub(super) fn unacknowledged(mut self) -> Self {
        self.acknowledged = false;
        self
    }

    /// Bytes without an attribute's header.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.align();
        self
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(value)
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// As nf_tables wants its numbers.
    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Attributes within an attribute.
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn flags_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[6..8]
    }

    fn finish(&mut self, sequence: u32, more_flags: u16) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16_at(&self.bytes, 6) | more_flags;
        self.flags_mut().copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// The network namespace of the thread that opens it is the one that it speaks of, wherever it goes later.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Links, addresses and routes.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// nf_tables and connection tracking.
    pub(super) fn netfilter() -> io::Result<Self> {
        let socket = Self::open(Some(netlink::NETFILTER))?;
        // The plain setting is capped by a sysctl; root passes over it.
        sockopt::set_socket_send_buffer_size_force(&socket.0, SEND_BUFFER)?;
        Ok(socket)
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Self> {
        // No protocol is number 0, which is NETLINK_ROUTE.
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self(socket))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Sends the requests in one system call; the first refusal.
    ///
    /// The kernel works on them within that call, so that its answers are there when it returns.
    pub(super) fn ask(&self, messages: impl IntoIterator<Item = Message>) -> io::Result<()> {
        let mut all = Vec::new();
        let mut last = 0;
        for (mut message, sequence) in messages.into_iter().zip(1..) {
            message.finish(sequence, if message.acknowledged { ACK } else { 0 });
            all.append(&mut message.bytes);
            if message.acknowledged {
                last = sequence;
            }
        }
        if all.is_empty() {
            return Ok(());
        }
        send(&self.0, &all, SendFlags::empty())?;
        let mut answered = 0;
        let mut outcome = Ok(());
        self.answers(RecvFlags::DONTWAIT, |kind, sequence, body| {
            if kind == ERROR && body.len() >= 4 {
                let code = i32::from_ne_bytes([body[0], body[1], body[2], body[3]]);
                answered = answered.max(sequence);
                if code != 0 && outcome.is_ok() {
                    outcome = Err(io::Error::from_raw_os_error(-code));
                }
            }
            true
        })?;
        outcome?;
        if answered < last {
            return Err(io::Error::other("the kernel has not answered a netlink request"));
        }
        Ok(())
    }

    /// Everything that a request for a list finds: the bodies after their message headers.
    pub(super) fn list(&self, mut message: Message) -> io::Result<Vec<Vec<u8>>> {
        message.finish(1, DUMP);
        send(&self.0, &message.bytes, SendFlags::empty())?;
        let mut found = Vec::new();
        let mut outcome = Ok(());
        self.answers(RecvFlags::empty(), |kind, _, body| match kind {
            DONE => false,
            ERROR => {
                let code = body
                    .first_chunk()
                    .map_or(libc_eio(), |code| -i32::from_ne_bytes(*code));
                outcome = Err(io::Error::from_raw_os_error(code));
                false
            }
            _ => {
                found.push(body.to_vec());
                true
            }
        })?;
        outcome.map(|()| found)
    }

    /// Reads messages until there are none, or until one is told to be the last.
    fn answers(&self, flags: RecvFlags, mut each: impl FnMut(u16, u32, &[u8]) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = match recv(&self.0, &mut buffer[..], flags) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..length.min(buffer.len())];
            while rest.len() >= HEADER {
                let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if size < HEADER || size > rest.len() {
                    break;
                }
                let sequence = u32::from_ne_bytes([rest[8], rest[9], rest[10], rest[11]]);
                if !each(u16_at(rest, 4), sequence, &rest[HEADER..size]) {
                    return Ok(());
                }
                rest = &rest[size.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// The attributes in a part of a message: kind and value.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let length = usize::from(u16_at(rest, 0));
        if length < 4 || length > rest.len() {
            return None;
        }
        let attribute = (u16_at(rest, 2) & !NESTED, &rest[4..length]);
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(attribute)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// For an answer that is cut short.
fn libc_eio() -> i32 {
    Errno::IO.raw_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_written() {
        let message = Message::new(16, 0, &[7; 3])
            .text(3, "eth0")
            .nest(18, |inner| inner.u32(1, 9).bytes(2, &[1]));
        let all: Vec<_> = attributes(&message.bytes[HEADER + 4..]).collect();
        assert_eq!(all[0], (3, &b"eth0\0"[..]));
        assert_eq!(all[1].0, 18);
        let inner: Vec<_> = attributes(all[1].1).collect();
        assert_eq!(inner, [(1, &9u32.to_ne_bytes()[..]), (2, &[1][..])]);
        assert_eq!(message.bytes.len() % 4, 0);
    }

    #[test]
    fn a_cut_attribute_ends_the_list() {
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn a_refusal_is_the_kernels_error() {
        // DELLINK of an interface that no host has.
        let message = Message::new(17, 0, &[0; 16]).text(3, "no-such-link");
        let error = Socket::route().unwrap().ask([message]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }
}
