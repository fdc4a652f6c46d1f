//! What holds for the metadata of every kind.

use super::{MAX_OBJECT_BYTES, Violation, check::Check};
use crate::{
    names::{self, NameError},
    object::Object,
    v1::{Condition, ObjectMeta},
};

const MAX_ANNOTATIONS: usize = 256 * 1024;
const MAX_LABELS: usize = 256;
const MAX_FINALIZERS: usize = 32;
const MAX_OWNERS: usize = 32;
/// A week: a pod that takes longer to stop does not stop.
pub(super) const MAX_GRACE_SECONDS: i32 = 7 * 24 * 3600;

/// A namespaced object without a namespace is in "default".
pub(super) fn set_defaults<O: Object>(object: &mut O) {
    let meta = object.metadata_mut();
    if O::NAMESPACED && meta.namespace.is_empty() {
        "default".clone_into(&mut meta.namespace);
    }
}

/// Checks metadata, the size of the whole, and then what `rest` checks.
pub(super) fn validate<O: Object>(
    object: &O,
    check_name: fn(&str) -> Result<(), NameError>,
    rest: impl FnOnce(&mut Check),
) -> Vec<Violation> {
    let mut c = Check::default();
    let size = object.encoded_len();
    if size > MAX_OBJECT_BYTES {
        c.wrong(format!(
            "the object has {size} bytes, but {MAX_OBJECT_BYTES} is the most"
        ));
        return c.finish();
    }
    let none = ObjectMeta::default();
    let meta = object.metadata().unwrap_or(&none);
    c.field("metadata", |c| {
        c.field("name", |c| c.ok(check_name(&meta.name)));
        c.field("namespace", |c| {
            if O::NAMESPACED {
                c.ok(names::check_dns_label(&meta.namespace));
            } else if !meta.namespace.is_empty() {
                c.wrong(format!("must be empty: a {} is in no namespace", O::KIND));
            }
        });
        if !meta.uid.is_empty() {
            c.field("uid", |c| c.ok(names::check_uid(&meta.uid)));
        }
        if let Some(seconds) = meta.deletion_grace_period_seconds {
            c.field("deletionGracePeriodSeconds", |c| grace(c, seconds));
        }
        check_labels(c, meta);
        check_annotations(c, meta);
        c.list("finalizers", &meta.finalizers, MAX_FINALIZERS, |c, finalizer| {
            c.ok(names::check_qualified_name(finalizer));
        });
        c.list(
            "ownerReferences",
            &meta.owner_references,
            MAX_OWNERS,
            |c, owner| {
                c.field("kind", |c| c.not_empty(&owner.kind));
                c.field("name", |c| c.ok(names::check_dns_subdomain(&owner.name)));
                c.field("uid", |c| c.not_empty(&owner.uid));
            },
        );
    });
    rest(&mut c);
    c.finish()
}

/// Checks what names the object, and then what `rest` checks.
pub(super) fn validate_update<O: Object>(new: &O, old: &O, rest: impl FnOnce(&mut Check)) -> Vec<Violation> {
    let mut c = Check::default();
    let way = "it names the object: create another one and delete this";
    c.field("metadata", |c| {
        c.field("name", |c| c.unchanged(new.name(), old.name(), way));
        c.field("namespace", |c| {
            c.unchanged(new.namespace(), old.namespace(), way);
        });
        if !new.uid().is_empty() {
            c.field("uid", |c| {
                c.unchanged(
                    new.uid(),
                    old.uid(),
                    "leave it out, or send the uid that the object has",
                );
            });
        }
    });
    rest(&mut c);
    c.finish()
}

pub(super) fn grace(c: &mut Check, seconds: i32) {
    if !(0..=MAX_GRACE_SECONDS).contains(&seconds) {
        c.wrong(format!(
            "must be from 0 to {MAX_GRACE_SECONDS} seconds, but is {seconds}"
        ));
    }
}

pub(super) fn conditions(c: &mut Check, conditions: &[Condition]) {
    c.list("conditions", conditions, 32, |c, condition| {
        c.field("type", |c| c.not_empty(&condition.r#type));
        c.field("status", |c| {
            c.one_of(&condition.status, &["True", "False", "Unknown"]);
        });
    });
}

fn check_labels(c: &mut Check, meta: &ObjectMeta) {
    if meta.labels.len() > MAX_LABELS {
        c.field("labels", |c| {
            c.wrong(format!(
                "must have at most {MAX_LABELS} entries, but has {}",
                meta.labels.len()
            ));
        });
        return;
    }
    labels(c, "labels", &meta.labels);
}

/// Keys and values in label syntax.
pub(super) fn labels(c: &mut Check, field: &str, labels: &std::collections::BTreeMap<String, String>) {
    c.map(field, labels, |c, key, value| {
        if let Err(error) = names::check_qualified_name(key) {
            c.wrong(format!("the key {error}"));
        }
        c.ok(names::check_label_value(value));
    });
}

fn check_annotations(c: &mut Check, meta: &ObjectMeta) {
    let size: usize = meta
        .annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > MAX_ANNOTATIONS {
        c.field("annotations", |c| {
            c.wrong(format!(
                "keys and values must have at most {MAX_ANNOTATIONS} bytes together, but have {size}"
            ));
        });
        return;
    }
    c.map("annotations", &meta.annotations, |c, key, _| {
        if let Err(error) = names::check_qualified_name(key) {
            c.wrong(format!("the key {error}"));
        }
    });
}
