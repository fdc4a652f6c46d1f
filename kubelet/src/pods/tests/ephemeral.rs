//! Containers for a look into a pod, on the runtime in memory.

use clone8s::v1::ContainerStatus;

use super::*;
use crate::pod::testing::with_ephemeral;

impl Node {
    fn with_look_image() -> Self {
        let node = Self::start();
        node.runtime.add_image("look:1", ImageBehavior::default());
        node
    }

    fn look(&self) -> Option<ContainerStatus> {
        self.status("p")?.ephemeral_container_statuses.first().cloned()
    }

    fn look_state(&self) -> Option<State> {
        self.look()?.state?.state
    }
}

#[tokio::test(start_paused = true)]
async fn one_starts_beside_what_runs_and_counts_for_nothing() {
    let node = Node::with_look_image();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    node.until("ready", Node::holds_ready).await;
    let before = node.status("p").unwrap();

    node.want(&[&with_ephemeral(&web(), "look", "web")]);
    node.until_running(&["p/look#0", "p/web#0"]).await;
    node.until("its status tells", |node| {
        matches!(node.look_state(), Some(State::Running(_)))
    })
    .await;
    let target = node.runtime.running_ids("web").remove(0);
    let look = node.runtime.running_ids("look").remove(0);
    let linux = node.runtime.config_of(&look).unwrap().linux.unwrap();
    let options = linux.security_context.unwrap().namespace_options.unwrap();
    assert_eq!(options.pid(), NamespaceMode::Target);
    assert_eq!(options.target_id, target);

    node.runtime.exit(&look, 3);
    node.until(
        "its end is told",
        |node| matches!(node.look_state(), Some(State::Terminated(end)) if end.exit_code == 3),
    )
    .await;
    settle().await;
    assert_eq!(node.made(), ["web", "look"]);
    let after = node.status("p").unwrap();
    assert_eq!(after.container_statuses, before.container_statuses);
    assert_eq!((after.phase, after.conditions), (before.phase, before.conditions));
    let look = node.look().unwrap();
    assert_eq!((look.ready, look.restart_count), (false, 0));
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_kubelet_neither_runs_it_again_nor_loses_it() {
    let mut node = Node::with_look_image();
    let pod = with_ephemeral(&web(), "look", "");
    node.want(&[&pod]);
    node.until_running(&["p/look#0", "p/web#0"]).await;
    node.stop_kubelet().await;
    node.start_kubelet();
    settle().await;
    assert_eq!(node.runtime.running(), ["p/look#0", "p/web#0"]);
    let look = node.runtime.running_ids("look").remove(0);
    let told = node.status("p").unwrap();
    node.stop_kubelet().await;

    // Whatever becomes of what the runtime knows.
    node.runtime.forget(&look);
    node.start_kubelet();
    node.want(&[&edited(&pod, |pod| pod.status = Some(told))]);
    settle().await;
    assert_eq!(node.made().iter().filter(|name| *name == "look").count(), 1);
    assert!(
        matches!(node.look_state(), Some(State::Terminated(_))),
        "{:?}",
        node.look()
    );
    assert_eq!(node.runtime.running(), ["p/web#0"]);
}

#[tokio::test(start_paused = true)]
async fn what_keeps_it_from_starting_is_in_its_status() {
    let node = Node::start();
    node.runtime.add_image(
        "web:1",
        ImageBehavior {
            pull_time: Duration::from_mins(3),
            ..Default::default()
        },
    );
    node.want(&[&with_ephemeral(&web(), "look", "web")]);
    node.until("it waits for its target", |node| {
        matches!(node.look_state(), Some(State::Waiting(waiting))
            if waiting.message == "waits for container web, whose processes it is to see, to run")
    })
    .await;
    node.until(
        "its image is not there",
        |node| matches!(node.look_state(), Some(State::Waiting(waiting)) if waiting.reason == "ErrImagePull"),
    )
    .await;
    assert_eq!(node.runtime.running(), ["p/web#0"]);
    node.until("the pod runs", Node::holds_ready).await;
}
