//! Init containers and sidecars on the runtime in memory.

use clone8s::v1::Condition;

use super::*;
use crate::pod::testing::{sidecar, with_hooks, with_init};

const IMAGES: [&str; 3] = ["first:1", "second:1", "proxy:1"];

/// Init containers "first" and "second" that work for 5 s, and between them the sidecar "proxy", before "web".
fn ordered() -> DesiredPod {
    with_init(
        &web(),
        vec![
            container("first", "first:1"),
            sidecar("proxy", "proxy:1"),
            container("second", "second:1"),
        ],
    )
}

fn with_policy(of: &DesiredPod, policy: &str) -> DesiredPod {
    with_spec(of, |spec| spec.restart_policy = policy.to_owned())
}

fn ending(code: i32) -> ImageBehavior {
    ImageBehavior {
        exits: Some((Duration::from_secs(5), code)),
        ..Default::default()
    }
}

impl Node {
    pub(super) fn with_init_images() -> Self {
        let node = Self::start();
        for image in IMAGES {
            node.runtime.add_image(image, ending(0));
        }
        node.runtime.add_image("proxy:1", ImageBehavior::default());
        node
    }

    /// What was made, in order.
    pub(super) fn made(&self) -> Vec<String> {
        let calls = self.runtime.calls();
        calls
            .iter()
            .filter_map(|call| call.strip_prefix("CreateContainer "))
            .map(str::to_owned)
            .collect()
    }

    fn initialized(&self) -> Option<Condition> {
        let status = self.status("p")?;
        status
            .conditions
            .into_iter()
            .find(|one| one.r#type == "Initialized")
    }

    pub(super) fn holds_ready(&self) -> bool {
        let status = self.status("p").unwrap_or_default();
        status
            .conditions
            .iter()
            .any(|one| one.r#type == "Ready" && one.status == "True")
    }

    pub(super) fn phase(&self) -> String {
        self.status("p").map(|status| status.phase).unwrap_or_default()
    }

    fn state_of(&self, name: &str) -> Option<State> {
        let status = self.status("p")?;
        let found = status
            .all_container_statuses()
            .find(|one| one.name == name)?
            .clone();
        found.state?.state
    }

    /// The stops that were asked for, by the names of the containers that ran.
    pub(super) fn stops(&self, ids: &BTreeMap<String, String>) -> Vec<String> {
        let calls = self.runtime.calls();
        calls
            .iter()
            .filter_map(|call| ids.get(call.strip_prefix("StopContainer ")?).cloned())
            .collect()
    }

    pub(super) fn ids(&self, names: &[&str]) -> BTreeMap<String, String> {
        let of = |name: &&str| {
            let ids = self.runtime.running_ids(name).into_iter();
            ids.map(|id| (id, (*name).to_owned())).collect::<Vec<_>>()
        };
        names.iter().flat_map(of).collect()
    }

    pub(super) fn is_gone(&self) -> bool {
        let statuses = self.board.subscribe();
        let entries = statuses.borrow();
        entries
            .get(&PodKey::new("default", "p"))
            .is_some_and(|entry| entry.gone)
    }

    pub(super) fn terminate(&self, pod: &DesiredPod, grace: i32) {
        let asked = self.clock.now();
        self.want(&[&edited(pod, |pod| {
            let metadata = pod.metadata.as_mut().unwrap();
            metadata.deletion_timestamp = Some(crate::clock::to_timestamp(asked));
            metadata.deletion_grace_period_seconds = Some(grace);
        })]);
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_and_sidecars_come_up_in_order_and_the_status_tells_how_far() {
    let node = Node::with_init_images();
    node.want(&[&ordered()]);
    node.until_running(&["p/first#0"]).await;
    node.until("told", |node| {
        node.state_of("first")
            .is_some_and(|state| matches!(state, State::Running(_)))
    })
    .await;
    assert_eq!(node.phase(), "Pending");
    let why = node.initialized().unwrap();
    assert_eq!(
        (why.status.as_str(), why.reason.as_str(), why.message.as_str()),
        (
            "False",
            "ContainersNotInitialized",
            "containers with incomplete status: [first proxy second]"
        )
    );
    for waiting in ["proxy", "second", "web"] {
        assert!(
            matches!(node.state_of(waiting), Some(State::Waiting(why)) if why.reason == "PodInitializing"),
            "{waiting}"
        );
    }

    node.until_running(&["p/proxy#0", "p/second#0"]).await;
    node.until_running(&["p/proxy#0", "p/web#0"]).await;
    node.until("running", |node| node.phase() == "Running").await;
    assert_eq!(node.made(), ["first", "proxy", "second", "web"]);
    assert_eq!(node.initialized().unwrap().status, "True");
    let status = node.status("p").unwrap();
    let init: Vec<_> = status
        .init_container_statuses
        .iter()
        .map(|one| (one.name.as_str(), one.ready, one.started))
        .collect();
    assert_eq!(
        init,
        [
            ("first", true, false),
            ("proxy", true, true),
            ("second", true, false)
        ]
    );
    let calls = node.runtime.calls();
    settle().await;
    assert_eq!(node.runtime.calls(), calls, "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn an_init_container_that_fails_waits_or_fails_its_pod_as_the_policy_says() {
    for policy in ["Always", "OnFailure", "Never"] {
        let node = Node::with_init_images();
        node.runtime.add_image("first:1", ending(3));
        node.want(&[&with_policy(&ordered(), policy)]);
        if policy == "Never" {
            node.until("failed", |node| node.phase() == "Failed").await;
            let status = node.status("p").unwrap();
            assert_eq!(status.reason, "InitContainerFailed");
            assert!(
                status.message.contains("first ended with exit code 3"),
                "{}",
                status.message
            );
            settle().await;
            assert_eq!(node.made(), ["first"]);
        } else {
            node.until("back-off", |node| {
                matches!(node.state_of("first"), Some(State::Waiting(why)) if why.reason == "CrashLoopBackOff")
            })
            .await;
            assert_eq!(node.phase(), "Pending", "{policy}");
            node.runtime.add_image("first:1", ending(0));
            node.until_running(&["p/proxy#0", "p/web#0"]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_is_kept_running_until_the_containers_are_done() {
    let node = Node::with_init_images();
    node.want(&[&with_policy(&ordered(), "Never")]);
    node.until_running(&["p/proxy#0", "p/web#0"]).await;
    node.runtime.exit(&node.runtime.running_ids("proxy")[0], 0);
    node.until_running(&["p/proxy#1", "p/web#0"]).await;
    node.runtime.exit(&node.runtime.running_ids("web")[0], 0);
    node.until_running(&[]).await;
    node.until("the network is given back", |node| {
        node.calls_of("StopPodSandbox") == 1
    })
    .await;
    settle().await;
    assert_eq!(node.phase(), "Succeeded");
    assert_eq!(node.made(), ["first", "proxy", "second", "web", "proxy"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_ends_containers_first_and_sidecars_with_what_is_left_of_the_grace_period() {
    let node = Node::with_init_images();
    node.ignore_stop_signals();
    let stubborn = ImageBehavior {
        ignores_stop_signal: true,
        ..Default::default()
    };
    node.runtime.add_image("proxy:1", stubborn);
    node.runtime.add_image("side:1", stubborn);
    let pod = with_init(
        &web(),
        vec![sidecar("proxy", "proxy:1"), sidecar("side", "side:1")],
    );
    node.want(&[&pod]);
    node.until_running(&["p/proxy#0", "p/side#0", "p/web#0"]).await;
    let ids = node.ids(&["proxy", "side", "web"]);
    let asked = node.clock.now();
    node.terminate(&pod, 7);
    node.until("web has ended", |node| {
        node.runtime.running() == ["p/proxy#0", "p/side#0"]
    })
    .await;
    assert_eq!(node.elapsed_since(asked).as_secs(), 7);
    node.until("the pod is gone", Node::is_gone).await;
    assert_eq!(node.stops(&ids), ["web", "side", "proxy"]);
    let took = node.elapsed_since(asked);
    assert!(
        (Duration::from_secs(11)..Duration::from_secs(13)).contains(&took),
        "two seconds for each sidecar: {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_kubelet_nothing_is_repeated_and_after_a_reboot_everything() {
    let mut node = Node::with_init_images();
    node.want(&[&ordered()]);
    node.until_running(&["p/proxy#0", "p/web#0"]).await;
    node.until("running", |node| node.phase() == "Running").await;
    node.stop_kubelet().await;
    node.start_kubelet();
    settle().await;
    assert_eq!(node.made(), ["first", "proxy", "second", "web"]);
    assert_eq!(node.initialized().unwrap().status, "True");

    node.runtime.reboot();
    node.until("it starts over", |node| {
        node.initialized().is_some_and(|one| one.status == "False")
    })
    .await;
    node.until("running again", |node| node.phase() == "Running")
        .await;
    assert_eq!(node.runtime.running(), ["p/proxy#1", "p/web#1"]);
    assert_eq!(node.made()[4..], ["first", "proxy", "second", "web"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_hook_is_an_update_and_a_changed_init_container_that_is_done_is_not() {
    let node = Node::with_init_images();
    node.want(&[&ordered()]);
    node.until_running(&["p/proxy#0", "p/web#0"]).await;
    let changed = with_spec(&ordered(), |spec| {
        spec.init_containers[0].image = "web:2".to_owned();
        spec.init_containers[2].command = vec!["another".to_owned()];
    });
    node.want(&[&changed]);
    settle().await;
    assert_eq!(node.made(), ["first", "proxy", "second", "web"]);
    node.want(&[&with_spec(&changed, |spec| {
        *first(spec) = with_hooks(first(spec).clone());
    })]);
    node.until_running(&["p/proxy#0", "p/web#1"]).await;
}
