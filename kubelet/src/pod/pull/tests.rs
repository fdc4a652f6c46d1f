//! On a runtime in memory, with paused time.

use std::time::SystemTime;

use tokio::{sync::mpsc, task::JoinSet};

use super::*;
use crate::{
    clock::Clock,
    events::Happening,
    image_archives,
    pod::testing::{container, pod},
    runtime::fake::{FakeRuntime, Fault, ImageBehavior},
};

const SIZE: u64 = 1_000;

struct Node {
    runtime: FakeRuntime,
    puller: ImagePuller,
    told: mpsc::Receiver<Happening>,
    pulls: JoinSet<(String, Result<ImageRef, RuntimeError>)>,
}

impl Node {
    fn new(most: u32) -> Self {
        let runtime = FakeRuntime::new(Clock::virtual_from(SystemTime::UNIX_EPOCH));
        let (events, told) = EventRecorder::new();
        let puller = ImagePuller::new(
            Arc::new(runtime.clone()),
            image_archives::none(),
            watch::channel(Objects::default()).1,
            events,
            NonZeroU32::new(most).unwrap(),
        );
        Self {
            runtime,
            puller,
            told,
            pulls: JoinSet::new(),
        }
    }

    fn has(&self, image: &str, pull_seconds: u64) {
        let behavior = ImageBehavior {
            pull_time: Duration::from_secs(pull_seconds),
            size: SIZE,
            ..Default::default()
        };
        self.runtime.add_image(image, behavior);
    }

    /// Begins a pull for a pod of its own, and lets it come as far as it can at once.
    async fn ask(&mut self, image: &str) -> tokio::task::AbortHandle {
        let pod = pod("p", vec![container("c", image)]);
        let (puller, of) = (self.puller.clone(), image.to_owned());
        let call = self.pulls.spawn(async move {
            let pulled = puller.pull(&pod, "c", &of, &PodSandboxConfig::default()).await;
            (of, pulled)
        });
        sleep(Duration::from_millis(1)).await;
        call
    }

    fn told(&mut self) -> Vec<(&'static str, String)> {
        std::iter::from_fn(|| self.told.try_recv().ok())
            .map(|one| (one.reason, one.message))
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_pulls_run_than_the_node_allows_and_turns_come_in_the_order_of_asking() {
    let mut node = Node::new(2);
    for (image, takes) in [("a:1", 30), ("b:1", 10), ("c:1", 10), ("d:1", 10)] {
        node.has(image, takes);
        node.ask(image).await;
    }
    assert_eq!(node.runtime.pulling(), ["a:1", "b:1"]);
    sleep(Duration::from_secs(12)).await;
    assert_eq!(node.runtime.pulling(), ["a:1", "c:1"]);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(node.runtime.pulling(), ["a:1", "d:1"]);
    let mut order = Vec::new();
    while let Some(ended) = node.pulls.join_next().await {
        let (image, pulled) = ended.unwrap();
        pulled.unwrap();
        order.push(image);
    }
    assert_eq!(order, ["b:1", "c:1", "a:1", "d:1"]);
    let told = node.told();
    let queued: Vec<_> = told
        .iter()
        .filter(|(reason, _)| *reason == "PullQueued")
        .collect();
    assert_eq!(queued.len(), 2);
    assert!(queued[0].1.contains("\"c:1\"") && queued[0].1.contains("2 at a time"));
    let pulled = |image: &str| {
        let mut told = told.iter();
        told.find(|(reason, text)| *reason == "Pulled" && text.contains(image))
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(
        pulled("c:1"),
        "Successfully pulled image \"c:1\" in 10.000 s (19.999 s including waiting). Image size: 1000 bytes."
    );
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_nobody_wants_any_more_gives_its_turn_or_its_place_to_the_next() {
    let mut node = Node::new(1);
    for image in ["a:1", "b:1", "c:1"] {
        node.has(image, 10);
    }
    let first = node.ask("a:1").await;
    let second = node.ask("b:1").await;
    node.ask("c:1").await;
    second.abort();
    first.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(node.runtime.pulling(), ["c:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_fails_gives_its_turn_to_the_next() {
    let mut node = Node::new(1);
    node.has("b:1", 10);
    node.ask("missing:1").await;
    node.ask("b:1").await;
    assert_eq!(node.runtime.pulling(), ["b:1"]);
    let told = node.told();
    assert!(!told.iter().any(|(reason, _)| *reason == "Pulled"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_has_come_while_a_pull_waited_is_not_pulled_again() {
    let mut node = Node::new(1);
    node.has("a:1", 10);
    node.ask("a:1").await;
    node.ask("a:1").await;
    while node.pulls.join_next().await.is_some() {}
    let calls = node.runtime.calls();
    let pulls = calls.iter().filter(|call| call.starts_with("PullImage"));
    assert_eq!(pulls.count(), 1, "{calls:?}");
    let (reason, message) = node.told().pop().unwrap();
    assert_eq!(reason, "Pulled");
    assert!(message.contains("already present"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_long_pull_says_every_ten_seconds_how_far_it_is_and_a_quick_one_never() {
    let mut node = Node::new(2);
    node.has("quick:1", 9);
    node.has("long:1", 25);
    node.ask("quick:1").await;
    node.ask("long:1").await;
    while node.pulls.join_next().await.is_some() {}
    let mut progress = Vec::new();
    while let Ok(one) = node.told.try_recv() {
        if one.reason == "Pulling" {
            progress.push((one.subject, one.message));
        }
    }
    let expected = [
        ("quick:1", "Pulling image \"quick:1\""),
        ("long:1", "Pulling image \"long:1\""),
        (
            "long:1",
            "Pulling image \"long:1\": 400 of 1000 bytes (40%), 0 of 1 layers unpacked, after 10 s",
        ),
        (
            "long:1",
            "Pulling image \"long:1\": 800 of 1000 bytes (80%), 0 of 1 layers unpacked, after 20 s",
        ),
    ];
    assert_eq!(
        progress,
        expected.map(|(subject, message)| (subject.to_owned(), message.to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_know_how_far_pulls_are_is_asked_once_a_pull() {
    let mut node = Node::new(1);
    node.has("long:1", 60);
    let unknown = RuntimeError {
        call: "ListImagePulls",
        reason: RuntimeErrorReason::Unimplemented,
        message: "unknown service".to_owned(),
    };
    node.runtime.inject("ListImagePulls", Fault::Fail(unknown));
    node.ask("long:1").await;
    while node.pulls.join_next().await.is_some() {}
    let told: Vec<_> = node.told().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(told, ["Pulling", "Pulled"]);
}

#[test]
fn progress_before_the_manifest_makes_no_claim_about_bytes() {
    let progress = PullProgress {
        bytes: 0,
        bytes_total: 0,
        layers_unpacked: 0,
        layers_total: 0,
    };
    let told = describe("a:1", progress, Duration::from_secs(10));
    assert!(
        told.ends_with("the registry has not yet told its layers, after 10 s"),
        "{told}"
    );
}
