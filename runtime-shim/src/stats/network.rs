//! The counters of sandboxes' network interfaces (proc(5), /proc/net/dev).

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use clone8s::cri;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::some;

/// The main interface of a pod.
const DEFAULT: &str = "eth0";

/// The counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) received: Counters,
    pub(super) sent: Counters,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// Every interface but `lo` of each namespace; none for a namespace that is gone.
pub(super) async fn interfaces(namespaces: Vec<PathBuf>) -> Vec<Option<Vec<Interface>>> {
    let count = namespaces.len();
    let (reply, done) = tokio::sync::oneshot::channel();
    // One thread of its own for all of them, which ends in the last: a thread of the async runtime must stay at home.
    let spawned = std::thread::Builder::new()
        .name("read-network".into())
        .spawn(move || {
            let all: Vec<_> = namespaces.iter().map(PathBuf::as_path).map(read).collect();
            let _ = reply.send(all);
        });
    match spawned {
        Ok(_) => done.await.unwrap_or_else(|_| vec![None; count]),
        Err(_) => vec![None; count],
    }
}

/// Leaves the calling thread in the namespace.
fn read(path: &Path) -> Option<Vec<Interface>> {
    let namespace = fs::File::open(path).ok()?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
    Some(parse(&fs::read_to_string("/proc/thread-self/net/dev").ok()?))
}

pub(super) fn usage(interfaces: &[Interface], at: i64) -> cri::NetworkUsage {
    let interfaces: Vec<_> = interfaces
        .iter()
        .map(|interface| cri::NetworkInterfaceUsage {
            name: interface.name.clone(),
            rx_bytes: some(interface.received.bytes),
            rx_errors: some(interface.received.errors),
            tx_bytes: some(interface.sent.bytes),
            tx_errors: some(interface.sent.errors),
        })
        .collect();
    cri::NetworkUsage {
        timestamp: at,
        default_interface: interfaces
            .iter()
            .find(|interface| interface.name == DEFAULT)
            .cloned(),
        interfaces,
    }
}

fn parse(text: &str) -> Vec<Interface> {
    text.lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters
                .split_whitespace()
                .map_while(|word| word.parse().ok())
                .collect();
            let name = name.trim();
            // Received: bytes, packets, errors, dropped and four more; then the same of what was sent.
            let of = |at: usize| Counters {
                bytes: counters[at],
                packets: counters[at + 1],
                errors: counters[at + 2],
                dropped: counters[at + 3],
            };
            (name != "lo" && counters.len() >= 12).then(|| Interface {
                name: name.to_owned(),
                received: of(0),
                sent: of(8),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo\n\
             \x20   lo:     100       1    0    0    0     0          0         0      100       1    0    0    0\n\
             \x20 eth0:    1296      16    2    1    0     0          0         0      516       6    3    4    0     0       0          0\n";

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let interfaces = parse(TEXT);
        assert_eq!(interfaces.len(), 1);
        let eth0 = &interfaces[0];
        assert_eq!(eth0.name, "eth0");
        let counters = |bytes, packets, errors, dropped| Counters {
            bytes,
            packets,
            errors,
            dropped,
        };
        assert_eq!(eth0.received, counters(1296, 16, 2, 1));
        assert_eq!(eth0.sent, counters(516, 6, 3, 4));
    }

    #[test]
    fn the_default_interface_is_one_of_all() {
        let usage = usage(&parse(TEXT), 7);
        assert_eq!(usage.default_interface.as_ref(), usage.interfaces.first());
        assert_eq!(usage.interfaces[0].tx_errors, some(3));
    }

    #[tokio::test]
    async fn a_namespace_that_is_gone_leaves_the_others_their_counters() {
        let namespaces = vec![PathBuf::from("/absent"), PathBuf::from("/proc/self/ns/net")];
        let read = interfaces(namespaces).await;
        assert!(read[0].is_none());
        assert!(read[1].is_some());
    }
}
