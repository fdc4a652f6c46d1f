//! nf_tables as the kernel takes it (linux/netfilter/nf_tables.h).
//!
//! The words are those of nft(8), so that `nft list table` shows what a reader of [`super::rules`] expects.

use crate::network::netlink::{APPEND, CREATE, EXCLUSIVE, FAMILY_V4, FAMILY_V6, Message};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_REGISTER: u32 = 0;

const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const ELEMENT_INTERVAL_END: u32 = 1;
/// An attribute holds 64 KiB: this many elements at a time, the longest of which takes 80 bytes.
const ELEMENTS_AT_ONCE: usize = 500;

/// Registers of four bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Register(u32);

/// The first of them.
pub(super) const R0: Register = Register(8);

impl Register {
    /// The one after a value of so many bytes.
    pub(super) const fn after(self, bytes: u32) -> Self {
        Self(self.0 + bytes.div_ceil(4))
    }
}

/// Where a chain that is not only jumped to is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    /// `nat` or `filter`.
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

pub(super) const PREROUTING: u32 = 0;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;

/// The types of a set's keys and a map's values: what `nft list` shows them as, and their bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataType {
    id: u32,
    bytes: u32,
}

pub(super) const IPV4: DataType = DataType { id: 7, bytes: 4 };
pub(super) const IPV6: DataType = DataType { id: 8, bytes: 16 };
pub(super) const PROTOCOL: DataType = DataType { id: 12, bytes: 1 };
pub(super) const PORT: DataType = DataType { id: 13, bytes: 2 };

impl DataType {
    /// Several in one, each at a multiple of four bytes.
    pub(super) fn concat(parts: &[Self]) -> Self {
        Self {
            id: parts.iter().fold(0, |id, part| id << 6 | part.id),
            bytes: parts.iter().map(|part| part.bytes.next_multiple_of(4)).sum(),
        }
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    /// The first key behind an interval.
    pub(super) ends_interval: bool,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    Drop,
    Jump(&'a str),
}

/// A packet of an address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::V4 => FAMILY_V4,
            Self::V6 => FAMILY_V6,
        }
    }
}

/// A table for both families of addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a>(pub(super) &'a str);

/// All of it or nothing, and nobody sees a part.
pub(super) fn transaction(messages: impl IntoIterator<Item = Message>) -> Vec<Message> {
    let edge = |kind| {
        // `struct nfgenmsg`: family, version, the subsystem.
        Message::new(kind, 0, &[0, 0, 0, SUBSYSTEM.to_be_bytes()[1]]).unacknowledged()
    };
    let mut all = vec![edge(BATCH_BEGIN)];
    all.extend(messages);
    all.push(edge(BATCH_END));
    all
}

pub(super) fn message(kind: u16, flags: u16) -> Message {
    const INET: u8 = 1;
    Message::new(SUBSYSTEM << 8 | kind, flags, &[INET, 0, 0, 0])
}

impl Table<'_> {
    pub(super) fn add(self) -> Message {
        message(NEW_TABLE, CREATE).text(1, self.0).be32(2, 0)
    }

    pub(super) fn delete(self) -> Message {
        message(DELETE_TABLE, 0).text(1, self.0)
    }

    pub(super) fn chain(self, name: &str, hook: Option<Hook>) -> Message {
        const ACCEPT: u32 = 1;
        let chain = message(NEW_CHAIN, CREATE).text(1, self.0).text(3, name);
        let Some(hook) = hook else { return chain };
        chain
            .nest(4, |at| {
                at.be32(1, hook.number).bytes(2, &hook.priority.to_be_bytes())
            })
            .be32(5, ACCEPT)
            .text(7, hook.kind)
    }

    pub(super) fn rule(self, chain: &str, rule: impl FnOnce(Rule) -> Rule) -> Message {
        message(NEW_RULE, CREATE | APPEND)
            .text(1, self.0)
            .text(2, chain)
            .nest(4, |list| rule(Rule(list)).0)
    }

    /// A set of ranges.
    pub(super) fn intervals(self, name: &str, key: DataType, id: u32) -> Message {
        self.set(name, SET_INTERVAL, key, id)
    }

    pub(super) fn map(self, name: &str, key: DataType, value: DataType, id: u32) -> Message {
        self.set(name, SET_MAP, key, id)
            .be32(6, value.id)
            .be32(7, value.bytes)
    }

    fn set(self, name: &str, flags: u32, key: DataType, id: u32) -> Message {
        message(NEW_SET, CREATE | EXCLUSIVE)
            .text(1, self.0)
            .text(2, name)
            .be32(3, flags)
            .be32(4, key.id)
            .be32(5, key.bytes)
            .be32(10, id)
    }

    pub(super) fn add_elements(self, set: &str, elements: &[Element]) -> Vec<Message> {
        self.elements(NEW_ELEMENTS, CREATE, set, elements)
    }

    pub(super) fn delete_elements(self, set: &str, elements: &[Element]) -> Vec<Message> {
        self.elements(DELETE_ELEMENTS, 0, set, elements)
    }

    fn elements(self, kind: u16, flags: u16, set: &str, elements: &[Element]) -> Vec<Message> {
        let some = elements.chunks(ELEMENTS_AT_ONCE).map(|elements| {
            message(kind, flags)
                .text(1, self.0)
                .text(2, set)
                .nest(3, |list| elements.iter().fold(list, element))
        });
        some.collect()
    }
}

fn element(list: Message, element: &Element) -> Message {
    list.nest(LIST_ELEMENT, |entry| {
        let entry = entry.nest(1, |key| key.bytes(DATA_VALUE, &element.key));
        let entry = match &element.value {
            Some(value) => entry.nest(2, |data| data.bytes(DATA_VALUE, value)),
            None => entry,
        };
        if element.ends_interval {
            entry.be32(3, ELEMENT_INTERVAL_END)
        } else {
            entry
        }
    })
}

/// The expressions of a rule, in order; one that does not match ends it.
#[derive(Debug)]
pub(super) struct Rule(Message);

impl Rule {
    fn expression(self, name: &str, fill: impl FnOnce(Message) -> Message) -> Self {
        Self(self.0.nest(LIST_ELEMENT, |expression| {
            expression.text(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill)
        }))
    }

    fn meta(self, key: u32, to: Register) -> Self {
        self.expression("meta", |meta| meta.be32(1, to.0).be32(2, key))
    }

    fn compare(self, operator: u32, register: Register, value: &[u8]) -> Self {
        self.expression("cmp", |cmp| {
            cmp.be32(1, register.0)
                .be32(2, operator)
                .nest(3, |data| data.bytes(DATA_VALUE, value))
        })
    }

    pub(super) fn equals(self, value: &[u8]) -> Self {
        self.compare(0, R0, value)
    }

    pub(super) fn differs(self, value: &[u8]) -> Self {
        self.compare(1, R0, value)
    }

    /// `iifname`.
    pub(super) fn comes_in_by(self, interface: &str) -> Self {
        self.meta(6, R0).equals(&interface_name(interface))
    }

    /// `oifname`.
    pub(super) fn goes_out_by(self, interface: &str) -> Self {
        self.meta(7, R0).equals(&interface_name(interface))
    }

    /// `meta nfproto`.
    pub(super) fn family(self, family: Family) -> Self {
        self.meta(15, R0).equals(&[family.number()])
    }

    /// `meta l4proto`.
    pub(super) fn load_protocol(self, to: Register) -> Self {
        self.meta(16, to)
    }

    /// Bytes of the IP header.
    pub(super) fn load_ip(self, offset: u32, bytes: u32, to: Register) -> Self {
        self.payload(1, offset, bytes, to)
    }

    /// `th dport`.
    pub(super) fn load_destination_port(self, to: Register) -> Self {
        self.payload(2, 2, 2, to)
    }

    fn payload(self, base: u32, offset: u32, bytes: u32, to: Register) -> Self {
        self.expression("payload", |payload| {
            payload.be32(1, to.0).be32(2, base).be32(3, offset).be32(4, bytes)
        })
    }

    /// `& mask`, of the first register.
    pub(super) fn masked(self, mask: &[u8]) -> Self {
        let bytes = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.expression("bitwise", |bitwise| {
            bitwise
                .be32(1, R0.0)
                .be32(2, R0.0)
                .be32(3, bytes)
                .nest(4, |data| data.bytes(DATA_VALUE, mask))
                .nest(5, |data| data.bytes(DATA_VALUE, &vec![0; mask.len()]))
        })
    }

    /// `ct status dnat`.
    pub(super) fn was_redirected(self) -> Self {
        const STATUS: u32 = 2;
        const DNAT: u32 = 1 << 5;
        self.expression("ct", |ct| ct.be32(1, R0.0).be32(2, STATUS))
            .masked(&DNAT.to_ne_bytes())
            .differs(&[0; 4])
    }

    /// `fib daddr type local`.
    pub(super) fn goes_to_the_host(self) -> Self {
        const ADDRESS_TYPE: u32 = 3;
        const OF_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.expression("fib", |fib| {
            fib.be32(1, R0.0).be32(2, ADDRESS_TYPE).be32(3, OF_DESTINATION)
        })
        .equals(&LOCAL.to_ne_bytes())
    }

    /// Whether the first register is in a set.
    pub(super) fn in_set(self, set: &str, id: u32) -> Self {
        self.expression("lookup", |lookup| lookup.text(1, set).be32(2, R0.0).be32(4, id))
    }

    pub(super) fn not_in_set(self, set: &str, id: u32) -> Self {
        const INVERTED: u32 = 1;
        self.expression("lookup", |lookup| {
            lookup.text(1, set).be32(2, R0.0).be32(4, id).be32(5, INVERTED)
        })
    }

    /// Replaces the first register, and those after it, with what a map has for it.
    pub(super) fn mapped(self, map: &str, id: u32) -> Self {
        self.expression("lookup", |lookup| {
            lookup.text(1, map).be32(2, R0.0).be32(3, R0.0).be32(4, id)
        })
    }

    /// `dnat to`, the address and port of the first registers.
    pub(super) fn redirect(self, family: Family) -> Self {
        const DNAT: u32 = 1;
        let port = match family {
            Family::V4 => R0.after(4),
            Family::V6 => R0.after(16),
        };
        self.expression("nat", |nat| {
            nat.be32(1, DNAT)
                .be32(2, family.number().into())
                .be32(3, R0.0)
                .be32(5, port.0)
        })
    }

    /// `masquerade fully-random`: with the next free port, two connections at one time can be given the same.
    pub(super) fn masquerade(self) -> Self {
        const FULLY_RANDOM: u32 = 1 << 4;
        self.expression("masq", |masq| masq.be32(1, FULLY_RANDOM))
    }

    pub(super) fn verdict(self, verdict: Verdict<'_>) -> Self {
        const DROP: u32 = 0;
        const JUMP: u32 = 0u32.wrapping_sub(3);
        self.expression("immediate", |immediate| {
            immediate.be32(1, VERDICT_REGISTER).nest(2, |data| {
                data.nest(DATA_VERDICT, |code| match verdict {
                    Verdict::Drop => code.be32(1, DROP),
                    Verdict::Jump(chain) => code.be32(1, JUMP).text(2, chain),
                })
            })
        })
    }
}

/// As long as the kernel's own.
fn interface_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}
