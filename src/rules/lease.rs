//! The rules of leases and service accounts.

use super::{Rules, Violation, meta};
use crate::{
    names,
    v1::{Lease, ServiceAccount},
};

/// Where each node renews a lease of its own name for as long as it lives. Kubernetes calls it so.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

const MAX_SECRETS: usize = 64;

impl Rules for Lease {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            let Some(spec) = &self.spec else { return };
            c.field("spec", |c| {
                c.field("holderIdentity", |c| {
                    c.at_most(&spec.holder_identity, names::MAX_SUBDOMAIN);
                });
                c.field("leaseDurationSeconds", |c| {
                    c.not_negative(spec.lease_duration_seconds);
                });
                c.field("leaseTransitions", |c| c.not_negative(spec.lease_transitions));
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |_| {})
    }
}

impl Rules for ServiceAccount {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            for (field, secrets) in [
                ("secrets", &self.secrets),
                ("imagePullSecrets", &self.image_pull_secrets),
            ] {
                c.list(field, secrets, MAX_SECRETS, |c, secret| {
                    c.field("name", |c| c.ok(names::check_dns_subdomain(&secret.name)));
                });
            }
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |_| {})
    }
}
