//! What a container asks for of its node, and what a change of it does.

use std::str::FromStr as _;

use crate::{
    devices::is_device,
    huge_pages::{self, PageSize},
    names,
    quantity::Quantity,
    rules::check::{Check, Seen},
    v1::{Container, ResourceRequirements},
};

const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// More than this of one container is an attempt to cost time.
const MAX_DEVICES: usize = 32;
/// What can change in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

pub(super) fn check_resources(c: &mut Check, container: &Container) {
    if let Some(resources) = &container.resources {
        c.field("resources", |c| check_amounts(c, resources));
    }
    let mut named = Seen::new();
    c.list(
        "resizePolicy",
        &container.resize_policy,
        RESIZABLE.len(),
        |c, policy| {
            c.field("resourceName", |c| {
                c.one_of(&policy.resource_name, &RESIZABLE);
                if named.again(policy.resource_name.as_str()) {
                    c.wrong(format!("{:?} has a policy already", policy.resource_name));
                }
            });
            c.field("restartPolicy", |c| {
                c.one_of(&policy.restart_policy, &["NotRequired", "RestartContainer"]);
            });
        },
    );
}

/// A limit without a request is a request, too; but of a device, which a container has or has not.
pub(super) fn set_defaults(resources: &mut ResourceRequirements) {
    // A limit that is no amount is told once, where it was written.
    let is_amount = |limit: &str| limit.parse::<Quantity>().is_ok();
    for (name, limit) in resources
        .limits
        .iter()
        .filter(|(name, limit)| !is_device(name) && is_amount(limit))
    {
        let request = resources.requests.entry(name.clone());
        request.or_insert_with(|| limit.clone());
    }
}

fn check_amounts(c: &mut Check, resources: &ResourceRequirements) {
    let devices = resources.limits.keys().filter(|name| is_device(name)).count();
    if devices > MAX_DEVICES {
        c.field("limits", |c| {
            c.wrong(format!(
                "must name at most {MAX_DEVICES} devices, but names {devices}"
            ));
        });
    }
    for (field, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        c.map(field, amounts, |c, name, amount| {
            if is_device(name) {
                check_device(c, field, name, amount);
                return;
            }
            if huge_pages::is_huge_pages(name) {
                check_huge_pages(c, field, resources, name, amount);
                return;
            }
            if !RESOURCES.contains(&name) {
                c.one_of(name, &RESOURCES);
                return;
            }
            match Quantity::from_str(amount) {
                Err(error) => c.wrong(error.to_string()),
                Ok(quantity) if quantity.is_negative() => c.wrong("must not be negative"),
                Ok(quantity) if name != "cpu" && !quantity.is_whole() => {
                    c.wrong(format!(
                        "must be a whole number of bytes, but is {amount:?}; \"m\" means thousandths"
                    ));
                }
                Ok(quantity) if field == "requests" => {
                    let limit = resources
                        .limits
                        .get(name)
                        .and_then(|limit| limit.parse::<Quantity>().ok());
                    if let Some(limit) = limit.filter(|limit| quantity > *limit) {
                        c.wrong(format!(
                            "must not be more than the limit ({limit}), but is {amount:?}"
                        ));
                    }
                }
                Ok(_) => {}
            }
        });
    }
}

fn check_device(c: &mut Check, field: &str, name: &str, amount: &str) {
    c.ok(names::check_device_name(name));
    if field == "requests" {
        c.wrong("a device is named among the limits alone");
    } else if amount.parse::<Quantity>() != Ok(Quantity::from_count(1)) {
        c.wrong(format!(
            "must be \"1\", but is {amount:?}: a container has a device or has it not"
        ));
    }
}

/// Kubernetes, "Manage HugePages": what a container may have it also takes, and beside memory of the usual kind.
fn check_huge_pages(c: &mut Check, field: &str, resources: &ResourceRequirements, name: &str, amount: &str) {
    let Some(size) = huge_pages::page_size(name) else {
        c.wrong("must name a size of pages, a power of two in the largest unit that fits, such as \"hugepages-2Mi\"");
        return;
    };
    let bytes = match Quantity::from_str(amount) {
        Err(error) => return c.wrong(error.to_string()),
        Ok(quantity) => quantity,
    };
    if bytes.is_negative() || !bytes.is_whole() || !is_of_pages(bytes, size) {
        c.wrong(format!(
            "must be a whole number of pages of {}, but is {amount:?}",
            size.quantity()
        ));
    }
    if field == "requests" {
        let limit = resources.limits.get(name);
        if limit.and_then(|limit| limit.parse::<Quantity>().ok()) != Some(bytes) {
            c.wrong(match limit {
                None => "must be among the limits too, with the same amount".to_owned(),
                Some(limit) => format!("must equal the limit ({limit}), but is {amount:?}"),
            });
        }
        return;
    }
    let has = |name| resources.limits.contains_key(name) || resources.requests.contains_key(name);
    if !has("cpu") && !has("memory") {
        c.wrong("needs cpu or memory beside it");
    }
}

fn is_of_pages(bytes: Quantity, size: PageSize) -> bool {
    u64::try_from(bytes.value()).is_ok_and(|bytes| bytes % size.bytes() == 0)
}
