//! Limits that change while containers run.

use clone8s::v1::{ContainerResizePolicy, ResourceRequirements};

use super::*;

fn with_memory(limit: &str) -> DesiredPod {
    with_spec(&web(), |spec| {
        first(spec).resources = Some(ResourceRequirements {
            limits: [("memory".to_owned(), limit.to_owned())].into(),
            ..Default::default()
        });
    })
}

impl Node {
    fn memory_of(&self, id: &str) -> i64 {
        let config = self.runtime.config_of(id).unwrap();
        config.linux.unwrap().resources.unwrap().memory_limit_in_bytes
    }
}

#[tokio::test(start_paused = true)]
async fn other_limits_are_given_to_the_container_that_runs_once_and_by_a_later_kubelet_too() {
    let mut node = Node::start();
    node.want(&[&with_memory("64Mi")]);
    node.until_running(&["p/web#0"]).await;
    let id = node.runtime.running_ids("web").remove(0);
    assert_eq!(node.memory_of(&id), 64 << 20);

    node.want(&[&with_memory("96Mi")]);
    node.until("it has more", |node| node.memory_of(&id) == 96 << 20)
        .await;
    settle().await;
    assert_eq!(node.calls_of("UpdateContainerResources"), 1);

    node.stop_kubelet().await;
    node.want(&[&web()]);
    node.start_kubelet();
    node.until("it has no limit", |node| node.memory_of(&id) == -1)
        .await;
    settle().await;
    assert_eq!(node.calls_of("UpdateContainerResources"), 2);
    assert_eq!(node.runtime.running_ids("web"), [id], "it runs on");
}

#[tokio::test(start_paused = true)]
async fn limits_that_the_kernel_refuses_are_tried_again_and_nothing_restarts() {
    let node = Node::start();
    node.want(&[&with_memory("64Mi")]);
    node.until_running(&["p/web#0"]).await;
    let id = node.runtime.running_ids("web").remove(0);
    let busy = || failure("UpdateContainerResources", "device or resource busy");
    node.runtime.inject("UpdateContainerResources", busy());
    node.runtime.inject("UpdateContainerResources", busy());
    let asked = node.clock.now();
    node.want(&[&with_memory("1Mi")]);
    node.until("it has less", |node| node.memory_of(&id) == 1 << 20)
        .await;
    assert_eq!(node.calls_of("UpdateContainerResources"), 3);
    assert!(
        node.elapsed_since(asked) > Duration::from_secs(10),
        "it backs off"
    );
    assert_eq!(node.runtime.running_ids("web"), [id]);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_asks_for_it_is_started_anew() {
    let node = Node::start();
    let restarting = |limit| {
        with_spec(&with_memory(limit), |spec| {
            first(spec).resize_policy = vec![ContainerResizePolicy {
                resource_name: "memory".to_owned(),
                restart_policy: "RestartContainer".to_owned(),
            }];
        })
    };
    node.want(&[&restarting("64Mi")]);
    node.until_running(&["p/web#0"]).await;
    node.want(&[&restarting("96Mi")]);
    node.until_running(&["p/web#1"]).await;
    assert_eq!(node.calls_of("UpdateContainerResources"), 0);
}
