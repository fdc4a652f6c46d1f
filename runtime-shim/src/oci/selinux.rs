//! SELinux labels: none are set.

use clone8s::cri;

use super::Host;
use crate::error::{Error, Result};

/// Who asks for a label on a host with SELinux must not run without it and not be told. Where the host has no SELinux
/// a label has no meaning, and CRI's runtimes pass over it; relabelling of mounts is passed over everywhere, since
/// clients ask for it wherever they mount.
pub(super) fn check(security: &cri::LinuxContainerSecurityContext, host: &Host) -> Result<()> {
    let asks = security
        .selinux_options
        .as_ref()
        .is_some_and(|options| *options != cri::SeLinuxOption::default());
    if asks && host.selinux {
        return Err(Error::unmet(
            "config.linux.security_context.selinux_options",
            "this host has SELinux, and this runtime sets no labels; leave them out, or use a runtime that does",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::oci::known_capabilities;

    #[rstest]
    #[case::nothing_asked(None, true, true)]
    #[case::nothing_in_it(Some(""), true, true)]
    #[case::a_level(Some("s0:c1,c2"), true, false)]
    #[case::without_selinux(Some("s0:c1,c2"), false, true)]
    fn a_label_is_refused_only_where_it_would_mean_something(
        #[case] level: Option<&str>,
        #[case] selinux: bool,
        #[case] good: bool,
    ) {
        let security = cri::LinuxContainerSecurityContext {
            selinux_options: level.map(|level| cri::SeLinuxOption {
                level: level.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let host = Host {
            cgroup_v2: true,
            capabilities: known_capabilities(0),
            oom_score_adj_floor: 0,
            hugetlb: false,
            swap: false,
            apparmor: false,
            selinux,
        };
        let checked = check(&security, &host);
        assert_eq!(checked.is_ok(), good, "{checked:?}");
    }
}
