//! The network of the table's pods.

use std::{fs, process::Command, thread};

use rustix::thread::UnshareFlags;

use crate::{kernel, network::set_loopback_up};

/// The host's port that leads to a pod with a network of its own.
pub(super) const HOST_PORT: u16 = 18_080;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// Which leaves namespaces to pin and nothing to attach.
    Host,
    /// The built-in bridge.
    Own,
}

/// Runs the table on a network where nothing else is, and which goes with it.
pub(super) fn isolated<T: Send + 'static>(table: impl FnOnce() -> T + Send + 'static) -> T {
    let apart = thread::spawn(|| {
        // What it starts from here on, threads and programs, is in this network too.
        kernel::unshare(UnshareFlags::NEWNET).expect("a network of its own");
        set_loopback_up().expect("a loopback");
        table()
    });
    apart
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the calling thread's network has of pods.
pub(super) fn left() -> Vec<String> {
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let names = interfaces.lines().filter_map(|line| line.split_once(':'));
    let mut left: Vec<_> = names
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name.starts_with("c8s") && name != "c8s0")
        .map(|name| format!("interface {name}"))
        .collect();
    let rules = Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .expect("nft runs");
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    let port = HOST_PORT.to_string();
    left.extend(
        rules
            .lines()
            .filter(|line| line.contains(&port))
            .map(str::to_owned),
    );
    left
}
