//! `c8s push`: sends pods to a kubelet's queue, with no apiserver in between.

use std::{collections::BTreeMap, io::Write};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use clone8s::{manifest, names, object::AnyObject};
use clone8s_bus::{EventBus, Message, NODES_EXCHANGE, Receipt, amqp::AmqpArgs};
use clone8s_daemon::supervisor::chain;

use crate::{
    files::{Declared, FileArgs},
    namespace,
};

#[derive(Debug, Args)]
#[command(mut_arg("amqp", |amqp| amqp.required(true).help(
    "RabbitMQ, as amqps://user:password@host:5671/vhost, or amqp:// on this machine; better in the environment than in \
     the process list"
)))]
#[command(after_help = "Examples:
  c8s push --amqp amqp://127.0.0.1 --node n1 -f pod.yaml
  c8s push delete --amqp amqps://user:password@broker:5671 --amqp-ca ca.pem --node n1 -f pod.yaml

The message waits in the node's queue until its kubelet takes it, which may be later.")]
pub struct PushArgs {
    /// What the kubelet is to do with the pods
    #[arg(value_enum, default_value = "add")]
    action: Action,
    #[command(flatten)]
    files: FileArgs,
    /// The node whose kubelet is to run the pods
    #[arg(long, value_name = "NAME")]
    node: String,
    #[command(flatten)]
    amqp: AmqpArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Run the pods
    Add,
    /// Run the pods as they are declared now; only containers that changed restart
    Update,
    /// Stop the pods and forget them
    Delete,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

pub async fn run(args: &PushArgs, out: &mut impl Write) -> Result<()> {
    names::check_dns_label(&args.node).map_err(|error| anyhow!("--node {error}"))?;
    let declared = match args.action {
        Action::Add | Action::Update => args.files.read_valid(namespace::DEFAULT)?,
        Action::Delete => args.files.read()?,
    };
    let bus = args
        .amqp
        .connect()
        .context("--amqp")?
        .context("--amqp is missing")?;
    push(&bus, args.action, &args.node, &declared, out).await
}

/// Sends all or, where a document is no pod, none.
async fn push(
    bus: &dyn EventBus,
    action: Action,
    node: &str,
    declared: &[Declared],
    out: &mut impl Write,
) -> Result<()> {
    let messages: Vec<_> = declared
        .iter()
        .map(|declared| message(action, declared).map(|message| (declared, message)))
        .collect::<Result<_>>()?;
    for (declared, message) in messages {
        let label = format!("pod/{}", declared.document.object.name());
        let receipt = bus
            .publish(NODES_EXCHANGE, node, message)
            .await
            .map_err(|error| anyhow!("{label}: not sent: {}", chain(&error)))?;
        match receipt {
            Receipt::Taken => writeln!(out, "{label} {} sent to node {node}", action.word())?,
            Receipt::Unroutable => bail!(
                "{label}: node {node} has no queue on this broker: check the name, or start its kubelet with this \
                 broker once"
            ),
        }
    }
    Ok(())
}

fn message(action: Action, declared: &Declared) -> Result<Message> {
    let object = &declared.document.object;
    if !matches!(object, AnyObject::Pod(_)) {
        bail!(
            "{}: is a {}, but a kubelet's queue takes pods alone; nothing was sent",
            declared.place(),
            object.kind()
        );
    }
    let body = serde_json::json!({ "action": action.word(), "pod": manifest::to_yaml_value(object) });
    Ok(Message {
        message_id: uuid::Uuid::new_v4().to_string(),
        content_type: "application/json".to_owned(),
        kind: String::new(),
        headers: BTreeMap::new(),
        body: serde_json::to_vec(&body)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use clone8s::object::Object as _;
    use clone8s_bus::{Queue, local::LocalBus};

    use super::*;

    const POD: &str = "version: v0\nname: dummy pod\ncontainers: [{name: web, image: busybox}]\n";

    fn declared(text: &str) -> Vec<Declared> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pods.yaml");
        std::fs::write(&path, text).unwrap();
        FileArgs {
            files: vec![path],
            recursive: false,
        }
        .read()
        .unwrap()
    }

    #[tokio::test]
    async fn a_pod_reaches_the_nodes_queue_as_a_manifest() {
        let bus = LocalBus::new();
        let mut queue = bus.subscribe(Queue::Node("n1".to_owned()), 1).await.unwrap();
        let mut out = Vec::new();
        push(&bus, Action::Update, "n1", &declared(POD), &mut out)
            .await
            .unwrap();
        assert_eq!(out, b"pod/dummy-pod update sent to node n1\n");

        let delivery = queue.next().await.unwrap();
        let message = delivery.message();
        assert_eq!(message.content_type, "application/json");
        let body: serde_yaml::Value = serde_yaml::from_slice(&message.body).unwrap();
        assert_eq!(body["action"], "update");
        let pod = manifest::pod_from_value(body["pod"].clone()).unwrap();
        assert_eq!(pod.name(), "dummy-pod");
    }

    #[tokio::test]
    async fn a_node_that_nobody_knows_is_named() {
        let error = push(
            &LocalBus::new(),
            Action::Add,
            "n2",
            &declared(POD),
            &mut Vec::new(),
        )
        .await
        .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("pod/dummy-pod: node n2 has no queue on this broker"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn when_one_document_is_no_pod_nothing_is_sent() {
        let text = format!("{POD}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n");
        let error = push(
            &LocalBus::new(),
            Action::Add,
            "n1",
            &declared(&text),
            &mut Vec::new(),
        )
        .await
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is a Secret, but a kubelet's queue takes pods alone"),
            "{error}"
        );
    }
}
