//! Several writes in one call.

use clone8s::v1::{pod_write::Write, *};
use tonic::Code;

use crate::harness::*;

fn create(name: &str) -> PodWrite {
    PodWrite {
        write: Some(Write::Create(CreatePodRequest {
            pod: Some(pod(name)),
            ..CreatePodRequest::default()
        })),
    }
}

#[tokio::test]
async fn each_write_of_a_batch_has_its_own_result() {
    let server = Server::start().await;
    let root = server.root();
    let there = create_pod(&root, pod("there")).await;
    let old = create_pod(&root, pod("old")).await;
    let mut changed = there.clone();
    changed
        .metadata
        .as_mut()
        .unwrap()
        .labels
        .insert("a".into(), "1".into());
    let writes = vec![
        create("new"),
        create("there"),
        PodWrite {
            write: Some(Write::Update(UpdatePodRequest {
                pod: Some(changed),
                ..UpdatePodRequest::default()
            })),
        },
        PodWrite {
            write: Some(Write::Delete(DeletePodRequest {
                name: "old".into(),
                ..DeletePodRequest::default()
            })),
        },
        PodWrite {
            write: Some(Write::Apply(ApplyPodRequest {
                pod: Some(pod("applied")),
                field_manager: "c8s".into(),
                ..ApplyPodRequest::default()
            })),
        },
        PodWrite { write: None },
    ];
    let request = BatchWritePodsRequest { writes };
    let results = pods(&root)
        .batch_write_pods(request)
        .await
        .unwrap()
        .into_inner()
        .results;
    let reasons: Vec<_> = results
        .iter()
        .map(|result| result.error.as_ref().map_or("", |error| error.reason.as_str()))
        .collect();
    assert_eq!(reasons, ["", "ALREADY_EXISTS", "", "", "", "INVALID"]);
    assert_eq!(
        results[1].error.as_ref().unwrap().code,
        i32::from(Code::AlreadyExists)
    );
    assert_eq!(results[0].pod, Some(get_pod(&root, "new").await.unwrap()));
    assert_eq!(results[2].pod, Some(get_pod(&root, "there").await.unwrap()));
    let deleted = results[3].pod.as_ref().unwrap();
    assert_eq!(deleted.metadata.as_ref().unwrap().uid, old.metadata.unwrap().uid);
    assert_eq!(deleted.spec, None);
    assert_eq!(get_pod(&root, "old").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(results[4].outcome(), ApplyOutcome::Created);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_has_a_bound() {
    let server = Server::start().await;
    let root = server.root();
    let request = BatchWritePodsRequest {
        writes: vec![create("one"); 501],
    };
    let error = pods(&root).batch_write_pods(request).await.unwrap_err();
    assert_eq!(told(&error), (Code::InvalidArgument, "INVALID".into()));
    assert_eq!(get_pod(&root, "one").await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}
