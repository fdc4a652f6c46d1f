//! The rules of limit ranges and resource quotas.

use std::collections::BTreeMap;

use super::{Rules, Violation, check::Check, meta, node::amounts};
use crate::{
    names,
    object::{PLURALS, Plural},
    quantity::Quantity,
    v1::{LimitRange, LimitRangeItem, ResourceQuota},
};

const MAX_ITEMS: usize = 16;
const RESOURCES: [&str; 2] = ["cpu", "memory"];
const QUOTAS: [&str; 7] = [
    "pods",
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

impl Rules for LimitRange {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
        for item in self.spec.iter_mut().flat_map(|spec| &mut spec.limits) {
            if item.r#type != "Container" {
                continue;
            }
            // A container that sets no limit gets the highest that there is, and asks for what it may have.
            for (resource, max) in &item.max {
                item.default
                    .entry(resource.clone())
                    .or_insert_with(|| max.clone());
            }
            for (resource, default) in &item.default {
                let request = item.default_request.entry(resource.clone());
                request.or_insert_with(|| default.clone());
            }
        }
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            c.field("spec", |c| {
                let items = self.spec.as_ref().map_or(&[][..], |spec| &spec.limits);
                if items.is_empty() {
                    c.field("limits", |c| c.wrong("must have at least one entry"));
                }
                c.list("limits", items, MAX_ITEMS, check_item);
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |_| {})
    }
}

fn check_item(c: &mut Check, item: &LimitRangeItem) {
    c.field("type", |c| c.one_of(&item.r#type, &["Container", "Pod"]));
    let fields = [
        ("max", &item.max),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("min", &item.min),
    ];
    for (field, values) in fields {
        amounts(c, field, values);
        c.map(field, values, |c, resource, _| c.one_of(resource, &RESOURCES));
    }
    amounts(c, "maxLimitRequestRatio", &item.max_limit_request_ratio);
    c.map(
        "maxLimitRequestRatio",
        &item.max_limit_request_ratio,
        |c, resource, ratio| {
            c.one_of(resource, &RESOURCES);
            if ratio
                .parse::<Quantity>()
                .is_ok_and(|ratio| ratio < Quantity::from_count(1))
            {
                c.wrong("must be 1 or more");
            }
        },
    );
    if item.r#type == "Pod" {
        for (field, values) in [
            ("default", &item.default),
            ("defaultRequest", &item.default_request),
        ] {
            if !values.is_empty() {
                c.field(field, |c| {
                    c.wrong("must be empty: a pod's amounts are those of its containers");
                });
            }
        }
    }
    // Each of them at least as high as those after it.
    for (higher, &(above, high)) in fields.iter().enumerate() {
        for &(below, low) in &fields[higher + 1..] {
            check_order(c, (above, high), (below, low));
        }
    }
}

type Named<'a> = (&'a str, &'a BTreeMap<String, String>);

fn check_order(c: &mut Check, (above, high): Named<'_>, (below, low): Named<'_>) {
    c.map(below, low, |c, resource, amount| {
        let parse = |text: &String| text.parse::<Quantity>().ok();
        if let (Some(low), Some(high)) = (parse(amount), high.get(resource).and_then(parse))
            && low > high
        {
            c.wrong(format!("must not be more than {above} ({high}), but is {low}"));
        }
    });
}

impl Rules for ResourceQuota {
    fn set_defaults(&mut self) {
        meta::set_defaults(self);
    }

    fn validate(&self) -> Vec<Violation> {
        meta::validate(self, names::check_dns_subdomain, |c| {
            c.field("spec", |c| {
                let none = BTreeMap::new();
                let hard = self.spec.as_ref().map_or(&none, |spec| &spec.hard);
                if hard.is_empty() {
                    c.field("hard", |c| c.wrong("must have at least one entry"));
                }
                amounts(c, "hard", hard);
                c.map("hard", hard, |c, name, _| check_counted(c, name));
            });
        })
    }

    fn validate_update(&self, old: &Self) -> Vec<Violation> {
        meta::validate_update(self, old, |_| {})
    }
}

fn check_counted(c: &mut Check, name: &str) {
    let counts = |plural: &Plural| plural.namespaced && name.strip_prefix("count/") == Some(plural.name);
    if QUOTAS.contains(&name) || PLURALS.iter().any(counts) {
        return;
    }
    let mut known: Vec<String> = QUOTAS.iter().map(|name| (*name).to_owned()).collect();
    known.extend(
        PLURALS
            .iter()
            .filter(|plural| plural.namespaced)
            .map(|plural| format!("count/{}", plural.name)),
    );
    c.wrong(format!("is not counted; there are {}", known.join(", ")));
}
