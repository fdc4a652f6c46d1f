//! The rules of priority classes.

use super::{Rules, Violation, meta};
use crate::{names, v1::PriorityClass};

/// Above are the classes that are always there.
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
/// The classes that are always there, and their values.
pub const SYSTEM_CLASSES: [(&str, i32); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];
/// Names of such classes begin so.
const SYSTEM: &str = "system-";
pub const DEFAULT_PREEMPTION_POLICY: &str = PREEMPTION_POLICIES[0];

pub(super) const PREEMPTION_POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];

impl Rules for PriorityClass {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
        if self.preemption_policy.is_empty() {
            DEFAULT_PREEMPTION_POLICY.clone_into(&mut self.preemption_policy);
        }
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            if self
                .metadata
                .as_ref()
                .is_some_and(|meta| meta.name.starts_with(SYSTEM))
            {
                c.field("metadata", |c| {
                    c.field("name", |c| {
                        c.wrong(format!(
                            "must not begin with {SYSTEM:?}: such classes are always there"
                        ));
                    });
                });
            }
            c.field("value", |c| {
                if self.value > HIGHEST_USER_PRIORITY {
                    c.wrong(format!(
                        "must be at most {HIGHEST_USER_PRIORITY}, but is {}",
                        self.value
                    ));
                }
            });
            c.field("preemptionPolicy", |c| {
                c.one_of(&self.preemption_policy, &PREEMPTION_POLICIES);
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |c| {
            const WAY: &str = "pods have it already: create another class";
            c.field("value", |c| c.unchanged(&self.value, &old.value, WAY));
            c.field("preemptionPolicy", |c| {
                c.unchanged(&self.preemption_policy, &old.preemption_policy, WAY);
            });
        })
    }
}
