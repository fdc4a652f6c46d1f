//! The /etc/hosts that a pod's containers share.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use clone8s::v1::{Container, HostAlias};

use super::VolumeError;
use crate::pod::{downward::Inputs, hostname};

/// In the container, and on the node.
pub(super) const PATH: &str = "/etc/hosts";

/// Whether the container mounts something else there.
pub(crate) fn is_own(container: &Container) -> bool {
    container
        .volume_mounts
        .iter()
        .any(|mount| mount.mount_path == PATH)
}

/// Writes the file; None where the runtime's own will do. `pod_ip` is None on the host network.
pub(super) fn write(
    place: &Path,
    inputs: Inputs<'_>,
    pod_ip: Option<&str>,
) -> Result<Option<PathBuf>, VolumeError> {
    let pod = inputs.pod;
    let aliases = &pod.spec().host_aliases;
    let lines = match pod_ip.filter(|ip| !ip.is_empty()) {
        Some(ip) => own_lines(
            ip,
            hostname::short(pod),
            hostname::full(pod, &inputs.node.cluster_domain).as_deref(),
        ),
        None if aliases.is_empty() => return Ok(None),
        // A node without the file has nothing to say in it.
        None => fs::read_to_string(PATH).unwrap_or_default(),
    };
    let text = with_aliases(lines, aliases);
    let path = place.join("etc-hosts");
    let written = fs::create_dir_all(place).and_then(|()| match fs::read_to_string(&path) {
        // Containers mount this very file: leave it alone unless it must change.
        Ok(found) if found == text => Ok(()),
        _ => fs::write(&path, &text),
    });
    match written {
        Ok(()) => Ok(Some(path)),
        Err(cause) => Err(VolumeError::Io {
            name: "etc-hosts".to_owned(),
            attempt: "write",
            path,
            cause,
        }),
    }
}

fn own_lines(ip: &str, short: &str, full: Option<&str>) -> String {
    let names = match full {
        Some(full) => format!("{full}\t{short}"),
        None => short.to_owned(),
    };
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\t\
         ip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{ip}\t{names}\n"
    )
}

fn with_aliases(mut lines: String, aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return lines;
    }
    if !lines.is_empty() && !lines.ends_with('\n') {
        lines.push('\n');
    }
    lines.push_str("\n# hostAliases of the pod\n");
    for alias in aliases {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_itself_by_its_full_name_and_its_short_one() {
        assert!(own_lines("10.0.0.2", "web", None).ends_with("\n10.0.0.2\tweb\n"));
        let full = own_lines("10.0.0.2", "web", Some("web.sub.default.svc.cluster.local"));
        assert!(full.ends_with("\n10.0.0.2\tweb.sub.default.svc.cluster.local\tweb\n"));
    }

    #[test]
    fn aliases_come_after_what_there_is() {
        let alias = |ip: &str, names: &[&str]| HostAlias {
            ip: ip.into(),
            hostnames: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let aliases = [
            alias("10.1.2.3", &["a.example", "b.example"]),
            alias("::1", &["c"]),
        ];
        assert_eq!(
            with_aliases("127.0.0.1 localhost".into(), &aliases),
            "127.0.0.1 localhost\n\n# hostAliases of the pod\n10.1.2.3\ta.example\tb.example\n::1\tc\n"
        );
        assert_eq!(
            with_aliases("127.0.0.1 localhost".into(), &[]),
            "127.0.0.1 localhost"
        );
    }
}
