//! Our CRI is the public CRI v1, call for call and field for field: `proto/runtime/v1/api.tsv` has its facts.

use std::collections::BTreeSet;

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

const TABLE: &str = include_str!("../proto/runtime/v1/api.tsv");
const PACKAGE: &str = "runtime.v1";

/// The table's facts: kind, owner, name, number or input, type or output.
fn published() -> BTreeSet<String> {
    TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            line.split('\t')
                .take(5)
                .collect::<Vec<_>>()
                .join("\t")
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// The same facts of our descriptors.
fn ours() -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    let pool = clone8s::descriptors();
    for service in pool
        .services()
        .filter(|service| service.package_name() == PACKAGE)
    {
        for method in service.methods() {
            let typed = |message: &MessageDescriptor, streams: bool| {
                format!(
                    "{}{}",
                    if streams { "stream " } else { "" },
                    local(message.full_name())
                )
            };
            facts.insert(
                [
                    "rpc",
                    service.full_name(),
                    method.name(),
                    &typed(&method.input(), method.is_client_streaming()),
                    &typed(&method.output(), method.is_server_streaming()),
                ]
                .join("\t"),
            );
        }
    }
    for message in pool
        .all_messages()
        .filter(|message| message.package_name() == PACKAGE)
    {
        if message.is_map_entry() {
            continue;
        }
        if message.fields().len() == 0 {
            facts.insert(format!("message\t{}", local(message.full_name())));
        }
        for field in message.fields() {
            facts.insert(
                [
                    "field",
                    local(message.full_name()),
                    field.name(),
                    &field.number().to_string(),
                    &type_of(&field),
                ]
                .join("\t"),
            );
        }
    }
    for set in pool.all_enums().filter(|set| set.package_name() == PACKAGE) {
        for value in set.values() {
            let owner = local(set.full_name());
            facts.insert(format!("enum\t{owner}\t{}\t{}", value.name(), value.number()));
        }
    }
    facts
}

fn type_of(field: &FieldDescriptor) -> String {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            panic!("a map has entries")
        };
        let part = |field: FieldDescriptor| kind_name(&field.kind());
        return format!(
            "map<{},{}>",
            part(entry.map_entry_key_field()),
            part(entry.map_entry_value_field())
        );
    }
    match field.cardinality() {
        Cardinality::Repeated => format!("repeated {}", kind_name(&field.kind())),
        _ => kind_name(&field.kind()),
    }
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => local(message.full_name()).to_owned(),
        Kind::Enum(set) => local(set.full_name()).to_owned(),
        scalar => format!("{scalar:?}"),
    }
}

fn local(full_name: &str) -> &str {
    full_name.strip_prefix("runtime.v1.").unwrap_or(full_name)
}

#[test]
fn everything_that_is_published_is_ours() {
    let missing: Vec<_> = published().difference(&ours()).cloned().collect();
    assert_eq!(missing, [] as [&str; 0]);
}

#[test]
fn we_add_nothing_to_what_is_published() {
    let extra: Vec<_> = ours().difference(&published()).cloned().collect();
    assert_eq!(extra, [] as [&str; 0]);
}
