//! The rules of nodes.

use std::collections::BTreeMap;

use super::{Rules, Violation, check::Check, meta};
use crate::{names, quantity::Quantity, v1::Node};

impl Rules for Node {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
        let status = self.status.get_or_insert_default();
        if status.allocatable.is_empty() {
            status.allocatable = status.capacity.clone();
        }
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_label, |c| {
            let Some(status) = &self.status else { return };
            c.field("status", |c| {
                amounts(c, "capacity", &status.capacity);
                amounts(c, "allocatable", &status.allocatable);
                meta::conditions(c, &status.conditions);
                c.list("addresses", &status.addresses, 64, |c, address| {
                    c.field("type", |c| c.one_of(&address.r#type, &["InternalIP", "Hostname"]));
                    c.field("address", |c| match address.r#type.as_str() {
                        "InternalIP" => c.ip(&address.address),
                        _ => c.not_empty(&address.address),
                    });
                });
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |_| {})
    }
}

/// Quantities that are not negative.
pub(super) fn amounts(c: &mut Check, field: &str, amounts: &BTreeMap<String, String>) {
    c.map(field, amounts, |c, key, amount| {
        c.ok(names::check_qualified_name(key));
        match amount.parse::<Quantity>() {
            Err(error) => c.wrong(error.to_string()),
            Ok(quantity) if quantity.is_negative() => c.wrong("must not be negative"),
            Ok(_) => {}
        }
    });
}
