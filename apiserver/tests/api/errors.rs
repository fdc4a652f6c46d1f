//! Errors reach the client, whatever it was that it sent.

use std::collections::BTreeMap;

use clone8s::v1::*;
use pbjson_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::*;

/// A client that takes no more than 8 KiB of headers gets this error, and its first field is this one.
#[track_caller]
fn told(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    // The details travel as base64.
    let bytes = status.message().len() + status.details().len() * 4 / 3;
    assert!(bytes < 8 * 1024, "{bytes} bytes of {status:?}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    assert!(violations[0].field.starts_with(field), "{violations:?}");
}

fn annotated(key: &str, count: usize) -> Pod {
    let mut pod = pod("web");
    let annotations: BTreeMap<_, _> = (0..count)
        .map(|at| (format!("{key}{at}"), String::new()))
        .collect();
    pod.metadata.as_mut().unwrap().annotations = annotations;
    pod
}

#[tokio::test]
async fn a_refusal_is_told_however_much_is_wrong() {
    let server = Server::start().await;
    let mut pods = pods(&server.root());
    let long = "x".repeat(1 << 20);
    let creations = [
        (pod(&long), "metadata.name"),
        (pod(&"\u{1F980}".repeat(1 << 16)), "metadata.name"),
        (annotated("not a key ", 5_000), "metadata.annotations"),
        (annotated(&long, 1), "metadata.annotations"),
    ];
    for (pod, field) in creations {
        let request = CreatePodRequest {
            pod: Some(pod),
            ..CreatePodRequest::default()
        };
        told(&pods.create_pod(request).await.unwrap_err(), field);
    }
    for path in [
        long.clone(),
        "metadata.".repeat(1 << 16),
        format!("metadata.labels.`{long}"),
    ] {
        let request = UpdatePodRequest {
            pod: Some(pod("web")),
            update_mask: Some(FieldMask { paths: vec![path] }),
            ..UpdatePodRequest::default()
        };
        told(&pods.update_pod(request).await.unwrap_err(), "update_mask");
    }
    let selector = format!("a={}", "x".repeat(16_000));
    for (label_selector, field_selector, field) in [
        (selector.as_str(), "", "label_selector"),
        (long.as_str(), "", "label_selector"),
        ("", selector.as_str(), "field_selector"),
        ("", long.as_str(), "field_selector"),
    ] {
        let request = ListPodsRequest {
            label_selector: label_selector.to_owned(),
            field_selector: field_selector.to_owned(),
            ..ListPodsRequest::default()
        };
        told(&pods.list_pods(request).await.unwrap_err(), field);
    }
    let request = ListPodsRequest {
        page_token: long,
        ..ListPodsRequest::default()
    };
    told(&pods.list_pods(request).await.unwrap_err(), "page_token");
    server.stop().await;
}
