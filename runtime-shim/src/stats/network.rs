//! The counters of a sandbox's network interfaces (proc(5), /proc/net/dev).

use std::{fs, os::fd::AsFd as _, path::PathBuf};

use clone8s::cri;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::some;

/// None when the namespace is gone.
pub(super) async fn usage(netns: PathBuf, at: i64) -> Option<cri::NetworkUsage> {
    let (reply, done) = tokio::sync::oneshot::channel();
    // A thread of its own, which ends in the other namespace.
    let spawned = std::thread::Builder::new()
        .name("read-network".into())
        .spawn(move || {
            let read = || {
                let namespace = fs::File::open(&netns)?;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                fs::read_to_string("/proc/thread-self/net/dev")
            };
            let _ = reply.send(read());
        });
    spawned.ok()?;
    let text = done.await.ok()?.ok()?;
    let interfaces = parse(&text);
    Some(cri::NetworkUsage {
        timestamp: at,
        default_interface: interfaces
            .iter()
            .find(|interface| interface.name == "eth0")
            .cloned(),
        interfaces,
    })
}

/// Every interface but `lo`.
fn parse(text: &str) -> Vec<cri::NetworkInterfaceUsage> {
    text.lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters
                .split_whitespace()
                .map_while(|word| word.parse().ok())
                .collect();
            let name = name.trim();
            // Received: bytes, packets, errors and five more; then the same of what was sent.
            (name != "lo" && counters.len() >= 11).then(|| cri::NetworkInterfaceUsage {
                name: name.to_owned(),
                rx_bytes: some(counters[0]),
                rx_errors: some(counters[2]),
                tx_bytes: some(counters[8]),
                tx_errors: some(counters[10]),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo\n\
             \x20   lo:     100       1    0    0    0     0          0         0      100       1    0    0    0\n\
             \x20 eth0:    1296      16    2    0    0     0          0         0      516       6    3    0    0     0       0          0\n";
        let interfaces = parse(text);
        assert_eq!(interfaces.len(), 1);
        assert_eq!(interfaces[0].name, "eth0");
        assert_eq!(interfaces[0].rx_bytes, some(1296));
        assert_eq!(interfaces[0].rx_errors, some(2));
        assert_eq!(interfaces[0].tx_bytes, some(516));
        assert_eq!(interfaces[0].tx_errors, some(3));
    }
}
