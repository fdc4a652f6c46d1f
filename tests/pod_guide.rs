//! `docs/pods.md` lists every field of a pod's spec, and no other.

use std::collections::BTreeSet;

use clone8s::descriptors;
use prost_reflect::{Kind, MessageDescriptor};

/// The JSON names of all fields that a pod's spec can have, at any depth.
fn fields(message: &MessageDescriptor, seen: &mut BTreeSet<String>, found: &mut BTreeSet<String>) {
    if !seen.insert(message.full_name().to_owned()) {
        return;
    }
    for field in message.fields() {
        found.insert(field.json_name().to_owned());
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
        {
            fields(&inner, seen, found);
        }
    }
}

/// The words in code marks that look like fields.
fn told(page: &str) -> BTreeSet<String> {
    let code = page.split('`').skip(1).step_by(2);
    code.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_lists_every_field_of_a_pod_and_no_other() {
    let spec = descriptors().get_message_by_name("clone8s.v1.PodSpec").unwrap();
    let mut found = BTreeSet::new();
    fields(&spec, &mut BTreeSet::new(), &mut found);
    let page = include_str!("../docs/pods.md");
    let told = told(page);
    let missing: Vec<_> = found.difference(&told).collect();
    assert!(missing.is_empty(), "docs/pods.md does not tell of {missing:?}");
    // Names of resources, not of fields.
    let resources = ["cpu", "memory"].map(str::to_owned).into();
    let strange: Vec<_> = told
        .difference(&found)
        .filter(|word| !BTreeSet::contains(&resources, *word))
        .collect();
    assert!(
        strange.is_empty(),
        "docs/pods.md tells of {strange:?}, which no pod has"
    );
}
