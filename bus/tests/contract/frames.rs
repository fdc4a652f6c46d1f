//! Whoever publishes to a node's queue may use the longest frames that the broker takes.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use clone8s_bus::{
    EventBus as _, Message, NODES_EXCHANGE, Queue,
    amqp::{AmqpBus, AmqpConfig},
};
use clone8s_integration::RabbitMq;

#[tokio::test]
async fn long_headers_of_other_programs_arrive_and_stop_nothing() {
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost();
    let bus = AmqpBus::connect(&AmqpConfig::new(&vhost)).unwrap();
    let node = || Queue::Node("n1".to_owned());
    let mut subscription = bus.subscribe(node(), 1).await.unwrap();
    let long = Message {
        headers: [("note".to_owned(), "x".repeat(100_000))].into(),
        ..Message::default()
    };
    for sent in [long, Message::default()] {
        bus.publish(NODES_EXCHANGE, "n1", sent.clone()).await.unwrap();
        let next = tokio::time::timeout(Duration::from_mins(1), subscription.next());
        let delivery = next.await.expect("a delivery in time").unwrap();
        assert_eq!(delivery.message().headers, sent.headers);
        delivery.ack().await.unwrap();
    }
}
