mod cluster;

use std::{collections::HashMap, sync::atomic::Ordering};

use bytes::Bytes;
use clone8s::{
    object::Object as _,
    v1::{Condition, Node, ObjectMeta, Pod},
};
use clone8s_bus::{EVENTS_EXCHANGE, NODES_EXCHANGE, QUEUE_CONDITION, Queue};
use prost::Message as _;
use tokio::time::timeout;

use self::cluster::Cluster;
use super::*;
use crate::{
    cache,
    store::{Precondition, Revision, embedded::Options},
};

const SOON: Duration = Duration::from_secs(20);
/// A lease that no slow machine loses: without a loss, nothing is told twice.
const CALM: Timing = Timing {
    renew: Duration::from_millis(50),
    expire: Duration::from_mins(5),
    save: Duration::from_millis(20),
    idle: 500,
    alone: false,
};
/// A lease that others follow soon.
const QUICK: Timing = Timing {
    // No disk takes so long over a renewal.
    expire: Duration::from_secs(4),
    ..CALM
};

#[tokio::test]
async fn each_change_reaches_everybody_and_its_node_with_its_body() {
    let cluster = Cluster::new();
    let queue = Queue::Node("alpha".to_owned());
    let mut node = cluster.bus.subscribe(queue, 10).await.unwrap();
    let _running = cluster.start("a", CALM, &Shutdown::new());
    let added = cluster.put("web", "").await;
    let bound = cluster.put("web", "alpha").await;
    let deleted = cluster.delete("web").await;
    for (verb, revision) in [("added", bound), ("deleted", deleted)] {
        let delivery = timeout(SOON, node.next()).await.unwrap().unwrap();
        let message = delivery.message();
        assert_eq!(
            (message.headers["verb"].as_str(), &message.message_id),
            (verb, &format!("web/{revision}"))
        );
        let pod = Pod::decode(message.body.clone()).unwrap();
        assert_eq!(
            (pod.resource_version(), pod.spec.unwrap().node_name.as_str()),
            (revision.0, "alpha")
        );
        delivery.ack().await.unwrap();
    }
    cluster.until_told(deleted).await;
    cluster.assert_all_told_in_order(&[added, bound, deleted]);
    let lines = cluster.bus.confirmed.lock().unwrap().clone();
    assert!(lines.contains(&(
        format!("{EVENTS_EXCHANGE} pods.deleted.default.web"),
        "web".to_owned(),
        deleted.0
    )));
    assert!(
        lines
            .iter()
            .any(|(to, ..)| to == &format!("{NODES_EXCHANGE} alpha"))
    );
}

#[tokio::test]
async fn a_node_that_misses_its_queue_gets_it_once_the_bus_is_there() {
    let cluster = Cluster::new();
    cluster.bus.down.store(true, Ordering::Relaxed);
    let _running = cluster.start("a", CALM, &Shutdown::new());
    let mut node = Node {
        metadata: Some(ObjectMeta {
            name: "alpha".to_owned(),
            uid: "alpha".to_owned(),
            ..ObjectMeta::default()
        }),
        ..Node::default()
    };
    let status = node.status.get_or_insert_default();
    status.conditions.push(Condition {
        r#type: QUEUE_CONDITION.to_owned(),
        status: "False".to_owned(),
        ..Condition::default()
    });
    let heartbeat = async || {
        let (key, value) = (node.store_key(), node.encode_to_vec().into());
        let put = cluster.store.put(&key, value, Precondition::Any);
        put.await.unwrap()
    };
    heartbeat().await;
    cluster
        .until("the outbox tries", |cluster| {
            cluster.bus.attempts.load(Ordering::Relaxed) > 2
        })
        .await;
    assert!(cluster.bus.declared.lock().unwrap().is_empty());
    cluster.bus.down.store(false, Ordering::Relaxed);
    let second = heartbeat().await;
    cluster.until_told(second).await;
    assert_eq!(*cluster.bus.declared.lock().unwrap(), ["alpha"]);
}

#[tokio::test]
async fn what_was_written_before_the_first_start_is_told_too() {
    let cluster = Cluster::new();
    let first = cluster.put("early", "").await;
    let _running = cluster.start("a", CALM, &Shutdown::new());
    cluster.until_told(first).await;
}

#[tokio::test]
async fn a_flaky_bus_loses_nothing_and_keeps_the_order_per_object() {
    let cluster = Cluster::new();
    cluster.bus.flaky.store(true, Ordering::Relaxed);
    let _running = cluster.start("a", CALM, &Shutdown::new());
    let mut expected = Vec::new();
    for round in 0..20 {
        for name in ["a", "b", "c"] {
            expected.push(
                cluster
                    .put(name, if round % 2 == 0 { "alpha" } else { "beta" })
                    .await,
            );
        }
    }
    cluster
        .until("all is told", |cluster| cluster.events().len() >= expected.len())
        .await;
    cluster.assert_all_told_in_order(&expected);
    // Without a crash, nothing is told twice.
    assert_eq!(cluster.events().len(), expected.len());
}

#[tokio::test]
async fn a_bus_that_is_down_is_waited_for() {
    let cluster = Cluster::new();
    cluster.bus.down.store(true, Ordering::Relaxed);
    let _running = cluster.start("a", CALM, &Shutdown::new());
    let mut expected = Vec::new();
    for number in 0..10 {
        expected.push(cluster.put(&format!("pod-{number}"), "alpha").await);
    }
    cluster
        .until("the outbox tries", |cluster| {
            cluster.bus.attempts.load(Ordering::Relaxed) > 5
        })
        .await;
    assert!(cluster.events().is_empty());
    // The lease is renewed meanwhile, and the cursor stays.
    let (before, _) = cluster.store.get(LEADER_KEY).await.unwrap();
    tokio::time::sleep(CALM.renew * 6).await;
    let (after, _) = cluster.store.get(LEADER_KEY).await.unwrap();
    assert!(after.unwrap().revision > before.unwrap().revision);
    assert_eq!(cluster.saved_cursor().await, 1);
    cluster.bus.down.store(false, Ordering::Relaxed);
    cluster.until_told(expected[9]).await;
    cluster
        .until("all is told", |cluster| cluster.events().len() == 10)
        .await;
    cluster.assert_all_told_in_order(&expected);
}

#[tokio::test]
async fn a_crash_between_publish_and_cursor_tells_again_and_skips_nothing() {
    let cluster = Cluster::new();
    let never_saves = Timing {
        save: SOON * 10,
        ..CALM
    };
    let mut expected = Vec::new();
    for round in 0..4 {
        let crashing = cluster.start("a", never_saves, &Shutdown::new());
        // The last ones are on their way, or not even that, at the crash.
        for number in 0..15 {
            expected.push(cluster.put(&format!("pod-{}", number % 3), "alpha").await);
        }
        if round % 2 == 0 {
            cluster.until_told(expected[expected.len() - 5]).await;
        }
        drop(crashing);
    }
    assert_eq!(cluster.saved_cursor().await, 1, "no crash saved anything");
    let told_before = cluster.events().len();
    let _last = cluster.start("a", CALM, &Shutdown::new());
    cluster
        .until("everything is told again", |cluster| {
            cluster.events().len() >= told_before + expected.len()
        })
        .await;
    cluster.assert_all_told_in_order(&expected);
}

#[tokio::test]
async fn the_cursor_follows_the_confirms_and_a_restart_goes_on_after_it() {
    let cluster = Cluster::new();
    let first = cluster.start("a", CALM, &Shutdown::new());
    let told = cluster.put("web", "").await;
    cluster.until_told(told).await;
    let saved = async {
        while cluster.saved_cursor().await < told.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, saved).await.expect("the cursor is saved");
    drop(first);
    let _second = cluster.start("a", CALM, &Shutdown::new());
    let next = cluster.put("web", "").await;
    cluster.until_told(next).await;
    assert_eq!(cluster.events().len(), 2, "{:?}", cluster.events());
}

#[tokio::test]
async fn a_cursor_older_than_the_history_tells_what_there_is_and_that_something_is_missing() {
    let cluster = Cluster::with(&Options::keeping(20));
    drop(cluster.outbox("a", CALM));
    let kept = cluster.put("kept", "alpha").await;
    cluster.put("gone", "alpha").await;
    cluster.delete("gone").await;
    for _ in 0..100 {
        cluster
            .store
            .put("/clone8s/system/other", Bytes::new(), Precondition::Any)
            .await
            .unwrap();
    }
    let pattern = "#".to_owned();
    let queue = Queue::Temporary {
        exchange: EVENTS_EXCHANGE,
        pattern,
    };
    let mut everything = cluster.bus.subscribe(queue, 10).await.unwrap();
    let _running = cluster.start("a", CALM, &Shutdown::new());
    let gap = timeout(SOON, everything.next()).await.unwrap().unwrap();
    assert_eq!(gap.message().headers["verb"], "gap");
    let body: HashMap<String, i64> = serde_yaml::from_slice(&gap.message().body).unwrap();
    assert_eq!(body["after"], 1);
    assert!(body["until"] >= kept.0 + 100);
    let restated = timeout(SOON, everything.next()).await.unwrap().unwrap();
    assert_eq!(restated.message().message_id, format!("kept/{kept}"));
    assert_eq!(restated.message().headers["verb"], "modified");
    // And on it goes.
    let next = cluster.put("next", "").await;
    cluster.until_told(next).await;
    assert_eq!(cluster.events().len(), 3, "{:?}", cluster.events());
}

#[tokio::test]
async fn of_two_outboxes_one_publishes_and_the_other_follows_a_crash() {
    let cluster = Cluster::new();
    let shutdown = Shutdown::new();
    let first = cluster.start("first", QUICK, &shutdown);
    let one = cluster.put("web", "").await;
    cluster.until_told(one).await;
    let _second = cluster.start("second", QUICK, &shutdown);
    tokio::time::sleep(QUICK.expire * 3 / 2).await;
    let two = cluster.put("web", "").await;
    cluster.until_told(two).await;
    assert_eq!(cluster.events().len(), 2, "only the leader publishes");
    assert!(cluster.leader().await.unwrap().contains("first"));

    drop(first);
    let three = cluster.put("web", "").await;
    cluster.until_told(three).await;
    let leader = cluster.leader().await.unwrap();
    assert!(
        leader.contains("second") && leader.contains("term: 2"),
        "{leader}"
    );
    cluster.assert_all_told_in_order(&[one, two, three]);
}

#[tokio::test]
async fn who_stops_in_order_leaves_the_lease_and_the_cursor_to_the_next() {
    let cluster = Cluster::new();
    let slow = Timing {
        expire: SOON * 10,
        save: SOON * 10,
        ..CALM
    };
    let shutdown = Shutdown::new();
    let mut first = cluster.start("first", slow, &shutdown);
    let told = cluster.put("web", "").await;
    cluster.until_told(told).await;
    shutdown.cancel();
    timeout(SOON, first.join_next())
        .await
        .expect("it stops")
        .unwrap()
        .unwrap();
    assert_eq!(cluster.leader().await, None);
    assert!(cluster.saved_cursor().await >= told.0);
    let _second = cluster.start("second", slow, &Shutdown::new());
    let next = cluster.put("web", "").await;
    cluster.until_told(next).await;
    assert_eq!(cluster.events().len(), 2);
}

#[tokio::test]
async fn a_leader_that_was_overtaken_can_move_neither_lease_nor_cursor() {
    let cluster = Cluster::new();
    let store = &*cluster.store;
    let publisher = Publisher::new(
        Arc::clone(&cluster.bus) as Arc<dyn EventBus>,
        watch::Sender::new(true),
    );
    let caches = &cluster.caches();
    let feeding = cache::feed(Arc::clone(caches), Arc::clone(&cluster.store), Shutdown::new());
    let mut old = Lease::acquire(store, "old", QUICK).await.unwrap();
    let slow = Timing { save: SOON, ..QUICK };
    let mut old_tail = Tail::start(store, caches, &publisher, old.term(), slow)
        .await
        .unwrap();
    let told = cluster.put("web", "").await;
    tokio::select! {
        Err(error) = old_tail.run() => panic!("{error}"),
        fed = feeding => panic!("{fed:?}"),
        () = async {
            cluster.until_told(told).await;
            tokio::time::sleep(QUICK.renew).await;
        } => {}
    }
    assert_eq!(old_tail.cursor(), told);

    let new = Lease::acquire(store, "new", QUICK).await.unwrap();
    assert_eq!(new.term(), 2);
    let new_tail = Tail::start(store, caches, &publisher, new.term(), slow)
        .await
        .unwrap();
    // By its clock or by the key, whichever tells it first.
    let _ = timeout(SOON, old.hold())
        .await
        .expect("it learns that it lost the lease");
    let error = old_tail.save().await.unwrap_err();
    assert!(matches!(error, StoreError::Stale { .. }), "{error:?}");
    assert_eq!(new_tail.cursor(), Revision(1));
    old.release().await.unwrap();
    assert!(
        cluster.leader().await.unwrap().contains("new"),
        "release is only for the holder"
    );
}

#[tokio::test]
async fn an_idle_cluster_keeps_its_cursor_within_the_history() {
    let cluster = Cluster::with(&Options {
        progress_every: Duration::from_millis(20),
        ..Options::keeping(2_000)
    });
    let first = cluster.start("a", CALM, &Shutdown::new());
    let told = cluster.put("web", "").await;
    cluster.until_told(told).await;
    for _ in 0..1_200 {
        cluster
            .store
            .put("/clone8s/system/other", Bytes::new(), Precondition::Any)
            .await
            .unwrap();
    }
    let followed = async {
        while cluster.saved_cursor().await < told.0 + 500 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, followed).await.expect("the cursor follows");
    drop(first);
}

#[tokio::test]
async fn where_nobody_else_can_be_the_lease_of_the_dead_is_taken_at_once() {
    let cluster = Cluster::new();
    let timing = Timing::of(&*cluster.store);
    assert!(timing.alone);
    drop(Lease::acquire(&*cluster.store, "gone", timing).await.unwrap());
    let next = timeout(SOON, Lease::acquire(&*cluster.store, "next", timing));
    assert_eq!(next.await.expect("at once").unwrap().term(), 2);
}
