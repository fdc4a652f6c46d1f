//! Kernel parameters without which a host does not pass on its pods' packets.

use std::{fs, io, path::Path};

/// Forwards IPv4, and lets the host's loopback reach pods by the host's ports.
pub(super) fn forward_v4(bridge: &str) -> io::Result<()> {
    set(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")?;
    // The table's chain `guard` shuts out what this alone would let in.
    set(
        &Path::new("/proc/sys/net/ipv4/conf")
            .join(bridge)
            .join("route_localnet"),
        "1",
    )
}

pub(super) fn forward_v6() -> io::Result<()> {
    let all = Path::new("/proc/sys/net/ipv6/conf");
    let forwarding = all.join("all/forwarding");
    if read(&forwarding)? == "1" {
        return Ok(());
    }
    // A host that forwards stops to learn its own routes from routers, unless it is told to go on (value 2).
    for interface in fs::read_dir(all)?.flatten() {
        let learns = interface.path().join("accept_ra");
        if read(&learns).is_ok_and(|value| value == "1") {
            set(&learns, "2")?;
        }
    }
    set(&forwarding, "1")
}

fn read(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path).map_err(|error| named(path, &error))?;
    Ok(text.trim().to_owned())
}

/// Writes only what differs: in a container these files may be read-only, and right.
fn set(path: &Path, value: &str) -> io::Result<()> {
    if read(path)? == value {
        return Ok(());
    }
    fs::write(path, value).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
