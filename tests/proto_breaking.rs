//! A client that was built against the accepted contract, `proto/clone8s.binpb`, keeps working: on the wire, in JSON
//! and in generated code. What is added is free; what is removed must leave its number and name reserved.
//!
//! To accept the contract as it is now, at a release or after a break that is meant:
//! `CLONE8S_ACCEPT_CONTRACT=1 cargo test -p clone8s --test proto_breaking`.

use std::{env, fs, path::PathBuf};

use clone8s::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, prost_types::FileDescriptorSet,
};

const PACKAGES: [&str; 2] = ["clone8s.v1", "clone8s.runtime.v1"];

fn accepted_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/clone8s.binpb")
}

/// The contract as it is now, without comments and without what is not ours to keep.
fn present() -> Vec<u8> {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build wrote descriptors");
    set.file
        .retain(|file| PACKAGES.contains(&file.package()) || file.package() == "google.protobuf");
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set.encode_to_vec()
}

/// Everything of `old` that a client cannot rely on in `new`.
fn breaks(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    for service in old
        .services()
        .filter(|service| PACKAGES.contains(&service.package_name()))
    {
        for method in service.methods() {
            let name = format!("{}/{}", service.full_name(), method.name());
            let now = new
                .get_service_by_name(service.full_name())
                .and_then(|service| service.methods().find(|now| now.name() == method.name()));
            let shape = |method: &prost_reflect::MethodDescriptor| {
                (
                    method.input().full_name().to_owned(),
                    method.is_client_streaming(),
                    method.output().full_name().to_owned(),
                    method.is_server_streaming(),
                )
            };
            match now {
                None => found.push(format!("{name} is gone")),
                Some(now) if shape(&now) != shape(&method) => {
                    found.push(format!("{name} has another request, response or streaming"));
                }
                Some(_) => {}
            }
        }
    }
    for message in old
        .all_messages()
        .filter(|message| PACKAGES.contains(&message.package_name()))
    {
        match new.get_message_by_name(message.full_name()) {
            None => found.push(format!("{} is gone", message.full_name())),
            Some(now) => breaks_of_message(&message, &now, &mut found),
        }
    }
    for set in old
        .all_enums()
        .filter(|set| PACKAGES.contains(&set.package_name()))
    {
        match new.get_enum_by_name(set.full_name()) {
            None => found.push(format!("{} is gone", set.full_name())),
            Some(now) => breaks_of_enum(&set, &now, &mut found),
        }
    }
    found
}

fn breaks_of_message(old: &MessageDescriptor, new: &MessageDescriptor, found: &mut Vec<String>) {
    for field in old.fields() {
        let name = field.full_name();
        let number = field.number();
        match new.get_field(number) {
            None => {
                let reserved = new.reserved_ranges().any(|range| range.contains(&number))
                    && new.reserved_names().any(|reserved| reserved == field.name());
                if !reserved {
                    found.push(format!(
                        "{name} is gone, and its number {number} and name are not reserved"
                    ));
                }
            }
            Some(now) if shape(&now) != shape(&field) => {
                found.push(format!(
                    "{name} was {}, and is now {}",
                    shape(&field),
                    shape(&now)
                ));
            }
            Some(_) => {}
        }
    }
}

fn breaks_of_enum(old: &EnumDescriptor, new: &EnumDescriptor, found: &mut Vec<String>) {
    for value in old.values() {
        if new
            .get_value(value.number())
            .is_none_or(|now| now.name() != value.name())
        {
            found.push(format!("{} is gone or has another number", value.full_name()));
        }
    }
}

/// What a client relies on of a field, in words.
fn shape(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(set) => set.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    };
    let oneof = field
        .containing_oneof()
        .map_or(String::new(), |oneof| format!(" in oneof {}", oneof.name()));
    format!(
        "{:?} {kind} {} (JSON {}){oneof}",
        field.cardinality(),
        field.name(),
        field.json_name()
    )
}

#[test]
fn clients_of_the_accepted_contract_keep_working() {
    if env::var_os("CLONE8S_ACCEPT_CONTRACT").is_some() {
        fs::write(accepted_path(), present()).unwrap();
    }
    let accepted = fs::read(accepted_path()).unwrap();
    let old = DescriptorPool::decode(accepted.as_slice()).unwrap();
    assert!(
        old.all_messages().count() > 100,
        "the accepted contract is not whole"
    );
    let found = breaks(&old, clone8s::descriptors());
    assert_eq!(found, [] as [&str; 0]);
}

#[test]
fn each_kind_of_break_is_found_and_an_addition_is_none() {
    let before = DescriptorPool::decode(present().as_slice()).unwrap();
    let mut set = FileDescriptorSet::decode(present().as_slice()).unwrap();
    for file in &mut set.file {
        for service in &mut file.service {
            service.method.retain(|method| method.name() != "BindPod");
            for method in service
                .method
                .iter_mut()
                .filter(|method| method.name() == "WatchPods")
            {
                method.server_streaming = Some(false);
            }
        }
        for message in &mut file.message_type {
            match message.name() {
                "PodSpec" => message.field.retain(|field| field.name() != "hostname"),
                "Container" => message.field[0].json_name = Some("title".to_owned()),
                "EnvVar" => {
                    let mut added = message.field[0].clone();
                    added.number = Some(1000);
                    added.name = Some("added".to_owned());
                    added.json_name = Some("added".to_owned());
                    message.field.push(added);
                }
                _ => {}
            }
        }
        for set in &mut file.enum_type {
            set.value
                .retain(|value| value.name() != "WATCH_EVENT_TYPE_SYNCED");
        }
    }
    let after = DescriptorPool::decode(set.encode_to_vec().as_slice()).unwrap();
    assert_eq!(
        breaks(&before, &after),
        [
            "clone8s.v1.PodService/WatchPods has another request, response or streaming",
            "clone8s.v1.PodService/BindPod is gone",
            "clone8s.v1.PodSpec.hostname is gone, and its number 8 and name are not reserved",
            "clone8s.v1.Container.name was Optional string name (JSON name), and is now Optional string name (JSON title)",
            "clone8s.v1.WATCH_EVENT_TYPE_SYNCED is gone or has another number",
        ]
    );
    assert_eq!(breaks(&before, &before), [] as [&str; 0]);
}
