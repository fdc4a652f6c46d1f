//! Parameters of the kernel that a pod can have values of its own for (sysctl(8), namespaces(7)).

/// The kind of namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlNamespace {
    Net,
    Ipc,
}

const MAX_NAME: usize = 253;

/// A parameter's name with dots between its parts, as CRI has it; None where it is none. In the form with slashes a dot
/// stays within its part, and becomes a slash: `net/ipv4/conf/eth0.1/rp_filter`.
pub fn name(written: &str) -> Option<String> {
    let first = written.find(['.', '/'])?;
    let with_slashes = written[first..].starts_with('/');
    let name: String = if with_slashes {
        let swapped = |c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        };
        written.chars().map(swapped).collect()
    } else {
        written.to_owned()
    };
    let is_part = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        let outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(outer) && part.ends_with(outer) && part.chars().all(inner)
    };
    (name.len() <= MAX_NAME && name.split(['.', '/']).all(is_part)).then_some(name)
}

/// Whose namespace a parameter, by its name with dots, is the pod's in; None for one that is the whole node's.
pub fn namespace(name: &str) -> Option<SysctlNamespace> {
    const IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    if name.starts_with("net.") {
        return Some(SysctlNamespace::Net);
    }
    let is_ipc = name == "kernel.sem" || IPC.iter().any(|start| name.starts_with(start));
    is_ipc.then_some(SysctlNamespace::Ipc)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("net.ipv4.tcp_syncookies", Some("net.ipv4.tcp_syncookies"))]
    #[case("net/ipv4/conf/eth0.1/rp_filter", Some("net.ipv4.conf.eth0/1.rp_filter"))]
    #[case("net.ipv4.conf.eth0/1.rp_filter", Some("net.ipv4.conf.eth0/1.rp_filter"))]
    #[case("kernel", None)]
    #[case("net..ipv4", None)]
    #[case("net.ipv4.../etc", None)]
    #[case("/etc/passwd", None)]
    #[case("net.ipv4.A", None)]
    #[case("net.ipv4.x y", None)]
    fn a_name_is_written_with_dots_or_slashes(#[case] written: &str, #[case] expected: Option<&str>) {
        assert_eq!(name(written).as_deref(), expected);
    }

    #[rstest]
    #[case("net.core.somaxconn", Some(SysctlNamespace::Net))]
    #[case("kernel.shm_rmid_forced", Some(SysctlNamespace::Ipc))]
    #[case("kernel.msgmax", Some(SysctlNamespace::Ipc))]
    #[case("kernel.sem", Some(SysctlNamespace::Ipc))]
    #[case("fs.mqueue.msg_max", Some(SysctlNamespace::Ipc))]
    #[case("kernel.panic", None)]
    #[case("vm.swappiness", None)]
    fn a_parameter_is_the_pods_or_the_nodes(#[case] name: &str, #[case] expected: Option<SysctlNamespace>) {
        assert_eq!(namespace(name), expected);
    }
}
