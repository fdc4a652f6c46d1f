//! Which parameters of the kernel a node lets its pods set. Pure.

use std::str::FromStr;

use clone8s::{
    rules::sysctl,
    v1::{PodSpec, Sysctl},
};

/// What no pod can harm others by, as in Kubernetes: it is the pod's own, and costs the node nothing.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// A parameter, or all that begin with something: `kernel.msg*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlPattern {
    text: String,
    is_start: bool,
}

impl FromStr for SysctlPattern {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let (text, is_start) = match written.strip_suffix('*') {
            Some(start) => (start, true),
            None => (written, false),
        };
        // What begins so may end in a dot or in the middle of a word.
        let name = sysctl::name(text.trim_end_matches(['.', '-', '_']))
            .or_else(|| (is_start && text == "net.").then(|| "net".to_owned()))
            .ok_or_else(|| format!("{written:?} is no parameter and no start of one followed by *"))?;
        let text = if is_start { text.to_owned() } else { name };
        if sysctl::namespace(&text).is_none() {
            return Err(format!(
                "{written:?} is not a pod's own: only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* are"
            ));
        }
        Ok(Self { text, is_start })
    }
}

impl SysctlPattern {
    fn matches(&self, name: &str) -> bool {
        if self.is_start {
            name.starts_with(&self.text)
        } else {
            name == self.text
        }
    }
}

/// Why the node does not run a pod that sets these parameters.
pub(crate) fn forbidden(spec: &PodSpec, allowed: &[SysctlPattern]) -> Option<String> {
    let mut sysctls = spec.security_context.iter().flat_map(|context| &context.sysctls);
    let refused = sysctls.find(|sysctl| !may_be_set(sysctl, allowed))?;
    Some(format!(
        "forbidden sysctl: {:?} not allowlisted; a node takes it with --allowed-unsafe-sysctls",
        refused.name
    ))
}

fn may_be_set(sysctl: &Sysctl, allowed: &[SysctlPattern]) -> bool {
    sysctl::name(&sysctl.name).is_some_and(|name| {
        SAFE.contains(&name.as_str()) || allowed.iter().any(|pattern| pattern.matches(&name))
    })
}

#[cfg(test)]
mod tests {
    use clone8s::v1::PodSecurityContext;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::safe("net.ipv4.tcp_syncookies", &[], true)]
    #[case::safe_with_slashes("net/ipv4/tcp_syncookies", &[], true)]
    #[case::unsafe_one("net.core.somaxconn", &[], false)]
    #[case::allowed("net.core.somaxconn", &["kernel.msg*", "net.core.somaxconn"], true)]
    #[case::allowed_with_slashes("net.core.somaxconn", &["net/core/somaxconn"], true)]
    #[case::by_its_start("kernel.msgmax", &["kernel.msg*"], true)]
    #[case::every_one_of_the_network("net.core.somaxconn", &["net.*"], true)]
    #[case::another("kernel.shmmax", &["kernel.msg*"], false)]
    #[case::of_the_node("kernel.panic", &["net.*"], false)]
    fn a_pod_may_set_what_is_safe_or_allowed(
        #[case] name: &str,
        #[case] allowed: &[&str],
        #[case] expected: bool,
    ) {
        let allowed: Vec<_> = allowed.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let spec = PodSpec {
            security_context: Some(Box::new(PodSecurityContext {
                sysctls: vec![Sysctl {
                    name: name.into(),
                    value: "1".into(),
                }],
                ..Default::default()
            })),
            ..Default::default()
        };
        let refusal = forbidden(&spec, &allowed);
        assert_eq!(refusal.is_none(), expected, "{refusal:?}");
    }

    #[rstest]
    #[case("kernel.panic")]
    #[case("vm.*")]
    #[case("*")]
    #[case("")]
    fn what_is_the_nodes_cannot_be_allowed(#[case] pattern: &str) {
        pattern.parse::<SysctlPattern>().unwrap_err();
    }
}
