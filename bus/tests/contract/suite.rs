//! The claims. Each takes a bus that others may be using too, so names are unique to a run.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use bytes::Bytes;
use clone8s_bus::{
    BusError, Delivery, EVENTS_EXCHANGE, EventBus, METRICS_EXCHANGE, Message, NODES_EXCHANGE, ORIGIN_HEADER,
    Queue, REASON_HEADER, Receipt, Subscription, node_queue,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_mins(1);
/// Long enough for a message that must not come.
const QUIET: Duration = Duration::from_millis(150);

fn unique(role: &str) -> String {
    format!("{role}-{}", uuid::Uuid::new_v4().simple())
}

fn message(id: &impl ToString) -> Message {
    Message {
        message_id: id.to_string(),
        content_type: "application/json".to_owned(),
        body: Bytes::from_static(b"{}"),
        ..Message::default()
    }
}

async fn listen(bus: &dyn EventBus, node: &str, prefetch: u16) -> Box<dyn Subscription> {
    bus.subscribe(Queue::Node(node.to_owned()), prefetch)
        .await
        .unwrap()
}

/// A node whose queue exists, as after its kubelet's first start.
async fn known_node(bus: &dyn EventBus) -> String {
    let node = unique("node");
    drop(listen(bus, &node, 1).await);
    node
}

async fn send(bus: &dyn EventBus, node: &str, ids: impl IntoIterator<Item = u32>) {
    for id in ids {
        let receipt = bus.publish(NODES_EXCHANGE, node, message(&id)).await.unwrap();
        assert_eq!(receipt, Receipt::Taken);
    }
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Box<dyn Delivery> {
    timeout(SOON, subscription.next())
        .await
        .expect("no delivery came")
        .unwrap()
}

async fn stays_quiet(subscription: &mut Box<dyn Subscription>) {
    if let Ok(delivery) = timeout(QUIET, subscription.next()).await {
        panic!("unexpected: {delivery:?}");
    }
}

pub(crate) async fn a_message_arrives_as_it_was_sent(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    let sent = Message {
        message_id: "uid/42".to_owned(),
        content_type: "application/x-protobuf".to_owned(),
        kind: "clone8s.v1.Pod".to_owned(),
        headers: [("revision", "42"), ("verb", "added")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        body: Bytes::from((0..=255).cycle().take(300_000).collect::<Vec<u8>>()),
    };
    bus.publish(NODES_EXCHANGE, &node, sent.clone()).await.unwrap();
    let mut subscription = listen(bus, &node, 1).await;
    let delivery = next(&mut subscription).await;
    assert_eq!(delivery.message(), &sent);
    assert!(!delivery.redelivered());
    delivery.ack().await.unwrap();
}

pub(crate) async fn a_node_queue_keeps_messages_while_nobody_listens(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    send(bus, &node, 1..=3).await;
    let mut subscription = listen(bus, &node, 10).await;
    for id in 1..=3 {
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.message().message_id, id.to_string());
        delivery.ack().await.unwrap();
    }
}

pub(crate) async fn what_was_not_acknowledged_comes_back_in_order(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    send(bus, &node, 1..=4).await;
    let mut first = listen(bus, &node, 10).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut first).await);
    }
    held.remove(1).ack().await.unwrap();
    drop(first);

    let mut second = listen(bus, &node, 10).await;
    for (id, again) in [("1", true), ("3", true)] {
        let delivery = next(&mut second).await;
        assert_eq!(
            (delivery.message().message_id.as_str(), delivery.redelivered()),
            (id, again)
        );
        delivery.ack().await.unwrap();
    }
    // Whether the broker had handed out the last one already is its own business.
    let delivery = next(&mut second).await;
    assert_eq!(delivery.message().message_id, "4");
    delivery.ack().await.unwrap();
    stays_quiet(&mut second).await;
}

pub(crate) async fn what_was_acknowledged_does_not_come_back(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    send(bus, &node, 1..=2).await;
    let mut first = listen(bus, &node, 10).await;
    for _ in 0..2 {
        next(&mut first).await.ack().await.unwrap();
    }
    drop(first);
    let mut second = listen(bus, &node, 10).await;
    stays_quiet(&mut second).await;
}

pub(crate) async fn a_rejected_message_becomes_a_dead_letter_and_blocks_nothing(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    let id = unique("broken");
    let mut broken = message(&id);
    broken.headers.insert("verb".to_owned(), "added".to_owned());
    bus.publish(NODES_EXCHANGE, &node, broken.clone()).await.unwrap();
    send(bus, &node, [2]).await;
    let mut subscription = listen(bus, &node, 1).await;
    let reason = "line 3: there is no field spec.contianers; did you mean spec.containers?";
    next(&mut subscription).await.reject(reason).await.unwrap();
    let delivery = next(&mut subscription).await;
    assert_eq!(delivery.message().message_id, "2");
    delivery.ack().await.unwrap();
    stays_quiet(&mut subscription).await;

    let mut dead = bus.subscribe(Queue::Dead, 1).await.unwrap();
    loop {
        let delivery = next(&mut dead).await;
        let letter = delivery.message().clone();
        delivery.ack().await.unwrap();
        if letter.message_id != id {
            continue;
        }
        broken.headers.insert(REASON_HEADER.to_owned(), reason.to_owned());
        broken.headers.insert(ORIGIN_HEADER.to_owned(), node_queue(&node));
        assert_eq!(letter, broken);
        break;
    }
}

pub(crate) async fn messages_to_one_key_arrive_in_the_order_of_publishing(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    let mut subscription = listen(bus, &node, 20).await;
    send(bus, &node, 1..=100).await;
    for id in 1..=100 {
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.message().message_id, id.to_string());
        delivery.ack().await.unwrap();
    }
}

pub(crate) async fn no_more_than_the_prefetch_is_outstanding(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    send(bus, &node, 1..=3).await;
    let mut subscription = listen(bus, &node, 2).await;
    let first = next(&mut subscription).await;
    let _second = next(&mut subscription).await;
    stays_quiet(&mut subscription).await;
    first.ack().await.unwrap();
    assert_eq!(next(&mut subscription).await.message().message_id, "3");
}

pub(crate) async fn a_node_gets_only_its_own_messages(bus: &dyn EventBus) {
    let (mine, other) = (known_node(bus).await, known_node(bus).await);
    send(bus, &other, [1]).await;
    send(bus, &mine, [2]).await;
    let mut subscription = listen(bus, &mine, 10).await;
    assert_eq!(next(&mut subscription).await.message().message_id, "2");
    stays_quiet(&mut subscription).await;
}

pub(crate) async fn two_subscribers_of_one_node_share_its_messages(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    send(bus, &node, 1..=2).await;
    let (mut one, mut two) = (listen(bus, &node, 1).await, listen(bus, &node, 1).await);
    let (first, second) = (next(&mut one).await, next(&mut two).await);
    let mut ids = [&first, &second].map(|delivery| delivery.message().message_id.clone());
    ids.sort();
    assert_eq!(ids, ["1", "2"]);
}

pub(crate) async fn a_pattern_selects_events(bus: &dyn EventBus) {
    let namespace = unique("ns");
    let pattern = format!("pods.*.{namespace}.#");
    let queue = Queue::Temporary {
        exchange: EVENTS_EXCHANGE,
        pattern,
    };
    let mut subscription = bus.subscribe(queue.clone(), 10).await.unwrap();
    let mut second = bus.subscribe(queue, 10).await.unwrap();
    for (exchange, key, id) in [
        (EVENTS_EXCHANGE, format!("nodes.added.{namespace}.web"), 1),
        (METRICS_EXCHANGE, format!("pods.added.{namespace}.web"), 2),
        (EVENTS_EXCHANGE, format!("pods.deleted.{namespace}.web"), 3),
    ] {
        let receipt = bus.publish(exchange, &key, message(&id)).await.unwrap();
        assert_eq!(receipt, Receipt::Taken);
    }
    for subscription in [&mut subscription, &mut second] {
        let delivery = next(subscription).await;
        assert_eq!(delivery.message().message_id, "3");
        delivery.ack().await.unwrap();
        stays_quiet(subscription).await;
    }
}

pub(crate) async fn a_message_to_a_node_that_never_listened_is_unroutable(bus: &dyn EventBus) {
    let receipt = bus.publish(NODES_EXCHANGE, &unique("nobody"), message(&1)).await;
    assert_eq!(receipt.unwrap(), Receipt::Unroutable);
}

pub(crate) async fn an_unknown_exchange_is_refused_by_name(bus: &dyn EventBus) {
    let error = bus
        .publish("clone8s.nowhere", "key", message(&1))
        .await
        .unwrap_err();
    assert!(matches!(error, BusError::Refused(_)), "{error}");
    assert!(error.to_string().contains("clone8s.nowhere"), "{error}");
    // And the bus goes on.
    let node = known_node(bus).await;
    send(bus, &node, [1]).await;
}

pub(crate) async fn a_cancelled_wait_loses_nothing(bus: &dyn EventBus) {
    let node = known_node(bus).await;
    let mut subscription = listen(bus, &node, 5).await;
    for id in 1..=20 {
        let sending = send(bus, &node, [id]);
        // The wait is cut off again and again while the message is on its way.
        let delivery = tokio::select! {
            biased;
            delivery = next(&mut subscription) => delivery,
            () = sending => next(&mut subscription).await,
        };
        assert_eq!(delivery.message().message_id, id.to_string());
        delivery.ack().await.unwrap();
    }
}
