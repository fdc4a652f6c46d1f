//! The files of `/etc` that a sandbox gives to its containers.

use std::{fmt::Write as _, fs, io, net::IpAddr, path::Path};

use clone8s::cri::{self, DnsConfig};

use super::config;
use crate::{
    error::{Error, Result},
    pins::{SandboxDir, Wanted},
    record::SandboxDetail,
};

/// Writes them to the sandbox's folder.
pub(super) fn write(
    dir: &SandboxDir,
    wanted: Wanted,
    config: &cri::PodSandboxConfig,
    detail: &SandboxDetail,
) -> Result<()> {
    let name = config::hostname(config);
    let root = config::user_mappings(config)?.and_then(|mappings| mappings.root());
    let read = |path: &str| host_file(Path::new(path)).map_err(Error::file("read", path));
    let hosts = if wanted.net {
        hosts(&name, detail.addresses())
    } else {
        read("/etc/hosts")?
    };
    let resolv_conf = match &config.dns_config {
        Some(dns) if *dns != DnsConfig::default() => resolv_conf(dns),
        _ => {
            let own = read("/etc/resolv.conf")?;
            if wanted.net && asks_only_itself(&own) {
                // What the host's own resolver asks: in the pod there is none on the loopback.
                match read("/run/systemd/resolve/resolv.conf")? {
                    upstream if upstream.is_empty() => own,
                    upstream => upstream,
                }
            } else {
                own
            }
        }
    };
    let hostname = if wanted.net {
        own_hostname(&name)
    } else {
        read("/etc/hostname")?
    };
    for (file, text) in [
        ("hosts", hosts),
        ("resolv.conf", resolv_conf),
        ("hostname", hostname),
    ] {
        let path = dir.file(file);
        std::fs::write(&path, text).map_err(Error::file("write", &path))?;
        if let Some((uid, gid)) = root {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(Error::file("chown", &path))?;
        }
    }
    Ok(())
}

/// Whether all of a resolv.conf's servers are on the loopback, as with systemd-resolved.
fn asks_only_itself(resolv_conf: &str) -> bool {
    let mut servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    let is_loopback = |server: &str| server.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    servers.clone().next().is_some() && servers.all(is_loopback)
}

/// `/etc/hostname`.
fn own_hostname(name: &str) -> String {
    format!("{name}\n")
}

/// `/etc/hosts` of a sandbox with a network of its own.
fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut lines = "127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\n\
                     fe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\n\
                     ff02::1\tip6-allnodes\n\
                     ff02::2\tip6-allrouters\n"
        .to_owned();
    for address in addresses {
        let _ = writeln!(lines, "{address}\t{hostname}");
    }
    lines
}

/// `/etc/resolv.conf` from CRI's DNS configuration (resolv.conf(5)).
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut lines = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(lines, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(lines, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(lines, "options {}", dns.options.join(" "));
    }
    lines
}

/// The host's own file, or nothing where it has none.
fn host_file(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_searches_servers_and_options_in_order() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.2".into(), "10.0.0.3".into()],
            searches: vec!["a.local".into(), "local".into()],
            options: vec!["ndots:5".into()],
        };
        let expected = "search a.local local\nnameserver 10.0.0.2\nnameserver 10.0.0.3\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), expected);
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }

    #[test]
    fn a_host_that_asks_only_itself_is_known_by_its_servers() {
        assert!(asks_only_itself(
            "search x\nnameserver 127.0.0.53\noptions edns0\n"
        ));
        assert!(asks_only_itself("nameserver 127.0.0.53\nnameserver ::1\n"));
        assert!(!asks_only_itself("nameserver 127.0.0.53\nnameserver 10.0.0.2\n"));
        assert!(!asks_only_itself("# nameserver 127.0.0.53\n"));
    }

    #[test]
    fn hosts_names_the_pod_at_each_of_its_addresses() {
        let text = hosts("web", &["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.88.0.2\tweb\nfd00::2\tweb\n"));
    }
}
