//! The store's log reaches the broker: every change, at least once, in order per object.

use std::collections::BTreeMap;

use clone8s::{
    client::{DeleteOptions, Resource as _},
    object::Object as _,
    v1::Pod,
};
use clone8s_integration::{ControlPlane, Foreign, RabbitMq, Sandbox, foreign, pods, wait};
use prost::Message as _;
use tonic::{Code, transport::Channel};

use crate::api::readiness;

const QUEUE: &str = "audit";

/// The revisions of one object's writes, in the order in which the store took them.
type Writes = BTreeMap<String, Vec<i64>>;

fn labelled(name: &str, version: usize) -> Pod {
    let mut pod = pods::pod(name, &[("main", "registry.invalid/none:1")]);
    pod.metadata_mut()
        .labels
        .insert("version".into(), version.to_string());
    pod
}

/// Creates a pod, or changes it, over every break of the apiserver.
async fn write(channel: &Channel, name: &str, version: usize, writes: &mut Writes) {
    let stored = wait::until(&format!("{name} is written"), || async {
        match Pod::create(channel, labelled(name, version)).await {
            Err(status) if status.code() == Code::AlreadyExists => {}
            other => return Ok(other?),
        }
        let present = Pod::get(channel, "default", name).await?;
        // A try whose answer was lost.
        if present.metadata.as_ref().unwrap().labels.get("version") == Some(&version.to_string()) {
            return Ok(present);
        }
        Ok(Pod::update(channel, labelled(name, version)).await?)
    })
    .await;
    writes
        .entry(name.to_owned())
        .or_default()
        .push(stored.resource_version());
}

/// Reads the queue until every write has come, dropping what comes again, as a consumer is told to.
async fn check_arrivals(broker: &str, writes: &Writes) {
    let foreign = Foreign::connect(broker).await.unwrap();
    let mut consumer = foreign.consume(QUEUE).await.unwrap();
    let mut arrived = Writes::new();
    let missing = |arrived: &Writes| {
        writes
            .iter()
            .filter(|(name, revisions)| {
                let came = arrived.get(*name).map_or(&[][..], Vec::as_slice);
                !revisions.iter().all(|revision| came.contains(revision))
            })
            .map(|(name, revisions)| format!("{name}: wrote {revisions:?}, got {:?}", arrived.get(name)))
            .collect::<Vec<_>>()
    };
    while !missing(&arrived).is_empty() {
        let Ok(message) = tokio::time::timeout(wait::BOUND, foreign::next(&mut consumer)).await else {
            panic!("changes that never came:\n{}", missing(&arrived).join("\n"));
        };
        let message = message.unwrap();
        assert_eq!(message.content_type, "application/x-protobuf");
        assert_eq!(message.kind, "clone8s.v1.Pod");
        let pod = Pod::decode(message.body.as_slice()).unwrap();
        let revision: i64 = message.header("revision").parse().unwrap();
        assert_eq!(message.message_id, format!("{}/{revision}", pod.uid()));
        let verb = message.header("verb");
        let key = format!("pods.{verb}.default.{}", pod.name());
        assert_eq!(message.routing_key, key);
        let seen = arrived.entry(pod.name().to_owned()).or_default();
        // "Consumers drop revisions that they have seen".
        if seen.last().is_none_or(|&last| last < revision) {
            seen.push(revision);
        }
    }
    foreign.close().await;
}

#[tokio::test]
async fn what_was_stored_while_the_broker_was_away_arrives_after_both_came_back() {
    let sandbox = Sandbox::new();
    let mut broker = RabbitMq::start(&sandbox).await;
    let vhost = broker.vhost();
    let mut plane = ControlPlane::start(&sandbox, Some(&vhost)).await;
    Foreign::bind(&vhost, QUEUE, "clone8s.events", "pods.#").await;
    let mut writes = Writes::new();
    for number in 0..5 {
        write(&plane.channel(), &format!("before-{number}"), 0, &mut writes).await;
    }

    broker.process.stop().unwrap();
    for version in 0..4 {
        for number in 0..5 {
            write(
                &plane.channel(),
                &format!("during-{number}"),
                version,
                &mut writes,
            )
            .await;
        }
    }
    // Stored and, with no broker, not published: now the apiserver dies between the two.
    plane.apiserver.kill();
    broker.start_again().await;
    plane.start_apiserver().await;
    for number in 0..5 {
        write(&plane.channel(), &format!("during-{number}"), 4, &mut writes).await;
    }
    check_arrivals(&vhost, &writes).await;
}

#[tokio::test]
async fn an_apiserver_killed_again_and_again_under_writes_skips_no_change() {
    let sandbox = Sandbox::new();
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost();
    let mut plane = ControlPlane::start(&sandbox, Some(&vhost)).await;
    Foreign::bind(&vhost, QUEUE, "clone8s.events", "pods.#").await;
    let mut writes = Writes::new();
    for version in 0..8 {
        for number in 0..12 {
            write(&plane.channel(), &format!("pod-{number}"), version, &mut writes).await;
        }
        if version % 2 == 0 {
            plane.apiserver.kill();
            plane.start_apiserver().await;
        }
    }
    check_arrivals(&vhost, &writes).await;
}

#[tokio::test]
async fn a_broker_that_stops_under_writes_and_comes_back_misses_none() {
    let sandbox = Sandbox::new();
    let mut broker = RabbitMq::start(&sandbox).await;
    let vhost = broker.vhost();
    let plane = ControlPlane::start(&sandbox, Some(&vhost)).await;
    Foreign::bind(&vhost, QUEUE, "clone8s.events", "pods.#").await;
    broker.sync();
    let mut writes = Writes::new();
    for number in 0..20 {
        write(&plane.channel(), &format!("pod-{number}"), 0, &mut writes).await;
        match number {
            5 => broker.process.kill(),
            10 => {
                readiness(&plane, "readiness.broker", "NOT_SERVING").await;
                readiness(&plane, "readiness", "NOT_SERVING").await;
                readiness(&plane, "", "SERVING").await;
            }
            15 => {
                broker.start_again().await;
                readiness(&plane, "readiness", "SERVING").await;
            }
            _ => {}
        }
    }
    check_arrivals(&vhost, &writes).await;

    let at_once = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    Pod::delete(&plane.channel(), "default", "pod-0", &at_once)
        .await
        .unwrap();
    let foreign = Foreign::connect(&vhost).await.unwrap();
    wait::until("the deletion arrives", || async {
        let message = foreign.take(QUEUE).await?;
        anyhow::ensure!(
            message.is_some_and(|it| it.routing_key == "pods.deleted.default.pod-0"),
            "not yet"
        );
        Ok(())
    })
    .await;
    foreign.close().await;
}
