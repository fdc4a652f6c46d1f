//! What each user of the broker may do: the commands are those of `docs/events.md`, run as they stand there.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, ensure};
use clone8s::{client::Resource as _, v1::Node as ApiNode};
use clone8s_integration::{
    ControlPlane, Foreign, Node, RabbitMq, Registry, Sandbox, foreign, pods, rabbitmq::connect, wait,
};
use lapin::{
    BasicProperties, Channel, Connection,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::FieldTable,
};
use serde_json::json;

/// The guide's commands, by their user.
fn documented() -> BTreeMap<String, Vec<Vec<String>>> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let guide = fs::read_to_string(guide).unwrap();
    let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in guide.lines() {
        let Some(command) = line.strip_prefix("rabbitmqctl ") else {
            continue;
        };
        let words: Vec<_> = command
            .split(' ')
            .map(|word| word.trim_matches('\'').to_owned())
            .collect();
        let user = match words[0].as_str() {
            "add_user" => words[1].clone(),
            // After `-p /`.
            _ => words[3].clone(),
        };
        users.entry(user).or_default().push(words);
    }
    users
}

/// A broker on which every user of the guide is, and the addresses of one of its virtual hosts by user; `guest` may do
/// everything.
struct Users {
    broker: RabbitMq,
    everything: String,
}

impl Users {
    async fn start(sandbox: &Sandbox) -> Self {
        let broker = RabbitMq::start(sandbox).await;
        let everything = broker.vhost();
        let vhost = everything.rsplit('/').next().unwrap();
        for command in documented().into_values().flatten() {
            let words: Vec<_> = command
                .iter()
                .map(|word| match word.as_str() {
                    "/" => vhost,
                    "PASSWORD" => "secret",
                    word => word,
                })
                .collect();
            broker.ctl(&words).unwrap();
        }
        Self { broker, everything }
    }

    fn address(&self, user: &str) -> String {
        self.everything.replace("guest:guest", &format!("{user}:secret"))
    }

    async fn connect(&self, user: &str) -> Connection {
        connect(&self.address(user)).await.unwrap()
    }
}

/// Checks that the broker refuses an attempt for want of a permission.
async fn refused<T: std::fmt::Debug>(
    connection: &Connection,
    what: &str,
    attempt: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
) {
    let channel = connection.create_channel().await.unwrap();
    let error = attempt(&channel).await.expect_err(what).to_string();
    assert!(error.contains("ACCESS_REFUSED"), "{what}: {error}");
}

async fn publish(channel: &Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"{}", properties);
    sent.await?.await.map(drop)
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            options,
            FieldTable::default(),
        )
        .await
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Result<lapin::Consumer> {
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
}

async fn declare(channel: &Channel, queue: &str) -> lapin::Result<lapin::Queue> {
    let options = QueueDeclareOptions {
        exclusive: queue.is_empty(),
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await
}

fn request(name: &str, image: &str) -> String {
    let container = json!({ "name": "main", "image": image });
    json!({ "action": "add", "pod": {
        "version": "v0", "name": name, "hostNetwork": true, "containers": [container],
    }})
    .to_string()
}

/// The Node's condition of its queue: status and reason.
async fn queue_condition(plane: &ControlPlane, node: &str, status: &str, reason: &str) {
    wait::until(&format!("node {node} says QueueReady={status}"), || async {
        let node = ApiNode::get(&plane.channel(), "", node).await?;
        let conditions = node.status.unwrap_or_default().conditions;
        let told = conditions.iter().find(|it| it.r#type == "QueueReady");
        let told = told.with_context(|| format!("{conditions:?}"))?;
        ensure!(told.status == status && told.reason == reason, "{told:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn with_the_documented_permissions_a_node_reads_its_own_queue_and_nothing_else() {
    let sandbox = Sandbox::new();
    let users = Users::start(&sandbox).await;
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let mut plane = ControlPlane::start(&sandbox, Some(&users.address("apiserver"))).await;
    let mut node = Node::start(&sandbox, "alpha").await;
    node.kubelet
        .args_mut()
        .extend(["--stats-interval".into(), "1".into()]);

    // Without an apiserver there is no queue, and the kubelet waits for it.
    let token = plane.join_token("alpha", 600).await;
    plane.apiserver.stop().unwrap();
    node.join_with(&plane, &token, Some(&users.address("node-alpha")));
    wait::until("the kubelet says what it waits for", || async {
        let log = node.kubelet.log();
        let told =
            log.contains("there is no queue clone8s.node.alpha") && log.contains("the apiserver makes it");
        ensure!(told, "{log}");
        Ok(())
    })
    .await;
    plane.start_apiserver().await;
    plane.node_ready("alpha").await;
    queue_condition(&plane, "alpha", "True", "Consuming").await;

    // Its pods come by the queue: those of the apiserver, and those of a program.
    let mut bound = pods::pod("bound", &[("main", &image)]);
    bound.spec.as_mut().unwrap().node_name = "alpha".into();
    plane.create(bound).await;
    plane.running("bound").await;
    let deployer = users.address("deployer");
    Foreign::send_to_node(&deployer, "alpha", "application/json", &request("pushed", &image)).await;
    node.runs_exactly(&[("bound", "main"), ("pushed", "main")]).await;

    // What it cannot understand, and its samples, go where they belong.
    Foreign::send_to_node(&deployer, "alpha", "application/json", "{ not json").await;
    let everything = Foreign::connect(&users.everything).await.unwrap();
    let letter = wait::until("a dead letter", || async {
        everything.take("clone8s.dead").await?.context("none yet")
    })
    .await;
    assert_eq!(letter.header("x-origin"), "clone8s.node.alpha");
    Foreign::bind(&users.everything, "samples", "clone8s.metrics", "nodes.alpha").await;
    let mut samples = everything.consume("samples").await.unwrap();
    let sample = tokio::time::timeout(wait::BOUND, foreign::next(&mut samples));
    assert_eq!(sample.await.unwrap().unwrap().kind, "clone8s.v1.NodeStats");
    everything.close().await;

    // A queue that somebody deletes is made again.
    let guest = connect(&users.everything).await.unwrap();
    let admin = guest.create_channel().await.unwrap();
    admin
        .queue_delete("clone8s.node.alpha".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    Foreign::send_to_node(&deployer, "alpha", "application/json", &request("later", &image)).await;
    node.runs_exactly(&[("bound", "main"), ("later", "main"), ("pushed", "main")])
        .await;

    declare(&admin, "clone8s.node.beta").await.unwrap();
    let own = "clone8s.node.alpha";
    let alpha = users.connect("node-alpha").await;
    for queue in ["clone8s.node.beta", "clone8s.dead", "samples"] {
        let what = format!("reading {queue}");
        refused(&alpha, &what, async |on| consume(on, queue).await).await;
        let get = BasicGetOptions::default();
        refused(&alpha, &what, async |on| on.basic_get(queue.into(), get).await).await;
    }
    for (exchange, key) in [
        ("clone8s.nodes", "beta"),
        ("clone8s.events", "#"),
        ("clone8s.metrics", "#"),
        ("clone8s.dead", ""),
    ] {
        refused(&alpha, "binding its queue to more", async |on| {
            bind(on, own, exchange, key).await
        })
        .await;
    }
    for (exchange, key) in [
        ("clone8s.events", "pods.added.default.web"),
        ("clone8s.nodes", "alpha"),
        ("clone8s.nodes", "beta"),
        ("clone8s.metrics", "nodes.beta"),
        // The exchange that leads to every queue by its name.
        ("", "clone8s.node.beta"),
    ] {
        let what = format!("publishing to {exchange:?} {key}");
        refused(&alpha, &what, async |on| publish(on, exchange, key).await).await;
    }
    refused(&alpha, "a queue of another name", async |on| {
        declare(on, "").await
    })
    .await;
    refused(&alpha, "deleting its queue", async |on| {
        on.queue_delete(own.into(), QueueDeleteOptions::default()).await
    })
    .await;
}

#[tokio::test]
async fn a_program_that_sends_pods_reads_nothing_and_a_subscriber_hears_what_it_may() {
    let sandbox = Sandbox::new();
    let users = Users::start(&sandbox).await;
    let plane = ControlPlane::start(&sandbox, Some(&users.address("apiserver"))).await;
    let auditor = users.connect("auditor").await;
    let channel = auditor.create_channel().await.unwrap();
    let queue = declare(&channel, "").await.unwrap().name().to_string();
    wait::until("the apiserver has declared the exchange", || async {
        let channel = auditor.create_channel().await?;
        Ok(bind(&channel, &queue, "clone8s.events", "pods.added.#").await?)
    })
    .await;
    let mut heard = consume(&channel, &queue).await.unwrap();
    plane
        .create(pods::pod("web", &[("main", "registry.invalid/none:1")]))
        .await;
    let message = tokio::time::timeout(wait::BOUND, foreign::next(&mut heard));
    assert_eq!(
        message.await.unwrap().unwrap().routing_key,
        "pods.added.default.web"
    );

    refused(&auditor, "hearing of everything", async |on| {
        bind(on, &queue, "clone8s.events", "#").await
    })
    .await;
    refused(&auditor, "hearing of secrets", async |on| {
        bind(on, &queue, "clone8s.events", "secrets.#").await
    })
    .await;
    refused(&auditor, "the pods of a node", async |on| {
        bind(on, &queue, "clone8s.nodes", "alpha").await
    })
    .await;
    refused(&auditor, "reading dead letters", async |on| {
        consume(on, "clone8s.dead").await
    })
    .await;
    let deployer = users.connect("deployer").await;
    refused(&deployer, "reading dead letters", async |on| {
        consume(on, "clone8s.dead").await
    })
    .await;
    for user in [&auditor, &deployer] {
        refused(user, "publishing as the apiserver", async |on| {
            publish(on, "clone8s.events", "pods.added.default.web").await
        })
        .await;
    }
}

#[tokio::test]
async fn the_queue_of_a_kubelet_that_made_it_serves_one_that_may_not() {
    let sandbox = Sandbox::new();
    let users = Users::start(&sandbox).await;
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    // Alone, and as kubelets were before, with a user that may declare.
    let mut node = Node::start(&sandbox, "alpha").await;
    let before = node.kubelet.args_mut().clone();
    node.start_kubelet(["--amqp", &users.address("node-lone")]);
    let deployer = users.address("deployer");
    Foreign::send_to_node(&deployer, "alpha", "application/json", &request("first", &image)).await;
    let first = node.runs_exactly(&[("first", "main")]).await;
    node.kubelet.kill();
    Foreign::send_to_node(&deployer, "alpha", "application/json", &request("second", &image)).await;

    // Now a member, with a user that may not.
    let plane = ControlPlane::start(&sandbox, Some(&users.address("apiserver"))).await;
    *node.kubelet.args_mut() = before;
    node.join(&plane, Some(&users.address("node-alpha"))).await;
    let both = node.runs_exactly(&[("first", "main"), ("second", "main")]).await;
    assert!(first.iter().all(|(place, run)| both[place] == *run));
    queue_condition(&plane, "alpha", "True", "Consuming").await;
    let log = users.broker.process.log();
    assert!(!log.contains("PRECONDITION_FAILED"), "{log}");
}
