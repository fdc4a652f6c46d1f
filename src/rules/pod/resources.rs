//! What a container asks for of its node, and what a change of it does.

use std::str::FromStr as _;

use crate::{
    quantity::Quantity,
    rules::check::{Check, Seen},
    v1::{Container, ResourceRequirements},
};

const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
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

fn check_amounts(c: &mut Check, resources: &ResourceRequirements) {
    for (field, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        c.map(field, amounts, |c, name, amount| {
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
