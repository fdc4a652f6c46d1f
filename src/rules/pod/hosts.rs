//! The rules of what a pod is called and calls others.

use crate::{
    names,
    rules::check::Check,
    v1::{HostAlias, PodSpec},
};

const MAX_ALIASES: usize = 256;
const MAX_NAMES: usize = 64;

pub(super) fn check(c: &mut Check, spec: &PodSpec) {
    for (field, label) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !label.is_empty() {
            c.field(field, |c| c.ok(names::check_dns_label(label)));
        }
    }
    c.list("hostAliases", &spec.host_aliases, MAX_ALIASES, check_alias);
}

fn check_alias(c: &mut Check, alias: &HostAlias) {
    c.field("ip", |c| {
        // Any address: names are also sent to 0.0.0.0, where nobody is.
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            c.wrong(format!(
                "must be an IP address such as \"10.1.2.3\", but is {:?}",
                alias.ip
            ));
        }
    });
    c.list("hostnames", &alias.hostnames, MAX_NAMES, |c, name| {
        c.ok(names::check_dns_subdomain(name));
    });
}
