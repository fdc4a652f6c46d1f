//! What a mirror may be (`crate::mirror`). A node makes them by itself, so that nothing in one may hold or take from
//! others what is theirs.

use super::Check;
use crate::{mirror, object::Object as _, v1::Pod};

/// Nothing, for a pod that is no mirror.
pub(super) fn check(c: &mut Check, pod: &Pod) {
    if !mirror::is_mirror(pod) {
        return;
    }
    let node = pod.spec.as_ref().map_or("", |spec| &spec.node_name);
    let Some(meta) = pod.metadata() else { return };
    c.field("spec", |c| {
        c.field("nodeName", |c| {
            if node.is_empty() {
                c.wrong("must be the node that runs the pod which this is the mirror of");
            }
        });
    });
    c.field("metadata", |c| {
        c.field("name", |c| {
            if mirror::name_on_node(&meta.name, node).is_none() {
                c.wrong(format!(
                    "must be a pod's name with \"-{node}\" behind it, in a mirror of that node"
                ));
            }
        });
        c.field("finalizers", |c| {
            if !meta.finalizers.is_empty() {
                c.wrong("must be empty: nothing holds a mirror");
            }
        });
        c.field("ownerReferences", |c| match meta.owner_references.as_slice() {
            [owner] if owner.kind == "Node" && owner.name == node && !owner.block_owner_deletion => {}
            _ => c.wrong(
                "must name the mirror's node alone, without blockOwnerDeletion: it goes with its node",
            ),
        });
    });
}

pub(super) fn check_update(c: &mut Check, new: &Pod, old: &Pod) {
    let of = |pod| mirror::annotation(pod, mirror::MIRROR);
    let key = mirror::MIRROR.to_owned();
    let changed = (of(new) != of(old)).then_some((&key, ()));
    c.field("metadata", |c| {
        c.map("annotations", changed, |c, _, ()| {
            c.wrong("cannot change: a pod is a mirror from its beginning to its end, or never");
        });
    });
}
