use std::path::Path;

use clone8s::object::Object as _;
use clone8s_bus::{Message, NODES_EXCHANGE, REASON_HEADER, local::LocalBus};
use prost::Message as _;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::*;
use crate::{
    desired::Source,
    sources::{
        api::HintedChange,
        fixtures::{NODE, image, stored},
        view::Views,
    },
};

const SOON: Duration = Duration::from_secs(20);

struct Queued {
    bus: LocalBus,
    views: watch::Receiver<Views>,
    tasks: JoinSet<Result<(), Infallible>>,
    shutdown: Shutdown,
}

impl Queued {
    fn start(bus: LocalBus, dir: &Path, hints: Option<mpsc::Sender<HintDelivery>>) -> Self {
        let checkpoint = Checkpoint::open(dir.join("queue")).unwrap();
        let (sender, views) = watch::channel(Views::of(&[Source::Queue]));
        let view = ViewSender::new(Source::Queue, Arc::new(sender));
        let source = QueueSource::new(NODE, Arc::new(bus.clone()), hints, checkpoint, view);
        let shutdown = Shutdown::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(source.run(shutdown.clone()));
        Self {
            bus,
            views,
            tasks,
            shutdown,
        }
    }

    async fn stop(mut self) -> LocalBus {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        self.bus
    }

    async fn send(&self, message: Message) {
        self.bus.publish(NODES_EXCHANGE, NODE, message).await.unwrap();
    }

    async fn until_it_runs(&mut self, expected: &[&str]) {
        let running = |views: &Views| -> Vec<String> {
            views
                .queue
                .pods
                .values()
                .map(|pod| format!("{}={}", pod.name(), image(pod)))
                .collect()
        };
        let seen = timeout(SOON, self.views.wait_for(|views| running(views) == expected))
            .await
            .is_ok();
        let last = running(&self.views.borrow());
        assert!(seen, "expected {expected:?}, last seen {last:?}");
    }
}

fn request(action: &str, name: &str, image: &str) -> Message {
    let body = serde_json::json!({"action": action, "pod": {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }});
    Message {
        content_type: "application/json".to_owned(),
        body: body.to_string().into(),
        ..Message::default()
    }
}

fn from_apiserver(name: &str, revision: i64) -> Message {
    let pod = stored(name, "one", revision);
    Message {
        message_id: format!("{}/{revision}", pod.uid()),
        content_type: "application/x-protobuf".to_owned(),
        kind: "clone8s.v1.Pod".to_owned(),
        headers: [
            ("verb".to_owned(), "added".to_owned()),
            ("revision".to_owned(), revision.to_string()),
        ]
        .into(),
        body: pod.encode_to_vec().into(),
    }
}

#[tokio::test]
async fn requests_add_update_and_delete_pods_and_a_restart_keeps_them_without_the_bus() {
    let dir = tempfile::tempdir().unwrap();
    let mut queued = Queued::start(LocalBus::new(), dir.path(), None);
    queued.bus.subscribe(Queue::Node(NODE.into()), 1).await.unwrap();
    queued.send(request("add", "a", "one")).await;
    queued.send(request("add", "b", "one")).await;
    queued.send(request("update", "a", "two")).await;
    queued.send(request("delete", "b", "one")).await;
    queued.until_it_runs(&["a=two"]).await;
    queued.stop().await;

    let mut restarted = Queued::start(LocalBus::new(), dir.path(), None);
    restarted.until_it_runs(&["a=two"]).await;
    assert!(restarted.views.borrow().queue.spoken);
}

#[tokio::test]
async fn a_message_that_cannot_be_understood_goes_to_the_dead_letters_and_the_next_one_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut queued = Queued::start(LocalBus::new(), dir.path(), None);
    queued.bus.subscribe(Queue::Node(NODE.into()), 1).await.unwrap();
    let nonsense = Message {
        body: "}{".into(),
        ..Message::default()
    };
    queued.send(nonsense).await;
    queued.send(request("add", "a", "one")).await;
    queued.until_it_runs(&["a=one"]).await;
    let [dead] = &queued.bus.dead_letters()[..] else {
        panic!("not one dead letter");
    };
    assert_eq!(dead.body, "}{");
    assert!(
        dead.headers[REASON_HEADER].starts_with("body: is not"),
        "{:?}",
        dead.headers
    );
}

#[tokio::test]
async fn with_an_apiserver_its_messages_are_hints_that_are_acknowledged_once_checkpointed() {
    let dir = tempfile::tempdir().unwrap();
    let (hints, mut hinted) = mpsc::channel(1);
    let queued = Queued::start(LocalBus::new(), dir.path(), Some(hints.clone()));
    queued.bus.subscribe(Queue::Node(NODE.into()), 1).await.unwrap();
    queued.send(from_apiserver("a", 7)).await;
    let delivery = timeout(SOON, hinted.recv()).await.unwrap().unwrap();
    assert_eq!(
        (delivery.hint.revision, delivery.hint.change),
        (7, HintedChange::Put)
    );
    // The checkpoint fails: the message stays on the queue, and comes again after a restart.
    drop(delivery);
    let bus = queued.stop().await;
    while hinted.try_recv().is_ok() {}
    let queued = Queued::start(bus, dir.path(), Some(hints));
    let again = timeout(SOON, hinted.recv()).await.unwrap().unwrap();
    assert_eq!(again.hint.revision, 7);
    again.checkpointed.send(()).unwrap();
    assert!(queued.views.borrow().queue.pods.is_empty());
}

#[tokio::test]
async fn without_an_apiserver_its_messages_are_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let mut queued = Queued::start(LocalBus::new(), dir.path(), None);
    queued.bus.subscribe(Queue::Node(NODE.into()), 1).await.unwrap();
    queued.send(from_apiserver("a", 7)).await;
    queued.until_it_runs(&["a=one"]).await;
}
