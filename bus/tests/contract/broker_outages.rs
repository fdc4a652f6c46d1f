//! What happens between the bus and a broker that restarts, hangs, refuses or is not ours.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{collections::BTreeSet, time::Duration};

use clone8s_bus::{
    BusError, EVENTS_EXCHANGE, EventBus as _, Message, NODES_EXCHANGE, Queue, Receipt, Subscription,
    amqp::{AmqpBus, AmqpConfig},
};
use clone8s_integration::{RabbitMq, Sandbox, pki::Ca, rabbitmq::connect, wait};
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

fn message(id: usize) -> Message {
    Message {
        message_id: id.to_string(),
        ..Message::default()
    }
}

async fn listen(bus: &AmqpBus) -> Box<dyn Subscription> {
    wait::until("the subscription starts", || async {
        Ok(bus.subscribe(Queue::Node("alpha".to_owned()), 50).await?)
    })
    .await
}

async fn receive(subscription: &mut Box<dyn Subscription>) -> Result<usize, BusError> {
    let delivery = subscription.next().await?;
    let id = delivery.message().message_id.parse().unwrap();
    delivery.ack().await?;
    Ok(id)
}

#[tokio::test]
async fn what_was_confirmed_survives_restarts_and_the_bus_comes_back_by_itself() {
    let sandbox = Sandbox::new();
    let mut broker = RabbitMq::start(&sandbox).await;
    let bus = AmqpBus::connect(&AmqpConfig::new(broker.vhost())).unwrap();
    let mut subscription = listen(&bus).await;
    // RabbitMQ 3.10 saves the names of its quorum queues every half second: a queue younger than that is lost for
    // good when the broker is killed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut confirmed = 0;
    let mut seen = BTreeSet::new();
    for round in 0..2 {
        for _ in 0..20 {
            let receipt = bus
                .publish(NODES_EXCHANGE, "alpha", message(confirmed))
                .await
                .unwrap();
            assert_eq!(receipt, Receipt::Taken);
            confirmed += 1;
        }
        if round == 0 {
            broker.process.kill();
        } else {
            broker.process.stop().unwrap();
        }
        // Told in time, by publisher and subscriber alike.
        let started = Instant::now();
        let error = bus
            .publish(NODES_EXCHANGE, "alpha", message(9_999))
            .await
            .unwrap_err();
        assert!(
            started.elapsed() < Duration::from_secs(6),
            "{:?}",
            started.elapsed()
        );
        assert!(!error.to_string().contains("guest"), "{error}");
        let ended = async {
            while let Ok(id) = receive(&mut subscription).await {
                seen.insert(id);
            }
        };
        timeout(wait::BOUND, ended)
            .await
            .expect("the subscription ends with the broker");

        broker.start_again().await;
        subscription = listen(&bus).await;
        wait::until("publishing works again", || async {
            Ok(bus
                .publish(EVENTS_EXCHANGE, "a.b.c.d", message(0))
                .await
                .map(drop)?)
        })
        .await;
    }
    let drained = async {
        while (0..confirmed).any(|id| !seen.contains(&id)) {
            seen.insert(receive(&mut subscription).await.unwrap());
        }
    };
    timeout(wait::BOUND, drained)
        .await
        .expect("every confirmed message arrives");
}

#[tokio::test]
async fn a_broker_that_hangs_is_noticed_and_one_that_is_gone_fails_at_once() {
    let sandbox = Sandbox::new();
    let mut broker = RabbitMq::start(&sandbox).await;
    let config = AmqpConfig {
        confirm_timeout: Duration::from_millis(500),
        ..AmqpConfig::new(broker.vhost())
    };
    let bus = AmqpBus::connect(&config).unwrap();
    let publishing_works = async |id| {
        wait::until("publishing works", || async {
            Ok(bus
                .publish(EVENTS_EXCHANGE, "a.b.c.d", message(id))
                .await
                .map(drop)?)
        })
        .await;
    };
    publishing_works(1).await;
    broker.process.freeze().unwrap();
    let error = bus
        .publish(EVENTS_EXCHANGE, "a.b.c.d", message(2))
        .await
        .unwrap_err();
    assert!(matches!(error, BusError::NotConfirmed(_)), "{error:?}");
    broker.process.signal(Signal::CONT).unwrap();
    publishing_works(3).await;

    let address = format!("127.0.0.1:{}", broker.port());
    broker.process.kill();
    let started = Instant::now();
    let publishes = (0..200).map(|id| bus.publish(EVENTS_EXCHANGE, "a.b.c.d", message(id)));
    for outcome in futures::future::join_all(publishes).await {
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn with_tls_only_the_configured_root_is_trusted() {
    let sandbox = Sandbox::new();
    let broker = RabbitMq::with_tls(&sandbox).await;
    let (port, ca) = broker.tls();
    let config = AmqpConfig {
        ca: Some(ca.certificate_file()),
        ..AmqpConfig::new(format!("amqps://guest:guest@localhost:{port}/test0"))
    };
    let bus = AmqpBus::connect(&config).unwrap();
    let mut subscription = listen(&bus).await;
    bus.publish(NODES_EXCHANGE, "alpha", message(7)).await.unwrap();
    assert_eq!(receive(&mut subscription).await.unwrap(), 7);

    let other = Ca::new(&sandbox.make_dir("other"), "another root").unwrap();
    let config = AmqpConfig {
        ca: Some(other.certificate_file()),
        ..config
    };
    let bus = AmqpBus::connect(&config).unwrap();
    let error = bus
        .publish(NODES_EXCHANGE, "alpha", message(8))
        .await
        .unwrap_err();
    let told = clone8s_daemon::supervisor::chain(&error);
    assert!(
        told.contains("UnknownIssuer") || told.contains("BadSignature"),
        "{told}"
    );
}

#[tokio::test]
async fn a_wrong_password_and_a_wrong_vhost_are_told_with_what_to_check() {
    let broker = RabbitMq::shared().await;
    let wrong_password = broker.vhost().replace("guest:guest", "guest:s3cret");
    let wrong_vhost = format!("amqp://guest:guest@127.0.0.1:{}/nowhere", broker.port());
    for (url, words) in [
        (wrong_password, "check the user"),
        (wrong_vhost, "check the virtual host"),
    ] {
        let bus = AmqpBus::connect(&AmqpConfig::new(url)).unwrap();
        let error = bus
            .publish(EVENTS_EXCHANGE, "a.b.c.d", message(1))
            .await
            .unwrap_err();
        let told = clone8s_daemon::supervisor::chain(&error);
        assert!(
            matches!(error, BusError::Refused(_)) && told.contains(words),
            "{told}"
        );
        assert!(!told.contains("s3cret"), "{told}");
    }
}

#[tokio::test]
async fn a_queue_that_was_declared_otherwise_is_told_with_what_to_do() {
    let broker = RabbitMq::shared().await;
    let url = broker.vhost();
    let foreign = connect(&url).await.unwrap();
    let channel = foreign.create_channel().await.unwrap();
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare("clone8s.node.beta".into(), options, FieldTable::default())
        .await
        .unwrap();
    let bus = AmqpBus::connect(&AmqpConfig::new(url)).unwrap();
    let error = bus
        .subscribe(Queue::Node("beta".to_owned()), 1)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("delete it on the broker"), "{error}");
    // And other queues are not disturbed.
    listen(&bus).await;
}
