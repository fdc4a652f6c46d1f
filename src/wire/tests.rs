use std::collections::BTreeMap;

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MethodDescriptor};

use super::*;
use crate::{
    descriptors, for_each_kind,
    object::{Calls, Object},
    v1::{self, ObjectMeta, Pod},
};

/// What of a kind's calls this module takes for granted.
struct Contract {
    kind: &'static str,
    namespaced: bool,
    calls: Calls,
}

macro_rules! contracts {
    ($($kind:ident, $many:ident, $plural:ident, $namespaced:literal;)*) => {
        [$(Contract { kind: v1::$kind::KIND, namespaced: $namespaced, calls: v1::$kind::CALLS }),*]
    };
}

fn method(path: &str) -> Option<MethodDescriptor> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    descriptors()
        .get_service_by_name(service)?
        .methods()
        .find(|found| found.name() == method)
}

/// "object" for the kind's own message, as the fields here are called.
fn shape(field: &FieldDescriptor, kind: &str) -> String {
    let many = if field.cardinality() == Cardinality::Repeated {
        "repeated "
    } else {
        ""
    };
    let (what, name) = match field.kind() {
        Kind::Message(message) if message.name() == kind => ("object".to_owned(), String::new()),
        Kind::Message(message) => (message.name().to_owned(), format!(" {}", field.name())),
        Kind::Enum(set) => (set.name().to_owned(), format!(" {}", field.name())),
        scalar => (format!("{scalar:?}"), format!(" {}", field.name())),
    };
    format!("{many}{what}{name}")
}

fn shapes(message: &prost_reflect::MessageDescriptor, kind: &str) -> BTreeMap<u32, String> {
    message
        .fields()
        .map(|field| (field.number(), shape(&field, kind)))
        .collect()
}

fn expected(fields: &[(u32, &str)]) -> BTreeMap<u32, String> {
    fields
        .iter()
        .map(|(number, shape)| (*number, (*shape).to_owned()))
        .collect()
}

const NAMESPACE: (u32, &str) = (1, "string namespace");

fn check(path: &str, contract: &Contract, request: &[(u32, &str)], response: &[(u32, &str)]) {
    let method = method(path).unwrap_or_else(|| panic!("{path} is not in the contract"));
    let mut request = expected(request);
    if !contract.namespaced && request.get(&1).is_some_and(|first| first == NAMESPACE.1) {
        request.remove(&1);
    }
    assert_eq!(shapes(&method.input(), contract.kind), request, "{path}");
    assert_eq!(
        shapes(&method.output(), contract.kind),
        expected(response),
        "{path}"
    );
}

#[test]
fn the_services_of_all_kinds_have_these_messages() {
    let object = [(1, "object")];
    let written = [(1, "object"), (2, "bool validate_only"), (3, "string request_id")];
    let manager = |number| (number, "string field_manager");
    let mask = (4, "FieldMask update_mask");
    for contract in for_each_kind!(contracts) {
        let calls = contract.calls;
        let created: Vec<_> = written.iter().copied().chain([manager(4)]).collect();
        check(calls.create, &contract, &created, &object);
        check(calls.get, &contract, &[NAMESPACE, (2, "string name")], &object);
        check(
            calls.list,
            &contract,
            &[
                NAMESPACE,
                (2, "string label_selector"),
                (3, "string field_selector"),
                (4, "int32 page_size"),
                (5, "string page_token"),
            ],
            &[
                (1, "repeated object"),
                (2, "string next_page_token"),
                (3, "int64 resource_version"),
            ],
        );
        let updated: Vec<_> = written.iter().copied().chain([mask, manager(5)]).collect();
        check(calls.update, &contract, &updated, &object);
        let mut delete = vec![
            NAMESPACE,
            (2, "string name"),
            (3, "int64 resource_version"),
            (4, "string uid"),
            (6, "string propagation_policy"),
            (7, "bool validate_only"),
            (8, "string request_id"),
        ];
        if contract.kind == Pod::KIND {
            delete.push((5, "int32 grace_period_seconds"));
        }
        check(calls.delete, &contract, &delete, &object);
        let applied: Vec<_> = created.iter().copied().chain([(5, "bool force")]).collect();
        check(
            calls.apply,
            &contract,
            &applied,
            &[(1, "object"), (2, "ApplyOutcome outcome")],
        );
        check_batch(&contract);
        let mut delete_many = vec![
            NAMESPACE,
            (2, "string label_selector"),
            (3, "string field_selector"),
            (4, "int32 page_size"),
            (5, "string page_token"),
            (6, "bool all"),
            (8, "string propagation_policy"),
            (9, "bool validate_only"),
            (10, "int64 resource_version"),
            (11, "string request_id"),
        ];
        if contract.kind == Pod::KIND {
            delete_many.push((7, "int32 grace_period_seconds"));
        }
        check(
            calls.delete_many,
            &contract,
            &delete_many,
            &[
                (1, "repeated ObjectDeletion deletions"),
                (2, "string next_page_token"),
                (3, "int32 deleted_count"),
                (4, "int32 ending_count"),
                (5, "int32 failed_count"),
            ],
        );
        check(
            calls.watch,
            &contract,
            &[
                NAMESPACE,
                (2, "string label_selector"),
                (3, "string field_selector"),
                (4, "int64 resource_version"),
                (5, "bool send_initial_state"),
                (6, "bool include_previous"),
            ],
            &[
                (1, "WatchEventType type"),
                (2, "object"),
                (3, "int64 resource_version"),
                (4, "object"),
            ],
        );
        if method(calls.update_status).is_some() {
            let mut status = vec![(1, "object"), (3, "bool validate_only"), (4, "string request_id")];
            if contract.kind == Pod::KIND {
                status.push((2, "repeated string condition_types"));
            }
            check(calls.update_status, &contract, &status, &object);
        }
    }
}

/// Its messages have the kind in their names.
fn check_batch(contract: &Contract) {
    let kind = contract.kind;
    let (writes, results) = (
        format!("repeated {kind}Write writes"),
        format!("repeated {kind}WriteResult results"),
    );
    check(contract.calls.batch, contract, &[(1, &writes)], &[(1, &results)]);
    let message = |name: &str| {
        let name = format!("clone8s.v1.{kind}{name}");
        shapes(&descriptors().get_message_by_name(&name).unwrap(), kind)
    };
    let calls = ["Create", "Update", "Delete", "Apply"].map(|call| {
        let field = call.to_lowercase();
        format!("{call}{kind}Request {field}")
    });
    assert_eq!(message("Write"), (1..).zip(calls).collect());
    assert_eq!(
        message("WriteResult"),
        expected(&[(1, "object"), (2, "ApplyOutcome outcome"), (3, "CallError error")])
    );
}

#[test]
fn an_encoded_object_reads_back_as_the_object() {
    let pod = Pod {
        metadata: Some(ObjectMeta {
            name: "web".into(),
            resource_version: 7,
            ..ObjectMeta::default()
        }),
        ..Pod::default()
    };
    let sent = WatchResponse {
        r#type: WatchEventType::Modified.into(),
        object: Some(Encoded(pod.encode_to_vec().into())),
        resource_version: 7,
        previous: None,
    };
    let bytes = sent.encode_to_vec();
    assert_eq!(bytes.len(), sent.encoded_len());
    let read = crate::v1::WatchPodsResponse::decode(bytes.as_slice()).unwrap();
    assert_eq!(read.pod, Some(pod));
    assert_eq!(
        (read.r#type(), read.resource_version),
        (WatchEventType::Modified, 7)
    );
}

#[test]
fn an_encoded_object_does_not_show_what_it_holds() {
    let secret = Encoded(Bytes::from_static(b"password"));
    assert_eq!(format!("{secret:?}"), "Encoded(8 bytes)");
}
