//! Users of the broker that may do less than everything, and those that a certificate names.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use clone8s_bus::{
    BusError, EventBus as _, METRICS_EXCHANGE, Message, NODES_EXCHANGE, Queue, Receipt,
    amqp::{AmqpBus, AmqpConfig, ClientIdentity},
};
use clone8s_integration::{RabbitMq, Sandbox, wait};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

fn message() -> Message {
    Message {
        message_id: "1".to_owned(),
        ..Message::default()
    }
}

/// A user of one virtual host that may configure, write and read what the three patterns say.
fn add_user(broker: &RabbitMq, vhost: &str, user: &str, permissions: [&str; 3]) {
    broker.ctl(&["add_user", user, "secret"]).unwrap();
    let [configure, write, read] = permissions;
    broker
        .ctl(&["set_permissions", "-p", vhost, user, configure, write, read])
        .unwrap();
}

#[tokio::test]
async fn a_user_that_may_not_declare_uses_what_others_have_declared() {
    let sandbox = Sandbox::new();
    let broker = RabbitMq::start(&sandbox).await;
    let url = broker.vhost();
    let permissions = ["^$", r"^clone8s\.(metrics|dead)$", r"^clone8s\.node\.alpha$"];
    add_user(&broker, "test0", "alpha", permissions);
    let limited = url.replace("guest:guest", "alpha:secret");
    let limited = AmqpBus::connect(&AmqpConfig::new(limited)).unwrap();
    let queue = || Queue::Node("alpha".to_owned());
    // Again and again, as who waits for it does.
    for _ in 0..3 {
        let error = limited.subscribe(queue(), 10).await.unwrap_err();
        assert!(
            matches!(&error, BusError::NoQueue(name) if name == "clone8s.node.alpha"),
            "{error:?}"
        );
    }

    let apiserver = AmqpBus::connect(&AmqpConfig::new(url)).unwrap();
    apiserver.declare_node("alpha").await.unwrap();
    let mut subscription = limited.subscribe(queue(), 10).await.unwrap();
    let receipt = apiserver
        .publish(NODES_EXCHANGE, "alpha", message())
        .await
        .unwrap();
    assert_eq!(receipt, Receipt::Taken);
    let delivery = timeout(SOON, subscription.next()).await.unwrap().unwrap();
    delivery.reject("not understood").await.unwrap();
    let mut dead = apiserver.subscribe(Queue::Dead, 1).await.unwrap();
    timeout(SOON, dead.next()).await.unwrap().unwrap();
    // Its samples may not have found their exchange before.
    wait::until("a sample is taken", || async {
        Ok(limited
            .publish(METRICS_EXCHANGE, "nodes.alpha", message())
            .await?)
    })
    .await;

    let error = limited
        .subscribe(Queue::Node("beta".to_owned()), 10)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("check the user"), "{error}");
    let error = limited
        .publish(NODES_EXCHANGE, "alpha", message())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ACCESS_REFUSED"), "{error}");
    let error = limited.declare_node("alpha").await.unwrap_err();
    assert!(error.to_string().contains("check the user"), "{error}");
}

#[tokio::test]
async fn the_user_can_come_from_a_certificate() {
    let sandbox = Sandbox::new();
    let broker = RabbitMq::with_tls(&sandbox).await;
    let all = r"^clone8s\.";
    add_user(&broker, "test0", "by-certificate", [all; 3]);
    broker.ctl(&["clear_password", "by-certificate"]).unwrap();
    let (port, ca) = broker.tls();
    let address = format!("amqps://localhost:{port}/test0?auth_mechanism=external");
    let bus = |name: &str| {
        let pair = ca.issue(name).unwrap();
        let config = AmqpConfig {
            ca: Some(ca.certificate_file()),
            identity: Some(ClientIdentity {
                certificate: pair.certificate_file.clone(),
                key: pair.key_file.clone(),
            }),
            ..AmqpConfig::new(&address)
        };
        AmqpBus::connect(&config).unwrap()
    };
    let known = bus("by-certificate");
    let mut subscription = known.subscribe(Queue::Node("alpha".to_owned()), 1).await.unwrap();
    known.publish(NODES_EXCHANGE, "alpha", message()).await.unwrap();
    let delivery = timeout(SOON, subscription.next()).await.unwrap().unwrap();
    assert_eq!(delivery.message().message_id, "1");

    let error = bus("nobody").declare_node("alpha").await.unwrap_err();
    assert!(error.to_string().contains("check the user"), "{error}");
}
