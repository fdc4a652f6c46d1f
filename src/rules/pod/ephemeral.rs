//! The rules of ephemeral containers: what one may say, and that they only ever become more.

use super::{
    MAX_CONTAINERS,
    container::{Taken, check_common, check_name, pull_policy},
    default_to,
};
use crate::{
    rules::{Violation, check::Check},
    v1::{EphemeralContainer, PodSpec, SecurityContext},
};

const ADD: &str = "AddEphemeralContainer (c8s debug) adds one to a pod that is there";

pub(super) fn set_defaults(container: &mut EphemeralContainer) {
    default_to(&mut container.image_pull_policy, pull_policy(&container.image));
}

pub(super) fn check<'a>(c: &mut Check, spec: &'a PodSpec, taken: &mut Taken<'a>) {
    let containers = &spec.ephemeral_containers;
    c.list(
        "ephemeralContainers",
        containers,
        MAX_CONTAINERS,
        |c, container| {
            check_name(c, &container.name, taken);
            check_common(c, &container.to_container(), spec);
            check_whole_volumes(c, container);
        },
    );
}

/// As in Kubernetes: the folder of a part would have to be there.
fn check_whole_volumes(c: &mut Check, container: &EphemeralContainer) {
    c.list(
        "volumeMounts",
        &container.volume_mounts,
        usize::MAX,
        |c, mount| {
            for (field, part) in [
                ("subPath", &mount.sub_path),
                ("subPathExpr", &mount.sub_path_expr),
            ] {
                if !part.is_empty() {
                    c.field(field, |c| {
                        c.wrong("cannot be set for an ephemeral container: mount the whole volume");
                    });
                }
            }
        },
    );
}

pub(super) fn check_new(c: &mut Check, spec: &PodSpec) {
    if !spec.ephemeral_containers.is_empty() {
        c.field("ephemeralContainers", |c| {
            c.wrong(format!("cannot be set on a new pod: {ADD}"));
        });
    }
}

pub(super) fn check_update(c: &mut Check, new: &PodSpec, old: &PodSpec) {
    c.field("ephemeralContainers", |c| {
        let reason = format!("none of them can be changed or removed, and {ADD}");
        c.unchanged(&new.ephemeral_containers, &old.ephemeral_containers, &reason);
    });
}

/// What is wrong with the last ephemeral container of a pod as one that is added to the others, beside what
/// `Rules::validate` finds. It is no rule for later, when the pod may have changed around it.
pub fn check_added_container(spec: &PodSpec) -> Vec<Violation> {
    let containers = &spec.ephemeral_containers;
    let mut c = Check::default();
    c.field("spec", |c| {
        c.list(
            "ephemeralContainers",
            containers,
            MAX_CONTAINERS,
            |c, container| {
                let is_last = containers
                    .last()
                    .is_some_and(|last| std::ptr::eq(last, container));
                if is_last {
                    check_surroundings(c, container, spec);
                }
            },
        );
    });
    c.finish()
}

fn check_surroundings(c: &mut Check, container: &EphemeralContainer, spec: &PodSpec) {
    if !container.target_container_name.is_empty() {
        c.field("targetContainerName", |c| {
            let known: Vec<_> = spec.all_containers().map(|one| one.name.as_str()).collect();
            c.one_of(&container.target_container_name, &known);
        });
    }
    if is_privileged(container.security_context.as_ref())
        && !spec
            .all_containers()
            .any(|one| is_privileged(one.security_context.as_ref()))
    {
        c.field("securityContext", |c| {
            c.field("privileged", |c| {
                c.wrong("needs a container of the pod that is privileged: its sandbox was made for none");
            });
        });
    }
}

fn is_privileged(context: Option<&SecurityContext>) -> bool {
    context.is_some_and(|context| context.privileged == Some(true))
}
