//! Evictions: graceful deletions that say on the pod that it did not end by itself.

use clone8s::v1::*;
use tonic::{Code, Status, transport::Channel};

use crate::harness::*;

fn of(name: &str) -> EvictPodRequest {
    EvictPodRequest {
        name: name.into(),
        ..EvictPodRequest::default()
    }
}

async fn evict(channel: &Channel, request: EvictPodRequest) -> Result<Pod, Status> {
    Ok(pods(channel).evict_pod(request).await?.into_inner().pod.unwrap())
}

fn disruption(pod: &Pod) -> Option<&Condition> {
    let mut conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions.find(|condition| condition.r#type == "DisruptionTarget")
}

async fn write_status(channel: &Channel, pod: &Pod, phase: &str) -> Pod {
    let mut pod = pod.clone();
    pod.status = Some(PodStatus {
        phase: phase.into(),
        ..PodStatus::default()
    });
    let request = UpdatePodStatusRequest {
        pod: Some(pod),
        ..UpdatePodStatusRequest::default()
    };
    let written = pods(channel).update_pod_status(request).await.unwrap();
    written.into_inner().pod.unwrap()
}

#[tokio::test]
async fn an_evicted_pod_ends_gracefully_and_says_why_until_it_is_gone() {
    let (server, root, _) = running().await;
    let evicted = evict(
        &root,
        EvictPodRequest {
            message: "node n1 is drained".into(),
            ..of("web")
        },
    )
    .await
    .unwrap();
    let meta = evicted.metadata.as_ref().unwrap();
    assert!(meta.deletion_timestamp.is_some());
    assert_eq!(meta.deletion_grace_period_seconds, Some(30));
    assert_eq!(meta.generation, 1, "what is asked of the pod is the same");
    let condition = disruption(&evicted).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("True", "EvictionByEvictionAPI")
    );
    assert_eq!(condition.message, "node n1 is drained");
    assert!(condition.last_transition_time.is_some());

    // What its node says of it while it stops leaves that alone.
    let node = server.joined("n1").await;
    let stopping = write_status(&node, &evicted, "Running").await;
    let stopping = write_status(&node, &stopping, "Succeeded").await;
    assert_eq!(disruption(&stopping), disruption(&evicted));
    server.stop().await;
}

#[tokio::test]
async fn a_node_says_that_it_ends_a_pod_where_nobody_has_said_so_before() {
    let (server, root, pod) = running().await;
    let node = server.joined("n1").await;
    let saying = |reason: &str| {
        let mut pod = pod.clone();
        pod.status = Some(PodStatus {
            conditions: vec![Condition {
                r#type: "DisruptionTarget".into(),
                status: "True".into(),
                reason: reason.into(),
                ..Condition::default()
            }],
            ..PodStatus::default()
        });
        pod.metadata.as_mut().unwrap().resource_version = 0;
        UpdatePodStatusRequest {
            pod: Some(pod),
            ..UpdatePodStatusRequest::default()
        }
    };
    let written = pods(&node)
        .update_pod_status(saying("TerminationByKubelet"))
        .await
        .unwrap();
    let written = written.into_inner().pod.unwrap();
    assert_eq!(disruption(&written).unwrap().reason, "TerminationByKubelet");

    // The first word stays, whatever its node or another says later.
    let other = pods(&root).update_pod_status(saying("NodeLost")).await.unwrap();
    let other = other.into_inner().pod.unwrap();
    assert_eq!(disruption(&other), disruption(&written));
    let silent = write_status(&node, &other, "Failed").await;
    assert_eq!(disruption(&silent), disruption(&written));
    server.stop().await;
}

#[tokio::test]
async fn an_eviction_never_removes_what_its_node_still_runs() {
    let (server, root, _) = running().await;
    let quick = EvictPodRequest {
        grace_period_seconds: Some(0),
        ..of("web")
    };
    evict(&root, quick).await.unwrap();
    let meta = get_pod(&root, "web").await.unwrap().metadata.unwrap();
    assert_eq!(meta.deletion_grace_period_seconds, Some(1));

    // Nobody has to stop this one.
    create_pod(&root, pod("waiting")).await;
    let last = evict(&root, of("waiting")).await.unwrap();
    assert!(disruption(&last).is_some());
    assert_eq!(
        get_pod(&root, "waiting").await.unwrap_err().code(),
        Code::NotFound
    );
    server.stop().await;
}

#[tokio::test]
async fn what_ends_anyway_is_not_called_disrupted() {
    let (server, root, pod) = running().await;
    write_status(&root, &pod, "Succeeded").await;
    let finished = evict(&root, of("web")).await.unwrap();
    assert_eq!(disruption(&finished), None);

    create_pod(&root, pod_on("ending", "n1")).await;
    let delete = DeletePodRequest {
        name: "ending".into(),
        grace_period_seconds: Some(20),
        ..DeletePodRequest::default()
    };
    pods(&root).delete_pod(delete).await.unwrap();
    let sooner = EvictPodRequest {
        grace_period_seconds: Some(5),
        ..of("ending")
    };
    let ending = evict(&root, sooner).await.unwrap();
    assert_eq!(disruption(&ending), None);
    let meta = ending.metadata.unwrap();
    assert_eq!(meta.deletion_grace_period_seconds, Some(5));
    server.stop().await;
}

#[tokio::test]
async fn an_eviction_is_held_to_what_its_caller_says() {
    let (server, root, pod) = running().await;
    let meta = pod.metadata.clone().unwrap();
    let refusals = [
        (of("absent"), Code::NotFound, "NOT_FOUND"),
        (
            EvictPodRequest {
                uid: "another".into(),
                ..of("web")
            },
            Code::FailedPrecondition,
            "UID_MISMATCH",
        ),
        (
            EvictPodRequest {
                resource_version: meta.resource_version - 1,
                ..of("web")
            },
            Code::Aborted,
            "STALE_RESOURCE_VERSION",
        ),
        (
            EvictPodRequest {
                grace_period_seconds: Some(-1),
                ..of("web")
            },
            Code::InvalidArgument,
            "INVALID",
        ),
        (
            EvictPodRequest {
                message: "w".repeat(1_025),
                ..of("web")
            },
            Code::InvalidArgument,
            "INVALID",
        ),
    ];
    for (request, code, reason) in refusals {
        let error = evict(&root, request).await.unwrap_err();
        assert_eq!(told(&error), (code, reason.into()));
    }
    let tried = EvictPodRequest {
        validate_only: true,
        ..of("web")
    };
    assert!(disruption(&evict(&root, tried).await.unwrap()).is_some());
    assert_eq!(get_pod(&root, "web").await.unwrap(), pod);
    let node = server.joined("n1").await;
    let error = evict(&node, of("web")).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    server.stop().await;
}

#[tokio::test]
async fn an_eviction_that_is_repeated_leaves_the_next_pod_of_that_name() {
    let server = Server::start().await;
    let root = server.root();
    let old = create_pod(&root, pod("web")).await;
    let request = EvictPodRequest {
        request_id: "drain-1".into(),
        ..of("web")
    };
    evict(&root, request.clone()).await.unwrap();
    let new = create_pod(&root, pod("web")).await;
    let again = evict(&root, request).await.unwrap();
    assert_eq!(again.metadata.unwrap().uid, old.metadata.unwrap().uid);
    assert_eq!(get_pod(&root, "web").await.unwrap(), new);
    server.stop().await;
}
